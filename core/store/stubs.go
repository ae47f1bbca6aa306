package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/shardstream/shardstream/core/archive"
)

// StageStub stages a stub: all that there is to know of an object without its bytes, which are in slices, or at its
// origin. index says where the members of an archive are that its origin has; nil where that is not known. An archive
// that was neither read nor indexed is described as an opaque object.
func (s *Store) StageStub(ctx context.Context, i Info, index *archive.Index) (*Staged, error) {
	if err := cancelled(ctx, "stage a stub"); err != nil {
		return nil, err
	}
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	w, err := s.newStubWriter(i, index)
	if err != nil {
		return nil, err
	}
	return s.staged(w), nil
}

// newStubWriter picks a disk for a stub and begins it. It has no version yet.
func (s *Store) newStubWriter(i Info, index *archive.Index) (*writer, error) {
	o := i.PutOptions()
	if err := o.check(i.Bucket, i.Name); err != nil {
		return nil, err
	}
	stored, err := i.checkStub(index)
	if err != nil {
		return nil, err
	}
	k, err := s.choose(i.Bucket, i.Name, 0, forMetadata)
	if err != nil {
		return nil, fmt.Errorf("put %s/%s: %w", i.Bucket, i.Name, err)
	}
	i.Version = 0
	w, err := k.newStub(i, Stub, stored)
	if err != nil {
		return nil, fmt.Errorf("stage %s/%s: %w", i.Bucket, i.Name, err)
	}
	return w, nil
}

// PutStub stages a stub and commits it, with the Info's version and time; a new version where it has none.
func (s *Store) PutStub(ctx context.Context, i Info, index *archive.Index, c Condition) (Info, error) {
	staged, err := s.StageStub(ctx, i, index)
	if err != nil {
		return Info{}, err
	}
	return staged.Commit(i.Version, i.Created, c)
}

// checkStub makes sure that a description may stand without its bytes, and that it agrees with the index, which it
// returns in its stored form.
func (i *Info) checkStub(index *archive.Index) (stored []byte, err error) {
	refuse := func(why string) ([]byte, error) { return nil, fmt.Errorf("object %s/%s: %s", i.Bucket, i.Name, why) }
	switch {
	case i.Data == 0 && !i.hasOrigin():
		return refuse("a stub of an object that has no slices, and no origin")
	case index != nil && (i.Archive == archive.None || !i.hasOrigin()):
		return refuse("only the stub of an archive that has an origin has a member index")
	case index == nil && i.Archive != archive.None && i.Unread():
		return refuse("an archive that was not read is described with its member index, or as an opaque object")
	case i.Size < 0:
		return refuse("a stub says how long the object is")
	}
	if i.Unread() {
		i.XXH3, i.CRC32 = 0, 0
	}
	if index == nil {
		return nil, nil
	}
	i.Members, i.Samples, i.MaxSample = int64(index.NumMembers()), int64(index.NumSamples()), index.MaxSample()
	return index.MarshalBinary()
}

// newStub begins a data file that has no payload. Its id is busy until it is done.
func (k *disk) newStub(i Info, kind Kind, index []byte) (*writer, error) {
	i.Kind, i.Slice, i.Disk = kind, 0, k.ID
	if index == nil && i.Unread() { // what was known of its members is gone
		i.Archive, i.Members, i.Samples, i.MaxSample = archive.None, 0, 0, 0
	}
	if index == nil && i.hasOrigin() {
		k.begin(noFile)
		return &writer{disk: k, given: i.Version, info: i, bare: true}, nil
	}
	w := &writer{disk: k, id: k.newFileID(), given: i.Version, info: i, index: index}
	if err := w.create(); err != nil {
		k.done(w.id)
		return nil, k.full(err)
	}
	return w, nil
}

// Evict makes the whole copy of an object a stub whose bytes are elsewhere too, in slices or at its origin, where it is of
// exactly that version. Readers that have it open keep it. ErrSole for any other copy, and no error where it is a stub, or
// another version is there.
func (s *Store) Evict(ctx context.Context, bucket, name string, version uint64) error {
	return s.demote(ctx, bucket, name, version, func(c *copyOf) (Kind, bool, error) {
		if c.info.Kind == Whole && c.info.Data == 0 && !c.info.hasOrigin() {
			return 0, false, fmt.Errorf("evict %s/%s: %w", bucket, name, ErrSole)
		}
		return Stub, c.info.Kind == Whole, nil
	}, s.unlink)
}

// Quarantine puts a copy aside that was found damaged, where the store's newest is of exactly that version: its data
// file goes to the disk's directory "quarantine", for a person to look at, where the oldest make room for new ones. Of
// an object whose bytes are elsewhere a stub remains, of any other a copy of kind Lost: that it exists is not forgotten. Put
// fills either with a good copy of the version. Readers that have it open keep it.
func (s *Store) Quarantine(ctx context.Context, bucket, name string, version uint64) error {
	return s.demote(ctx, bucket, name, version, func(c *copyOf) (Kind, bool, error) {
		if c.info.Data > 0 || c.info.hasOrigin() {
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
	if c.disk.cond.Load().state == DiskReadOnly {
		return fmt.Errorf("object %s/%s: disk %s is read-only: %w", bucket, name, c.disk.ID, ErrDiskFailed)
	}
	w, err := c.disk.newStub(c.info, kind, c.storedIndex())
	if err != nil {
		return fmt.Errorf("object %s/%s: %w", bucket, name, err)
	}
	defer c.disk.done(w.id)
	err = w.finish(s)
	if err == nil {
		err = s.exchange(w, &c, dispose)
	}
	if err != nil {
		return fmt.Errorf("object %s/%s: %w", bucket, name, errors.Join(c.disk.full(err), w.discard()))
	}
	return nil
}

// storedIndex is the member index of a copy that has an origin, where it can be read: it outlives the bytes.
func (c *copyOf) storedIndex() []byte {
	if c.info.Archive == archive.None || !c.info.hasOrigin() || c.bare() {
		return nil
	}
	h, err := openHandle(c)
	if err != nil {
		return nil
	}
	defer func() { _ = h.release() }() // only read
	index, err := h.footer.readIndex(h.file)
	if err != nil {
		return nil
	}
	return index
}

// exchange puts a file in the place of the one that it was made for, if that is still the newest copy.
func (s *Store) exchange(w *writer, of *copyOf, dispose func([]copyOf)) error {
	i := &w.info
	k := s.stripe(i.Bucket, i.Name)
	k.Lock()
	copies, err := s.copies(i.Bucket, i.Name)
	if err != nil || len(copies) == 0 || copies[0].file != of.file || copies[0].info.Version != of.info.Version {
		k.Unlock()
		return errors.Join(err, w.discard())
	}
	old, err := s.install(w, copies)
	k.Unlock()
	dispose(old)
	return err
}
