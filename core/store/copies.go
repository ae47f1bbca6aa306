package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"sync/atomic"
	"time"
)

// Staged is a body that is on disk and checked, but not an object yet: what a target holds of a write while
// the others that are to have a copy receive theirs. Commit or Discard ends it; whichever comes first counts.
type Staged struct {
	s    *Store
	info Info
	w    atomic.Pointer[writer] // nil: ended
}

// Stage takes in a body as Put does, and stops short of making it an object. What a process has staged is gone
// when it ends. Of an object that has an origin it may be durable only after Commit.
func (s *Store) Stage(ctx context.Context, bucket, name string, body io.Reader, o PutOptions) (*Staged, error) {
	return s.stage(ctx, bucket, name, body, o, func(*writer) {})
}

func (s *Store) stage(
	ctx context.Context, bucket, name string, body io.Reader, o PutOptions, as func(*writer),
) (*Staged, error) {
	if err := o.check(bucket, name); err != nil {
		return nil, err
	}
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	w, err := s.newWriter(bucket, name, o)
	if err != nil {
		return nil, err
	}
	as(w)
	err = w.write(ctx, body, o)
	if err == nil {
		err = w.sync()
	}
	if err != nil {
		err = fmt.Errorf("stage %s/%s: %w", bucket, name, w.giveUp(err))
		w.disk.done(w.id)
		return nil, err
	}
	return s.staged(w), nil
}

// sync makes what is staged durable: others count on it before it is committed. Nobody does on what has an origin; where it
// is large, waiting for the disk is better done now than in Commit.
func (w *writer) sync() error {
	if !w.info.hasOrigin() || w.info.Size > flushEvery {
		if err := w.file.Sync(); err != nil {
			return err
		}
	}
	atStaged.Hit()
	return nil
}

func (s *Store) staged(w *writer) *Staged {
	g := &Staged{s: s, info: w.info}
	g.w.Store(w)
	return g
}

// Info describes what was staged; it has no version yet.
func (g *Staged) Info() Info { return g.info }

// SetOrigin says under which tag the object's origin has what was staged, as is known once it has taken it. It comes
// before Commit, not beside it.
func (g *Staged) SetOrigin(tag string) {
	w := g.w.Load()
	if w == nil {
		return
	}
	meta := make(map[string]string, len(w.info.Meta)+1) // the old one may be shared
	maps.Copy(meta, w.info.Meta)
	meta[OriginTag] = tag
	w.info.Meta, g.info.Meta = meta, meta
}

// Commit makes it the object's newest version, as Put does: with the version and time of the write that it is a copy
// of, or with new ones where version is 0. ErrSuperseded where one as new or newer is there; but a stub, or what is left
// of a lost copy, gives way to a copy of the same version that holds more.
func (g *Staged) Commit(version uint64, created time.Time, c Condition) (Info, error) {
	return g.commit(version, created, c, func(*writer) {})
}

// Replace is Commit, where a copy of that very version may be there, whatever it holds, and gives way. damaged: it was
// found to be that, and its file is kept aside, as by Quarantine.
func (g *Staged) Replace(version uint64, created time.Time, damaged bool) (Info, error) {
	return g.commit(version, created, Condition{}, func(w *writer) { w.replaces, w.damaged = true, damaged })
}

func (g *Staged) commit(version uint64, created time.Time, c Condition, as func(*writer)) (Info, error) {
	w := g.w.Swap(nil)
	if w == nil {
		return Info{}, fmt.Errorf("put %s/%s: %w", g.info.Bucket, g.info.Name, ErrDiscarded)
	}
	defer w.disk.done(w.id)
	if err := g.s.enter(); err != nil {
		return Info{}, w.giveUp(err)
	}
	defer g.s.leave()
	as(w)
	w.given, w.info.Created = version, created.UTC().Round(0)
	err := w.finish(g.s)
	switch {
	case err != nil:
	case w.info.Kind == Slice:
		err = g.s.commitSlice(w)
	default:
		err = g.s.commit(w, c)
	}
	if err != nil {
		return Info{}, fmt.Errorf("put %s/%s: %w", w.info.Bucket, w.info.Name, w.giveUp(err))
	}
	w.settle(nil)
	return w.info, nil
}

// Discard removes what was staged. After Commit, or twice, it does nothing.
func (g *Staged) Discard() error {
	w := g.w.Swap(nil)
	if w == nil {
		return nil
	}
	defer w.disk.done(w.id)
	err := w.discard()
	w.settle(ErrDiscarded)
	return err
}

// State is the newest that the store knows of an object, a tombstone included; false where it knows nothing.
func (s *Store) State(bucket, name string) (Info, bool, error) {
	if err := checkNames(bucket, name); err != nil {
		return Info{}, false, err
	}
	if err := s.enter(); err != nil {
		return Info{}, false, err
	}
	defer s.leave()
	k := s.stripe(bucket, name)
	k.RLock()
	defer k.RUnlock()
	copies, err := s.copies(bucket, name)
	if err != nil || len(copies) == 0 {
		return Info{}, false, err
	}
	return copies[0].info, true, nil
}

// Bury deletes an object and remembers, until Drop, that it was deleted by a write of that version: an older copy
// that another node brings can't come to life again. ErrSuperseded where a version as new or newer is there.
func (s *Store) Bury(ctx context.Context, bucket, name string, version uint64) error {
	if err := s.enterFor(ctx, "delete", bucket, name); err != nil {
		return err
	}
	defer s.leave()
	k := s.stripe(bucket, name)
	k.Lock()
	gone, err := s.buryLocked(bucket, name, version, k)
	k.Unlock()
	s.unlink(gone)
	return err
}

func (s *Store) buryLocked(bucket, name string, version uint64, k *stripe) ([]copyOf, error) {
	copies, err := s.copies(bucket, name)
	if err != nil && !errors.Is(err, ErrDiskFailed) {
		return nil, err // a failed disk may hold an older copy, which the tombstone outlives
	}
	if len(copies) > 0 && copies[0].info.Version >= version {
		return nil, fmt.Errorf("object %s/%s, version %d: %w", bucket, name, version, ErrSuperseded)
	}
	var on *disk
	if len(copies) > 0 && copies[0].disk.cond.Load().state != DiskReadOnly {
		on = copies[0].disk
	} else if on, err = s.choose(bucket, name, 0, forMetadata); err != nil {
		return nil, fmt.Errorf("delete %s/%s: %w", bucket, name, err)
	}
	for _, c := range copies {
		c.disk.begin(c.file)
	}
	s.cache.drop(objectKey{bucket, name})
	grave := record{info: Info{Bucket: bucket, Name: name, Version: version, Kind: Tombstone, Created: s.o.Now().UTC().Round(0)}}
	key := metaKey(bucket, name)
	if err := on.setRecord(key, &grave); err != nil {
		for _, c := range copies {
			c.disk.done(c.file)
		}
		return nil, fmt.Errorf("delete %s/%s: %w", bucket, name, err)
	}
	atBuried.Hit()
	k.last = max(k.last, version)
	s.see(version)
	return s.dropReplaced(key, on, copies), nil
}

// Drop removes what the store has of an object, be it an object or a tombstone, where it is of exactly that version, and
// keeps no memory of it: the copy does not belong here, or the deletion is known everywhere. It is no error where
// something else is there.
func (s *Store) Drop(ctx context.Context, bucket, name string, version uint64) error {
	if err := s.enterFor(ctx, "drop", bucket, name); err != nil {
		return err
	}
	defer s.leave()
	return s.remove(bucket, name, func(copies []copyOf) ([]copyOf, error) {
		if len(copies) == 0 || copies[0].info.Version != version {
			return nil, nil
		}
		if copies[0].info.Kind == Tombstone && s.anyOut() {
			return nil, nil // the disk that is out may have what was deleted
		}
		return copies, nil
	})
}

// ListAll is List with tombstones.
func (s *Store) ListAll(bucket, prefix, startAfter string, limit int) (infos []Info, more bool, err error) {
	return s.listing(bucket, prefix, startAfter, limit, true)
}
