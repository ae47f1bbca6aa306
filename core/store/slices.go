package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// SliceKey names a slice of one version of an erasure-coded object. Slices are no objects: they have keys of their
// own beside them, and neither listings nor versions of objects know of them.
type SliceKey struct {
	Bucket, Name string
	Version      uint64
	Slice        int
}

func (k SliceKey) String() string {
	return fmt.Sprintf("slice %d of %s/%s, version %d", k.Slice, k.Bucket, k.Name, k.Version)
}

func (k SliceKey) check() error {
	if err := checkNames(k.Bucket, k.Name); err != nil {
		return err
	}
	if k.Version == 0 || k.Slice < 0 || k.Slice > maxSlices {
		return fmt.Errorf("%s: there is no such slice", k)
	}
	return nil
}

// maxSlices bounds Data, Parity and Slice, each of which is one byte on disk.
const maxSlices = 255

// sliceOf names the slice that the copy is.
func sliceOf(i *Info) SliceKey {
	return SliceKey{Bucket: i.Bucket, Name: i.Name, Version: i.Version, Slice: i.Slice}
}

// StageSlice takes in a slice as Stage does a body. Its Info tells of the slice's own bytes; o.Data and o.Parity say
// what it is a slice of. Commit makes it the slice of that version, in place of one that may be there: the slices of
// a version are made of the same bytes, whoever makes them.
func (s *Store) StageSlice(ctx context.Context, bucket, name string, slice int, body io.Reader, o PutOptions) (*Staged, error) {
	if slice < 0 || slice > maxSlices {
		return nil, fmt.Errorf("object %s/%s: slice %d: there are at most %d", bucket, name, slice, maxSlices+1)
	}
	return s.stage(ctx, bucket, name, body, o, func(w *writer) { w.info.Kind, w.info.Slice = Slice, slice })
}

// PutSlice stages a slice and commits it.
func (s *Store) PutSlice(ctx context.Context, key SliceKey, body io.Reader, o PutOptions) (Info, error) {
	if err := key.check(); err != nil {
		return Info{}, err
	}
	staged, err := s.StageSlice(ctx, key.Bucket, key.Name, key.Slice, body, o)
	if err != nil {
		return Info{}, err
	}
	created := o.Created
	if created.IsZero() {
		created = s.o.Now()
	}
	return staged.Commit(key.Version, created, Condition{})
}

// commitSlice makes the file the slice of its version.
func (s *Store) commitSlice(w *writer) error {
	if w.given == 0 {
		return fmt.Errorf("%s: a slice is of a version that an object has", sliceOf(&w.info))
	}
	k := s.stripe(w.info.Bucket, w.info.Name)
	k.Lock()
	old, err := s.copiesAt(recordKey(&w.info))
	if err == nil || errors.Is(err, ErrDiskFailed) { // which may hold the same slice
		old, err = s.install(w, old)
	}
	k.Unlock()
	s.unlink(old)
	return err
}

// OpenSlice opens a slice for reading. ErrNotFound where it is not here.
func (s *Store) OpenSlice(key SliceKey) (*Object, error) {
	if err := key.check(); err != nil {
		return nil, err
	}
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	k := s.stripe(key.Bucket, key.Name)
	k.RLock()
	defer k.RUnlock()
	c, err := s.slice(key)
	if err != nil {
		return nil, err
	}
	h, err := openHandle(c)
	if err != nil {
		return nil, err
	}
	return &Object{h: h, cache: s.cache}, nil
}

// LocateSlice names the data file of a slice.
func (s *Store) LocateSlice(key SliceKey) (string, error) {
	if err := key.check(); err != nil {
		return "", err
	}
	if err := s.enter(); err != nil {
		return "", err
	}
	defer s.leave()
	k := s.stripe(key.Bucket, key.Name)
	k.RLock()
	defer k.RUnlock()
	c, err := s.slice(key)
	if err != nil {
		return "", err
	}
	return c.disk.path(c.file), nil
}

func (s *Store) slice(key SliceKey) (*copyOf, error) {
	copies, err := s.copiesAt(sliceKey(key))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	if len(copies) == 0 {
		return nil, fmt.Errorf("%s: %w", key, ErrNotFound)
	}
	return &copies[0], nil
}

// HaveSlices describes the slices of an object that are here, ordered by version and slice; of all its versions where
// version is 0.
func (s *Store) HaveSlices(bucket, name string, version uint64) ([]Info, error) {
	if err := checkNames(bucket, name); err != nil {
		return nil, err
	}
	lower := slicePrefix(bucket, name)
	if version != 0 {
		lower = binary.BigEndian.AppendUint64(lower, version)
	}
	infos, _, err := s.slicesIn(lower, after(lower), 0)
	return infos, err
}

// ListSlices describes the slices of a bucket's objects that are here, in the order of their keys: by name, version
// and slice. It begins behind start, whose Bucket is not looked at; more says whether others follow. limit is as in List.
func (s *Store) ListSlices(bucket string, start SliceKey, limit int) (infos []Info, more bool, err error) {
	if err := CheckBucket(bucket); err != nil {
		return nil, false, err
	}
	if limit <= 0 {
		limit = defaultPage
	}
	lower, upper := bucketSlices(bucket)
	if start.Name != "" {
		start.Bucket = bucket
		lower = next(sliceKey(start))
	}
	return s.slicesIn(lower, upper, limit)
}

// bucketSlices are the bounds of the keys of a bucket's slices.
func bucketSlices(bucket string) (lower, upper []byte) {
	lower = nameKey(keySlice, bucket, "", maxObjectName+11)
	return lower, after(lower)
}

// slicesIn describes the slices between two keys; all where limit is 0.
func (s *Store) slicesIn(lower, upper []byte, limit int) (infos []Info, more bool, err error) {
	if err := s.enter(); err != nil {
		return nil, false, err
	}
	defer s.leave()
	return s.page(lower, upper, limit, func(*Info) bool { return true })
}

// DropSlice removes a slice, for good. It is no error where it is not here.
func (s *Store) DropSlice(ctx context.Context, key SliceKey) error {
	return s.dropSlice(ctx, key, s.unlink)
}

func (s *Store) dropSlice(ctx context.Context, key SliceKey, dispose func([]copyOf)) error {
	if err := key.check(); err != nil {
		return err
	}
	if err := cancelled(ctx, "drop slice"); err != nil {
		return err
	}
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	k := s.stripe(key.Bucket, key.Name)
	k.Lock()
	gone, err := s.copiesAt(sliceKey(key))
	if err == nil {
		gone, err = removeRecords(sliceKey(key), gone)
	}
	k.Unlock()
	dispose(gone)
	if err != nil {
		return fmt.Errorf("drop %s: %w", key, err)
	}
	return nil
}
