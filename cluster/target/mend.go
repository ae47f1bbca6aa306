package target

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/store"
)

// suspects are copies that turned out to be damaged while they were sent: the next read mends them first.
type suspects struct {
	count atomic.Int64 // so that a read that meets none takes no lock
	mu    sync.Mutex
	found map[string]uint64 // version by name
}

// maxSuspects bounds them; the damage of those above comes to light again.
const maxSuspects = 1 << 12

func (s *suspects) add(bucket, key string, version uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.found == nil {
		s.found = map[string]uint64{}
	}
	if len(s.found) < maxSuspects {
		s.found[keyOf(bucket, key)] = version
	}
	s.count.Store(int64(len(s.found)))
}

// take gives the version of a copy that is suspect; 0: none is.
func (s *suspects) take(bucket, key string) uint64 {
	if s.count.Load() == 0 {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	version := s.found[keyOf(bucket, key)]
	delete(s.found, keyOf(bucket, key))
	s.count.Store(int64(len(s.found)))
	return version
}

// open opens an object that this target is the primary of, once its copy is sound as far as it is known not to be.
func (t *Target) open(ctx context.Context, p placed) (*store.Object, error) {
	if version := t.suspects.take(p.bucket.Name, p.key); version != 0 {
		if err := t.mend(ctx, p, version); err != nil {
			t.log.WarnContext(ctx, "a damaged copy could not be mended", "object", api.Address(p.bucket.Name, p.key), "error", err)
		}
	}
	object, err := t.Open(ctx, p.bucket.Name, p.key)
	if err != nil && t.mended(ctx, p, err) {
		return t.Open(ctx, p.bucket.Name, p.key)
	}
	return object, err
}

// mended says whether damage that a read met has been mended, so that it may be tried again.
func (t *Target) mended(ctx context.Context, p placed, err error) bool {
	if err == nil {
		return false
	}
	var corrupt *store.CorruptError
	if !errors.As(err, &corrupt) && !errors.Is(err, store.ErrLost) {
		return false
	}
	if corrupt != nil {
		t.metrics.CorruptRead(corrupt.Disk)
	}
	own, unread := t.own(p.bucket.Name, p.key)
	if unread == nil {
		unread = t.mend(ctx, p, own.Version)
	}
	if unread != nil {
		t.log.WarnContext(ctx, "a damaged copy could not be mended", "object", api.Address(p.bucket.Name, p.key), "error", unread)
	}
	return unread == nil
}

// Mend replaces this node's damaged copy of a version of an object by a good one of another target.
func (t *Target) Mend(ctx context.Context, bucket, key string, version uint64) error {
	p, err := t.place(ctx, bucket, key)
	if err != nil {
		return err
	}
	return t.mend(ctx, p, version)
}

func (t *Target) mend(ctx context.Context, p placed, version uint64) error {
	unlock, err := t.locks.lock(ctx, p.bucket.Name, p.key)
	if err != nil {
		return err
	}
	defer unlock()
	own, err := t.own(p.bucket.Name, p.key)
	described := own.Kind == store.Stub && own.Origin != nil
	if err != nil || own.Version != version || own.Kind != store.Whole && own.Kind != store.Lost && !described {
		return err // it was replaced meanwhile
	}
	if own.Kind == store.Whole && t.sound(p.bucket.Name, p.key) {
		return nil // by somebody who was faster
	}
	if own.Elsewhere() { // made anew from its slices, or fetched from its origin, by the next who reads it
		t.cache.Replaced(p.bucket.Name, p.key)
		return t.store.Quarantine(ctx, p.bucket.Name, p.key, version)
	}
	if p.bucket.Copies() == 1 && p.settled() {
		return unavailable("there is one copy of it")
	}
	client := t.copies.With(p.version)
	r := &round{t: t, p: p, plan: p.plan(), client: client}
	r.ask(ctx)
	ctx, cancel := context.WithTimeout(ctx, giveTimeout+time.Duration(own.Size/slowBytes)*time.Second)
	defer cancel()
	staged, err := t.fetch(ctx, client, p.bucket.Name, p.key, version, r.holders(version))
	if err != nil {
		return err
	}
	if _, err = staged.Replace(version, staged.Info().Created, own.Kind == store.Whole); err != nil {
		return err
	}
	t.log.WarnContext(ctx, "a damaged copy was replaced by a good one", "object", api.Address(p.bucket.Name, p.key), "version", version)
	return nil
}

// sound reads and verifies all of this node's copy.
func (t *Target) sound(bucket, key string) bool {
	object, err := t.store.Open(bucket, key)
	if err != nil {
		return false
	}
	defer object.Close()
	return object.VerifyRange(0, object.Info().Size) == nil
}
