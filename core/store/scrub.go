package store

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
)

// ScrubOptions say how Scrub goes about it.
type ScrubOptions struct {
	// Bucket is the one whose objects are read; "": all are.
	Bucket string
	// After is the Cursor of the last copy that an earlier Scrub visited; "": from the start.
	After string
	// Pace is asked before bytes are read, up to 1 MiB at once; a *rate.Limiter is one. nil: as fast as the disks are.
	Pace Pace
}

// Pace bounds a rate of bytes: WaitN returns when n more may be read, or an error when the context ends before.
type Pace interface {
	WaitN(ctx context.Context, n int) error
}

// Scrubbed is a copy that Scrub has read whole.
type Scrubbed struct {
	Info Info // of an object or a slice
	// Err is what is wrong with it, if something is: a *CorruptError where its bytes are not what was written; ErrLost
	// where it was put aside as damaged; anything else where it could not be read.
	Err    error
	Cursor string // for ScrubOptions.After
}

// pacer tells an error of the Pace from one of the disk.
type pacer struct {
	pace Pace
	err  error
}

func (p *pacer) WaitN(ctx context.Context, n int) error {
	p.err = p.pace.WaitN(ctx, n)
	return p.err
}

// scrubPage is the number of records that are read at once.
const scrubPage = 128

// Scrub reads all that the store has, objects and then slices, each in the order of their keys, and verifies every byte of
// it. It tells visit of each copy, damaged or not, and goes on until visit fails. What is put, deleted or replaced
// meanwhile is no fault. Without a disk that is out of use it reads what the others have, and says so by ErrDiskFailed in
// the end. It may run beside all other calls, and Close does not wait for it.
func (s *Store) Scrub(ctx context.Context, o ScrubOptions, visit func(Scrubbed) error) error {
	from, err := base64.RawURLEncoding.DecodeString(o.After)
	if err != nil {
		return fmt.Errorf("scrub: %q is not a cursor: %w", o.After, err)
	}
	var absent error
	for _, kind := range []byte{keyObject, keySlice} {
		lower, upper := []byte{kind}, []byte{kind + 1}
		if o.Bucket != "" {
			lower = nameKey(kind, o.Bucket, "", 0)
			upper = after(lower)
		}
		if string(from) >= string(lower) {
			lower = next(from)
		}
		err := s.scrubRange(ctx, lower, upper, o.Pace, visit)
		if err != nil && !butForDisks(err) {
			return fmt.Errorf("scrub: %w", err)
		}
		absent = cmp.Or(absent, err)
	}
	return absent
}

func (s *Store) scrubRange(ctx context.Context, lower, upper []byte, pace Pace, visit func(Scrubbed) error) error {
	for string(lower) < string(upper) {
		page, err := s.scrubPage(lower, upper)
		if err != nil && !butForDisks(err) {
			return err
		}
		for _, one := range page {
			if err := s.scrubOne(ctx, one, pace, visit); err != nil {
				return err
			}
		}
		if len(page) < scrubPage {
			return err
		}
		lower = next(page[len(page)-1].key)
	}
	return nil
}

// toScrub is the newest copy under a key.
type toScrub struct {
	key []byte
	found
}

// scrubPage reads the first records between two keys.
func (s *Store) scrubPage(lower, upper []byte) (out []toScrub, err error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	err = s.scan(lower, upper, func(key []byte, copies []found) error {
		one := toScrub{bytes.Clone(key), copies[0]}
		if one.err == nil {
			r := *one.record
			one.record = &r
		}
		if out = append(out, one); len(out) == scrubPage {
			return errStop
		}
		return nil
	})
	return out, err
}

func (s *Store) scrubOne(ctx context.Context, one toScrub, pace Pace, visit func(Scrubbed) error) error {
	cursor := base64.RawURLEncoding.EncodeToString(one.key)
	c := one.copyOf
	if one.err != nil {
		bucket, name, _ := bytes.Cut(one.key[1:], []byte{0})
		name, _, _ = bytes.Cut(name, []byte{0})
		return visit(Scrubbed{Info{Bucket: string(bucket), Name: string(name), Disk: c.disk.ID}, one.err, cursor})
	}
	if err := cancelled(ctx, "scrub"); err != nil || c.info.Kind == Tombstone {
		return err
	}
	if c.bare() {
		return visit(Scrubbed{c.info, nil, cursor})
	}
	var paced pacer
	if pace != nil {
		paced.pace = pace
		pace = &paced
	}
	err := s.verifyOpen(ctx, c, pace)
	if cause := cancelled(ctx, "scrub"); cause != nil || paced.err != nil {
		return cmp.Or(cause, paced.err)
	}
	if err != nil {
		if err := s.enter(); err != nil {
			return err
		}
		current := s.current(c)
		s.leave()
		if !current {
			return nil
		}
	} else if c.info.Kind == Lost {
		err = fmt.Errorf("object %s/%s on disk %s: %w", c.info.Bucket, c.info.Name, c.disk.ID, ErrLost)
	}
	return visit(Scrubbed{c.info, err, cursor})
}

// verifyOpen verifies a copy; the store may be closed while it does.
func (s *Store) verifyOpen(ctx context.Context, c copyOf, pace Pace) error {
	if err := s.enter(); err != nil {
		return err
	}
	h, err := openHandle(&c)
	s.leave()
	if err != nil {
		return err
	}
	return h.verify(ctx, pace)
}
