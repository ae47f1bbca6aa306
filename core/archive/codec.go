package archive

import (
	"encoding/binary"
	"math"
)

// The stored form of an index: magic and version, then uvarints: number of members, bytes of all names;
// then each member: bytes of its name shared with the one before, bytes that follow and those bytes,
// zigzag distance from the end of the member before, size, and 8 bytes of checksum, which an index that is not
// Checked lacks. The grouping into samples follows from the names. Whoever stores it protects it with a checksum.
const (
	indexMagic       = "SSIX"
	indexVersion     = 1
	uncheckedVersion = 2 // the same without checksums
	minMember        = 4 // bytes of the shortest member, without its checksum
	sumSize          = 8
)

// MarshalBinary gives the index in its stored form.
func (x *Index) MarshalBinary() ([]byte, error) {
	out := make([]byte, 0, 32+16*x.NumMembers()+len(x.names)/4)
	out = append(out, indexMagic...)
	version := byte(indexVersion)
	if x.unchecked {
		version = uncheckedVersion
	}
	out = append(out, version)
	out = binary.AppendUvarint(out, uint64(x.NumMembers()))
	out = binary.AppendUvarint(out, uint64(len(x.names)))
	prev, end := "", int64(0)
	for m := range x.NumMembers() {
		name := x.name(m)
		shared := sharedPrefix(prev, name)
		out = binary.AppendUvarint(out, uint64(shared)) // a length
		out = binary.AppendUvarint(out, uint64(len(name)-shared))
		out = append(out, name[shared:]...)
		out = binary.AppendVarint(out, x.offsets[m]-end)
		out = binary.AppendUvarint(out, uint64(x.sizes[m])) // not negative
		if !x.unchecked {
			out = binary.LittleEndian.AppendUint64(out, x.sums[m])
		}
		prev, end = name, x.offsets[m]+x.sizes[m]
	}
	return out, nil
}

// UnmarshalIndex reads the stored form of an index and checks all of it; what MarshalBinary can't
// have written is a *FormatError. Memory is bounded by a multiple of len(data).
func UnmarshalIndex(data []byte) (*Index, error) {
	r := indexReader{data: data}
	if len(data) < len(indexMagic)+1 || string(data[:len(indexMagic)]) != indexMagic {
		return nil, &FormatError{Reason: "not a member index"}
	}
	version, shortest := data[len(indexMagic)], minMember
	switch version {
	case indexVersion:
		shortest += sumSize
	case uncheckedVersion:
	default:
		return nil, &FormatError{Reason: "member index of an unknown version: written by a newer release"}
	}
	r.at = len(indexMagic) + 1
	n, names := r.uvarint(), r.uvarint()
	if n > uint64(len(data)/shortest) || names > maxNames || names > maxName*n {
		return nil, &FormatError{Offset: int64(r.at), Reason: "member index is cut off"}
	}
	var b builder
	b.members.reserve(int(n), int(min(names, uint64(4*len(data))))) // both bounded
	b.keyLen = make([]uint16, 0, n)
	var name []byte
	var end int64
	for range n {
		begin := r.at
		shared, suffix := r.uvarint(), r.uvarint()
		if shared > uint64(len(name)) || suffix > maxName {
			r.bad = true
		}
		if r.bad {
			break
		}
		name = append(name[:shared], r.bytes(suffix)...)
		offset, size := end+r.varint(), int64(r.uvarint()) // checked below
		var sum uint64
		if version == indexVersion {
			sum = r.fixed()
		}
		if offset < 0 || size < 0 || offset > math.MaxInt64/4 || size > math.MaxInt64/4 || r.bad {
			r.bad = true
			break
		}
		if refused := b.add(name, offset, size); refused != "" {
			return nil, &FormatError{Offset: int64(begin), Reason: refused}
		}
		b.setSum(sum)
		end = offset + size
	}
	if r.bad || r.at != len(data) || uint64(len(b.members.names)+len(b.loose.names)) != names {
		return nil, &FormatError{Offset: int64(r.at), Reason: "member index is damaged"}
	}
	x := b.index()
	if version == uncheckedVersion {
		x.sums, x.unchecked = nil, true
	}
	return x, nil
}

func (c *columns) reserve(members, names int) {
	c.names = make([]byte, 0, names)
	c.ends = make([]uint32, 0, members)
	c.offsets = make([]int64, 0, members)
	c.sizes = make([]int64, 0, members)
	c.sums = make([]uint64, 0, members)
	c.table.rebuild(0, nil)
	if want := members * 8 / 3; want > len(c.table.slots) {
		size := len(c.table.slots)
		for size < want {
			size *= 2
		}
		c.table.slots = make([]uint32, size)
	}
}

func sharedPrefix(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// indexReader reads numbers and remembers whether one was not there.
type indexReader struct {
	data []byte
	at   int
	bad  bool
}

func (r *indexReader) uvarint() uint64 {
	v, n := binary.Uvarint(r.data[r.at:])
	if n <= 0 {
		r.bad = true
		return 0
	}
	r.at += n
	return v
}

func (r *indexReader) varint() int64 {
	v, n := binary.Varint(r.data[r.at:])
	if n <= 0 {
		r.bad = true
		return 0
	}
	r.at += n
	return v
}

func (r *indexReader) bytes(n uint64) []byte {
	if n > uint64(len(r.data)-r.at) {
		r.bad = true
		return nil
	}
	b := r.data[r.at : r.at+int(n)] // fits
	r.at += int(n)                  // fits
	return b
}

func (r *indexReader) fixed() uint64 {
	if b := r.bytes(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}
