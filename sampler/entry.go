package sampler

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// An entry of a page is a shard told apart from the one before: how many bytes of its name are the
// same at the start, and then at the end; the length of what stands between, and that; and what its
// version and its sample count are more. Lengths are shortest uvarints, differences zigzag varints.
// Every restart-th entry is told apart from an empty one.
func appendEntry(b, before, name []byte, version, samples int64) []byte {
	head := 0
	for head < len(before) && head < len(name) && before[head] == name[head] {
		head++
	}
	tail := 0
	for most := min(len(before), len(name)) - head; tail < most && before[len(before)-1-tail] == name[len(name)-1-tail]; {
		tail++
	}
	middle := name[head : len(name)-tail]
	b = binary.AppendUvarint(b, uint64(head))
	b = binary.AppendUvarint(b, uint64(tail))
	b = binary.AppendUvarint(b, uint64(len(middle)))
	b = append(b, middle...)
	b = binary.AppendVarint(b, version)
	return binary.AppendVarint(b, samples)
}

// entryReader decodes entries one after the other.
type entryReader struct {
	rest    []byte
	name    []byte // valid until next
	version uint64
	samples int64
}

// reset forgets the entry before.
func (d *entryReader) reset() { d.name, d.version, d.samples = d.name[:0], 0, 0 }

// next decodes an entry. On data that was checked once, it can't fail.
func (d *entryReader) next() error {
	head, err := d.length()
	if err != nil {
		return err
	}
	tail, err := d.length()
	if err != nil {
		return err
	}
	middle, err := d.length()
	if err != nil {
		return err
	}
	switch before := len(d.name); {
	case head+tail > before:
		return fmt.Errorf("shares %d and %d bytes of a name of %d", head, tail, before)
	case middle > len(d.rest):
		return errCut
	case head+middle+tail == 0:
		return errors.New("has no name")
	case head+middle+tail > MaxName:
		return fmt.Errorf("a name of %d bytes, at most %d are possible", head+middle+tail, MaxName)
	default:
		d.splice(head, before-tail, d.rest[:middle])
		d.rest = d.rest[middle:]
	}
	version, err := d.difference()
	if err != nil {
		return err
	}
	samples, err := d.difference()
	if err != nil {
		return err
	}
	d.version += uint64(version)
	if samples < -d.samples || samples > MaxSamples-d.samples {
		return fmt.Errorf("sample count is not within 0 and %d", int64(MaxSamples))
	}
	d.samples += samples
	return nil
}

// splice puts middle in the place of name[from:to].
func (d *entryReader) splice(from, to int, middle []byte) {
	if len(middle) == to-from { // as numbered names have it
		copy(d.name[from:], middle)
		return
	}
	tail := len(d.name) - to
	for range len(middle) - (to - from) {
		d.name = append(d.name, 0)
	}
	copy(d.name[from+len(middle):], d.name[to:to+tail])
	copy(d.name[from:], middle)
	d.name = d.name[:from+len(middle)+tail]
}

// length reads a length, which no sound entry has beyond MaxName.
func (d *entryReader) length() (int, error) {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 || v > MaxName {
		return 0, errCut
	}
	d.rest = d.rest[n:]
	return int(v), nil
}

func (d *entryReader) difference() (int64, error) {
	v, n := binary.Varint(d.rest)
	if n <= 0 {
		return 0, errCut
	}
	d.rest = d.rest[n:]
	return v, nil
}

var errCut = errors.New("cut short, or a number beyond its bounds")
