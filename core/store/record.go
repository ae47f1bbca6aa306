package store

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/shardstream/shardstream/core/archive"
)

// fileID names a data file: random, so that nothing a user chose reaches the file system.
type fileID [16]byte

func (id fileID) String() string { return hex.EncodeToString(id[:]) }

// path is the data file's name below the disk's directory.
func (id fileID) path() string {
	s := id.String()
	return dataDir + "/" + s[:2] + "/" + s
}

func (id fileID) tmp() string { return tmpDir + "/" + id.String() }

func parseFileID(s string) (id fileID, ok bool) {
	if len(s) != 2*len(id) {
		return id, false
	}
	_, err := hex.Decode(id[:], []byte(s))
	return id, err == nil && id.String() == s
}

// record is what a disk's metadata holds of an object.
type record struct {
	file fileID
	seal uint64 // checksum of the file's footer: binds the metadata to that very file
	info Info
}

// Metadata keys of objects are "o", bucket, NUL, name: sorted by bucket, then name. Neither has a NUL. Those of slices
// are "s", bucket, NUL, name, NUL, version (big-endian), slice (one byte).
const (
	keyObject = 'o'
	keySlice  = 's'
)

func metaKey(bucket, name string) []byte { return nameKey(keyObject, bucket, name, 0) }

func nameKey(kind byte, bucket, name string, more int) []byte {
	key := make([]byte, 0, 2+len(bucket)+len(name)+more)
	key = append(append(key, kind), bucket...)
	return append(append(key, 0), name...)
}

// slicePrefix begins the keys of all slices of an object.
func slicePrefix(bucket, name string) []byte { return append(nameKey(keySlice, bucket, name, 10), 0) }

func sliceKey(k SliceKey) []byte {
	return append(binary.BigEndian.AppendUint64(slicePrefix(k.Bucket, k.Name), k.Version), byte(k.Slice)) // checked: small
}

// recordKey is where the metadata have a copy.
func recordKey(i *Info) []byte {
	if i.Kind == Slice {
		return sliceKey(sliceOf(i))
	}
	return metaKey(i.Bucket, i.Name)
}

var errRecord = errors.New("metadata record can't be read")

const recordVersion = 1

func (r *record) encode() []byte {
	out := append(make([]byte, 0, 256), recordVersion)
	out = append(out, r.file[:]...)
	out = binary.LittleEndian.AppendUint64(out, r.seal)
	return appendInfo(out, &r.info)
}

func decodeRecord(data []byte) (*record, error) {
	r := &record{}
	if err := r.decode(data); err != nil {
		return nil, err
	}
	return r, nil
}

// decode overwrites all of r but the disk. What it had before is used again where it is the same: neighbours in a
// listing share much.
func (r *record) decode(data []byte) error {
	d := decoder{rest: data}
	if v := d.take(1); len(v) == 0 || v[0] != recordVersion {
		return errRecord
	}
	copy(r.file[:], d.take(len(r.file)))
	r.seal = d.fixed()
	d.info(&r.info)
	if d.bad || len(d.rest) > 0 {
		return errRecord
	}
	return nil
}

// appendInfo encodes an Info, all but the disk, as it stands in metadata and in the object header.
func appendInfo(out []byte, i *Info) []byte {
	out = appendString(appendString(out, i.Bucket), i.Name)
	out = binary.AppendUvarint(out, i.Version)
	out = binary.AppendVarint(out, i.Size)
	out = binary.LittleEndian.AppendUint64(out, i.XXH3)
	out = binary.AppendUvarint(out, uint64(i.CRC32))
	out = binary.AppendVarint(out, i.Created.UnixNano())
	out = appendString(appendString(out, i.ContentType), string(i.Archive))
	for _, n := range []int64{i.Members, i.Samples, i.MaxSample} {
		out = binary.AppendVarint(out, n)
	}
	out = binary.AppendUvarint(out, uint64(len(i.Meta)))
	for _, k := range slices.Sorted(maps.Keys(i.Meta)) {
		out = appendString(appendString(out, k), i.Meta[k])
	}
	if i.Kind == Whole && i.Data|i.Parity|i.Slice == 0 {
		return out
	}
	return append(out, byte(i.Kind), byte(i.Data), byte(i.Parity), byte(i.Slice)) // all small
}

func appendString(out []byte, s string) []byte {
	return append(binary.AppendUvarint(out, uint64(len(s))), s...)
}

// decoder reads what appendInfo wrote and remembers whether something was not there.
type decoder struct {
	rest []byte
	bad  bool
}

func (d *decoder) info(i *Info) {
	i.Bucket, i.Name = d.again(i.Bucket), d.string()
	i.Version, i.Size = d.uvarint(), d.varint()
	i.XXH3, i.CRC32 = d.fixed(), uint32(d.uvarint()) // was one
	i.Created = time.Unix(0, d.varint()).UTC()
	i.ContentType, i.Archive = d.again(i.ContentType), archive.Format(d.again(string(i.Archive)))
	i.Members, i.Samples, i.MaxSample = d.varint(), d.varint(), d.varint()
	n := d.uvarint()
	if n > uint64(len(d.rest)) || i.Size < 0 {
		d.bad = true
	}
	if d.bad {
		return
	}
	i.Meta, i.Kind, i.Data, i.Parity, i.Slice = nil, Whole, 0, 0, 0
	if n > 0 {
		i.Meta = make(map[string]string, n)
	}
	for range n {
		k := d.string()
		i.Meta[k] = d.string()
	}
	if len(d.rest) == 0 || d.bad {
		return
	}
	if b := d.take(4); b != nil {
		i.Kind, i.Data, i.Parity, i.Slice = Kind(b[0]), int(b[1]), int(b[2]), int(b[3])
		d.bad = i.Kind > Lost
	}
}

func (d *decoder) take(n int) []byte {
	if d.bad || n > len(d.rest) {
		d.bad = true
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) fixed() uint64 {
	if b := d.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.bad = true
		return 0
	}
	d.take(n)
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.rest)
	if n <= 0 {
		d.bad = true
		return 0
	}
	d.take(n)
	return v
}

func (d *decoder) string() string { return string(d.bytes()) }

// again reads a string, and gives back the one that it is likely to be if it is that.
func (d *decoder) again(likely string) string {
	if b := d.bytes(); string(b) != likely {
		return string(b)
	}
	return likely
}

func (d *decoder) bytes() []byte {
	n := d.uvarint()
	if n > uint64(len(d.rest)) {
		d.bad = true
		return nil
	}
	return d.take(int(n)) // fits
}
