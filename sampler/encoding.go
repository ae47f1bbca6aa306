package sampler

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// The encoding of a snapshot: magic, format version, shard count, then per shard the length of its
// name, the name, its version and its sample count; all numbers as shortest uvarints. The SHA-256 of
// all that, which is the snapshot's id, follows. One snapshot has one encoding.
const (
	snapshotMagic  = "SSNP"
	snapshotFormat = 1
	minShardBytes  = 4 // one byte for each number and one for the name
)

// ErrSnapshot is wrapped by every error of UnmarshalSnapshot.
var ErrSnapshot = errors.New("sampler: not a sound snapshot")

// MarshalBinary encodes the snapshot; equal snapshots give equal bytes.
func (s *Snapshot) MarshalBinary() ([]byte, error) {
	b := make([]byte, 0, 64+len(s.shards)*48)
	b = appendHeader(b, len(s.shards))
	for _, sh := range s.shards {
		b = appendShard(b, sh)
	}
	return append(b, s.id[:]...), nil
}

// sum hashes the encoding without building it.
func (s *Snapshot) sum() [sha256.Size]byte {
	h := sha256.New()
	buf := appendHeader(make([]byte, 0, 1<<15), len(s.shards))
	for _, sh := range s.shards {
		if len(buf) >= 1<<14 {
			h.Write(buf)
			buf = buf[:0]
		}
		buf = appendShard(buf, sh)
	}
	h.Write(buf)
	return [sha256.Size]byte(h.Sum(nil))
}

func appendHeader(b []byte, shards int) []byte {
	b = append(b, snapshotMagic...)
	b = append(b, snapshotFormat)
	return binary.AppendUvarint(b, uint64(shards))
}

func appendShard(b []byte, sh Shard) []byte {
	b = binary.AppendUvarint(b, uint64(len(sh.Name)))
	b = append(b, sh.Name...)
	b = binary.AppendUvarint(b, sh.Version)
	return binary.AppendUvarint(b, uint64(sh.Samples))
}

// UnmarshalSnapshot decodes what MarshalBinary wrote, and nothing else: a damaged, cut, padded or
// differently encoded snapshot is refused. Memory is bounded by a small multiple of len(data), which
// it does not keep.
func UnmarshalSnapshot(data []byte) (*Snapshot, error) {
	if len(data) < len(snapshotMagic)+2+sha256.Size || string(data[:len(snapshotMagic)]) != snapshotMagic {
		return nil, fmt.Errorf("%w: no snapshot header in %d bytes", ErrSnapshot, len(data))
	}
	if f := data[len(snapshotMagic)]; f != snapshotFormat {
		return nil, fmt.Errorf("%w: format %d, this software reads format %d", ErrSnapshot, f, snapshotFormat)
	}
	body, sum := data[:len(data)-sha256.Size], data[len(data)-sha256.Size:]
	if got := sha256.Sum256(body); !bytes.Equal(got[:], sum) {
		return nil, fmt.Errorf("%w: checksum does not match", ErrSnapshot)
	}
	d := decoder{rest: string(body[len(snapshotMagic)+1:])}
	shards, err := d.shards()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSnapshot, err)
	}
	s, err := newSnapshot(shards)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSnapshot, err)
	}
	if !bytes.Equal(s.id[:], sum) {
		return nil, fmt.Errorf("%w: not in canonical form", ErrSnapshot)
	}
	return s, nil
}

// decoder reads from a string, so that all names share one allocation.
type decoder struct{ rest string }

func (d *decoder) shards() ([]Shard, error) {
	n, err := d.uvarint()
	if err != nil {
		return nil, fmt.Errorf("shard count: %w", err)
	}
	if n > uint64(len(d.rest)/minShardBytes) {
		return nil, fmt.Errorf("%d shards announced in %d bytes", n, len(d.rest))
	}
	shards := make([]Shard, n)
	for i := range shards {
		if err := d.shard(&shards[i]); err != nil {
			return nil, fmt.Errorf("shard %d of %d: %w", i, n, err)
		}
	}
	if d.rest != "" {
		return nil, fmt.Errorf("%d bytes after the last shard", len(d.rest))
	}
	return shards, nil
}

func (d *decoder) shard(sh *Shard) error {
	size, err := d.uvarint()
	if err != nil {
		return err
	}
	if size > uint64(len(d.rest)) {
		return errCut
	}
	sh.Name, d.rest = d.rest[:size], d.rest[size:]
	if sh.Version, err = d.uvarint(); err != nil {
		return err
	}
	samples, err := d.uvarint()
	if err != nil {
		return err
	}
	if samples > MaxSamples {
		return fmt.Errorf("%d samples, at most %d are possible", samples, int64(MaxSamples))
	}
	sh.Samples = int64(samples)
	return nil
}

var errCut = errors.New("cut short")

func (d *decoder) uvarint() (uint64, error) {
	var v uint64
	for i := 0; i < len(d.rest) && i < binary.MaxVarintLen64; i++ {
		c := d.rest[i]
		if i == binary.MaxVarintLen64-1 && c > 1 {
			return 0, errors.New("number beyond 64 bits")
		}
		v |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			d.rest = d.rest[i+1:]
			return v, nil
		}
	}
	return 0, errCut
}
