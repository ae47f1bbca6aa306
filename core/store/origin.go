package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/shardstream/shardstream/core/archive"
)

// Metadata by which a store tells what it has of an object whose bytes are kept elsewhere, at its origin, too.
const (
	// OriginTag is the tag that the origin's object has: a whole copy with it can be evicted and fetched again, and a
	// stub with it is a description of bytes that are not here.
	OriginTag = "shardstream-origin"
	// UnreadMark is of a stub that was made without reading the object: its checksums are not known, its members may be.
	UnreadMark = "shardstream-unread"
	// UnindexedMark says why an archive was kept as opaque bytes, see PutOptions.Lenient.
	UnindexedMark = "shardstream-unindexed"
)

// Origin is the tag under which the object is kept at its origin; false where it is kept nowhere but in the cluster.
func (i *Info) Origin() (tag string, ok bool) {
	tag, ok = i.Meta[OriginTag]
	return tag, ok
}

func (i *Info) hasOrigin() bool {
	_, ok := i.Origin()
	return ok
}

// Unread says that the object was described without being read: XXH3 and CRC32 are not known.
func (i *Info) Unread() bool { return i.hasOrigin() && i.Meta[UnreadMark] != "" }

// Describe tells what there is to know of an object, be it whole here or a stub, and of an archive where its members
// are. The index is nil for an opaque object, and where it is not known here.
func (s *Store) Describe(bucket, name string) (Info, *archive.Index, error) {
	if err := checkNames(bucket, name); err != nil {
		return Info{}, nil, err
	}
	if err := s.enter(); err != nil {
		return Info{}, nil, err
	}
	defer s.leave()
	if h := s.cache.get(objectKey{bucket, name}); h != nil {
		o := &Object{h: h, cache: s.cache}
		x, err := o.Index()
		return h.info, x, errors.Join(err, o.Close())
	}
	k := s.stripe(bucket, name)
	k.RLock()
	defer k.RUnlock()
	c, err := s.newest(bucket, name)
	if err != nil {
		return Info{}, nil, err
	}
	if c.bare() || c.info.Archive == archive.None {
		return c.info, nil, nil
	}
	h, err := openHandle(c)
	if err != nil {
		return Info{}, nil, err
	}
	defer func() { _ = h.release() }() // only read
	x, err := h.readIndex()
	return c.info, x, err
}

// readIndex reads the member index of a copy; nil where it has none.
func (h *handle) readIndex() (*archive.Index, error) {
	b, err := h.footer.readIndex(h.file)
	if err != nil {
		return nil, h.explain(err)
	}
	if len(b) == 0 {
		return nil, nil //nolint:nilnil // absence is an answer here
	}
	x, err := archive.UnmarshalIndex(b)
	if err != nil {
		return nil, h.explain(damaged(h.footer.indexAt(), "its member index: %v", err))
	}
	return x, nil
}

// Forget removes what the store has of an object that its origin has too, or had, where it is of exactly that version:
// the copy or the description. No tombstone remains: the next look at the origin begins anew. ErrSole where the object
// is nowhere else, and no error where something else is there.
func (s *Store) Forget(ctx context.Context, bucket, name string, version uint64) error {
	if err := s.enterFor(ctx, "forget", bucket, name); err != nil {
		return err
	}
	defer s.leave()
	k := s.stripe(bucket, name)
	k.Lock()
	gone, err := s.forgetLocked(bucket, name, version, k)
	k.Unlock()
	s.unlink(gone)
	return err
}

func (s *Store) forgetLocked(bucket, name string, version uint64, k *stripe) ([]copyOf, error) {
	copies, err := s.copies(bucket, name)
	if err != nil || len(copies) == 0 || copies[0].info.Version != version || copies[0].info.Kind == Tombstone {
		return nil, err
	}
	if !copies[0].info.hasOrigin() {
		return nil, fmt.Errorf("forget %s/%s: %w", bucket, name, ErrSole)
	}
	if s.mayReturn(copies) {
		return s.buryLocked(bucket, name, s.nextVersion(), k)
	}
	return s.removeLocked(bucket, name, k, func(copies []copyOf) ([]copyOf, error) { return copies, nil })
}

// agrees says by an error that two copies of one version are not of the same object. What one of them does not know,
// since it was made without reading the object, is not compared.
func (i *Info) agrees(present *Info) error {
	if !i.hasOrigin() && !present.hasOrigin() {
		return i.sameBytes(present)
	}
	differs := func(what string, got, want any) error {
		return fmt.Errorf("object %s/%s, version %d: %s %v, not %v: %w", i.Bucket, i.Name, i.Version, what, got, want, ErrDiffers)
	}
	tag, _ := i.Origin()
	if was, ok := present.Origin(); !ok || tag != was {
		return differs("tag", tag, was)
	}
	if i.Unread() || present.Unread() {
		if i.Size != present.Size {
			return differs("size", i.Size, present.Size)
		}
	} else if err := i.sameBytes(present); err != nil {
		return err
	}
	if present.Archive == archive.None && present.Unread() || i.Archive == archive.None && i.Unread() {
		return nil // one of them has not looked
	}
	got, want := []any{i.Archive, i.Members, i.Samples, i.MaxSample}, []any{present.Archive, present.Members, present.Samples, present.MaxSample}
	for n := range got {
		if got[n] != want[n] {
			return differs("format, members, samples, largest sample", got, want)
		}
	}
	return nil
}

func (i *Info) sameBytes(present *Info) error {
	if i.Size != present.Size || i.XXH3 != present.XXH3 {
		return &ChecksumError{Bucket: i.Bucket, Name: i.Name, Algorithm: "xxh3", Want: present.XXH3, Got: i.XXH3}
	}
	return nil
}

// tellsMore says that a stub knows what the present one does not: the checksums of an object that was not read, or its
// members.
func (i *Info) tellsMore(present *Info) bool {
	return i.Kind == Stub && present.Kind == Stub && present.Unread() &&
		(!i.Unread() || i.Archive != archive.None && present.Archive == archive.None)
}
