package store

import (
	"context"
	"errors"
	"fmt"
)

// StageStub stages a stub: all that there is to know of an erasure-coded object, without its bytes.
func (s *Store) StageStub(ctx context.Context, i Info) (*Staged, error) {
	o := i.PutOptions()
	if err := o.check(i.Bucket, i.Name); err != nil {
		return nil, err
	}
	if i.Data == 0 {
		return nil, fmt.Errorf("object %s/%s: a stub of an object that has no slices", i.Bucket, i.Name)
	}
	if err := cancelled(ctx, "stage a stub"); err != nil {
		return nil, err
	}
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	k, err := s.choose(i.Bucket, i.Name, 0, forMetadata)
	if err != nil {
		return nil, fmt.Errorf("put %s/%s: %w", i.Bucket, i.Name, err)
	}
	i.Version = 0
	w, err := k.newStub(i, Stub)
	if err != nil {
		return nil, fmt.Errorf("stage %s/%s: %w", i.Bucket, i.Name, err)
	}
	return s.staged(w), nil
}

// PutStub stages a stub and commits it, with the Info's version and time; a new version where it has none.
func (s *Store) PutStub(ctx context.Context, i Info, c Condition) (Info, error) {
	staged, err := s.StageStub(ctx, i)
	if err != nil {
		return Info{}, err
	}
	return staged.Commit(i.Version, i.Created, c)
}

// newStub begins a data file that has no payload. Its id is busy until it is done.
func (k *disk) newStub(i Info, kind Kind) (*writer, error) {
	i.Kind, i.Slice, i.Disk = kind, 0, k.ID
	w := &writer{disk: k, id: k.newFileID(), given: i.Version, info: i}
	if err := w.create(); err != nil {
		k.done(w.id)
		return nil, k.full(err)
	}
	return w, nil
}

// Evict makes the whole copy of an erasure-coded object a stub, where it is of exactly that version: what remains of the
// object are its slices. Readers that have it open keep it. ErrSole for any other copy, and no error where it is a
// stub, or another version is there.
func (s *Store) Evict(ctx context.Context, bucket, name string, version uint64) error {
	return s.demote(ctx, bucket, name, version, func(c *copyOf) (Kind, bool, error) {
		if c.info.Kind == Whole && c.info.Data == 0 {
			return 0, false, fmt.Errorf("evict %s/%s: %w", bucket, name, ErrSole)
		}
		return Stub, c.info.Kind == Whole, nil
	}, s.unlink)
}

// Quarantine puts a copy aside that was found damaged, where the store's newest is of exactly that version: its data
// file goes to the disk's directory "quarantine", for a person to look at, where the oldest make room for new ones. Of
// an erasure-coded object a stub remains, of any other a copy of kind Lost: that it exists is not forgotten. Put fills
// either with a good copy of the version. Readers that have it open keep it.
func (s *Store) Quarantine(ctx context.Context, bucket, name string, version uint64) error {
	return s.demote(ctx, bucket, name, version, func(c *copyOf) (Kind, bool, error) {
		if c.info.Data > 0 {
			return Stub, c.info.Kind == Whole || c.info.Kind == Stub, nil
		}
		return Lost, c.info.Kind == Whole, nil
	}, s.putAside)
}

// QuarantineSlice puts a damaged slice aside. Nothing of it remains in its place.
func (s *Store) QuarantineSlice(ctx context.Context, key SliceKey) error {
	return s.dropSlice(ctx, key, s.putAside)
}

// demote replaces a copy of exactly that version by one without payload, of the kind that to says, if it says so.
// The copy's file is given to dispose.
func (s *Store) demote(
	ctx context.Context, bucket, name string, version uint64,
	to func(*copyOf) (kind Kind, ok bool, err error), dispose func([]copyOf),
) error {
	if err := s.enterFor(ctx, "demote a copy", bucket, name); err != nil {
		return err
	}
	defer s.leave()
	stripe := s.stripe(bucket, name)
	stripe.RLock()
	copies, err := s.copies(bucket, name)
	stripe.RUnlock()
	if err != nil || len(copies) == 0 || copies[0].info.Version != version || copies[0].info.Kind == Tombstone {
		return err
	}
	c := copies[0]
	kind, ok, err := to(&c)
	if err != nil || !ok {
		return err
	}
	w, err := c.disk.newStub(c.info, kind)
	if err != nil {
		return fmt.Errorf("object %s/%s: %w", bucket, name, err)
	}
	defer c.disk.done(w.id)
	err = w.finish(s)
	if err == nil {
		err = s.exchange(w, c.file, dispose)
	}
	if err != nil {
		return fmt.Errorf("object %s/%s: %w", bucket, name, errors.Join(c.disk.full(err), w.discard()))
	}
	return nil
}

// exchange puts a file in the place of the one that it was made for, if that is still the newest copy.
func (s *Store) exchange(w *writer, of fileID, dispose func([]copyOf)) error {
	i := &w.info
	k := s.stripe(i.Bucket, i.Name)
	k.Lock()
	copies, err := s.copies(i.Bucket, i.Name)
	if err != nil || len(copies) == 0 || copies[0].file != of {
		k.Unlock()
		return errors.Join(err, w.discard())
	}
	old, err := s.install(w, copies)
	k.Unlock()
	dispose(old)
	return err
}
