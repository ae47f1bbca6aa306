package store

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"
)

// errStop ends a scan early, without an error.
var errStop = errors.New("stop")

// found is what a scan finds under one key on one disk. err: its record can't be read.
type found struct {
	copyOf
	err error
}

// absentError says which disks a scan had to do without. It was complete but for them.
type absentError struct{ err error }

func (e *absentError) Error() string { return e.err.Error() }
func (e *absentError) Unwrap() error { return e.err }

// butForDisks says whether a scan visited all there is on the disks that are in use, though others are not.
func butForDisks(err error) bool {
	var absent *absentError
	return errors.As(err, &absent)
}

// cursor is where a scan is on one disk.
type cursor struct {
	disk   *disk
	it     *pebble.Iterator
	record record // used again from key to key
}

// take reads the record under the cursor and moves on.
func (c *cursor) take() found {
	f := found{copyOf: copyOf{&c.record, c.disk}}
	if f.err = c.record.decode(c.it.Value()); f.err != nil {
		f.record = nil
	}
	c.record.info.Disk = c.disk.ID
	c.it.Next()
	return f
}

// scan visits the metadata of all disks in the order of keys, from lower up to upper: at each key all
// copies, newest first, unreadable ones last. What it passes to visit is valid during the call. Where a disk is out of
// use it visits what the others have, and then says so by an *absentError.
func (s *Store) scan(lower, upper []byte, visit func(key []byte, copies []found) error) (err error) {
	var cursors []*cursor
	defer func() {
		for _, c := range cursors {
			err = errors.Join(err, c.it.Close())
			c.disk.leave()
		}
	}()
	var absent error
	for _, k := range s.all() {
		if err := k.use(); err != nil {
			absent = cmp.Or(absent, err)
			continue
		}
		it, err := k.meta.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
		if err != nil {
			k.leave()
			return fmt.Errorf("disk %s: metadata: %w", k.ID, err)
		}
		cursors = append(cursors, &cursor{disk: k, it: it})
		it.First()
	}
	var key []byte
	var copies []found
	for {
		for _, c := range cursors {
			if c.disk.isOut() {
				return c.disk.outError()
			}
		}
		first := least(cursors)
		if first < 0 {
			break
		}
		key, copies = append(key[:0], cursors[first].it.Key()...), append(copies[:0], cursors[first].take())
		for _, c := range cursors[first+1:] {
			if c.it.Valid() && bytes.Equal(c.it.Key(), key) {
				copies = append(copies, c.take())
			}
		}
		if len(copies) > 1 {
			slices.SortStableFunc(copies, func(a, b found) int { return compareCopies(a.copyOf, b.copyOf) })
		}
		if err := visit(key, copies); err != nil {
			if !errors.Is(err, errStop) {
				return err
			}
			break
		}
	}
	for _, c := range cursors { // an iterator that fails looks as if it had come to its end
		if err := c.it.Error(); err != nil {
			return fmt.Errorf("disk %s: metadata: %w", c.disk.ID, err)
		}
	}
	if absent != nil {
		return &absentError{absent}
	}
	return nil
}

// least is the first of the cursors that are at the lowest key; -1: all are at their end.
func least(cursors []*cursor) int {
	first := -1
	for i, c := range cursors {
		if c.it.Valid() && (first < 0 || bytes.Compare(c.it.Key(), cursors[first].it.Key()) < 0) {
			first = i
		}
	}
	return first
}

func compareCopies(a, b copyOf) int {
	if a.record == nil || b.record == nil {
		return cmp.Compare(boolInt(a.record == nil), boolInt(b.record == nil))
	}
	return cmp.Or(cmp.Compare(b.info.Version, a.info.Version), cmp.Compare(b.info.Kind.holds(), a.info.Kind.holds()))
}

// holds ranks copies of one version by what they hold. A tombstone is the last word of its version.
func (k Kind) holds() int {
	switch k {
	case Tombstone:
		return 3
	case Whole, Slice:
		return 2
	case Stub:
		return 1
	default:
		return 0
	}
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

func sortCopies(c []copyOf) { slices.SortStableFunc(c, compareCopies) }

// allSlices are the bounds of all slices' keys.
func allSlices() (lower, upper []byte) { return []byte{keySlice}, []byte{keySlice + 1} }

// allObjects are the bounds of all object keys.
func allObjects() (lower, upper []byte) { return []byte{keyObject}, []byte{keyObject + 1} }

// next is the least key above one.
func next(key []byte) []byte { return append(bytes.Clone(key), 0) }

// after is the least key above all that begin with prefix.
func after(prefix []byte) []byte {
	out := bytes.Clone(prefix)
	for i := len(out) - 1; i >= 0; i-- {
		if out[i]++; out[i] != 0 {
			return out[:i+1]
		}
	}
	return nil // no bound: prefix was all 0xff, which no key is
}
