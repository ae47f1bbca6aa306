package cache

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/archive"
	"github.com/shardstream/shardstream/core/backend"
	"github.com/shardstream/shardstream/core/store"
)

// maxSeen bounds the objects of which a target remembers how its backend described them last.
const maxSeen = 1 << 17

// seen remembers what backends said last, and which versions were given to what is not described in the store: HEAD
// writes nothing, and a GET that follows shall find the same version.
type seen struct {
	mu   sync.Mutex
	last map[objectKey]sight
}

// sight is what a backend said of an object.
type sight struct {
	entry   backend.Entry
	tag     string
	version uint64
	at      time.Time
}

func (s *seen) get(key objectKey) (sight, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	one, ok := s.last[key]
	return one, ok
}

// put remembers what a backend says now. Its version is that of the tag: what is here has it, or it was given out
// before, or a new one is. What was said to a later question counts: what is returned may have another tag then.
func (s *seen) put(key objectKey, e backend.Entry, here *store.Info, version func() uint64, at time.Time) sight {
	s.mu.Lock()
	defer s.mu.Unlock()
	one := sight{entry: e, tag: originOf(&e), at: at}
	before, known := s.last[key]
	if known && before.tag != one.tag && before.at.After(at) {
		return before
	}
	tag, tagged := tagOf(here)
	switch {
	case tagged && tag == one.tag && here.Kind != store.Tombstone:
		one.version = here.Version
	case known && before.tag == one.tag && before.version > here.Version:
		one.version = before.version
	default:
		one.version = version()
	}
	if s.last == nil {
		s.last = map[objectKey]sight{}
	}
	if !known && len(s.last) >= maxSeen {
		for other := range s.last { // any: a check more than was due does no harm
			if delete(s.last, other); len(s.last) < maxSeen-maxSeen/64 {
				break
			}
		}
	}
	s.last[key] = one
	return one
}

func (s *seen) drop(key objectKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.last, key)
}

// dropBucket forgets what was said of a bucket's objects.
func (s *seen) dropBucket(bucket string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for about := range s.last {
		if about.bucket == bucket {
			delete(s.last, about)
		}
	}
}

// described is an object as its backend has it, of which nothing is here.
func (s *sight) described(bucket, key string) store.Info {
	created := s.entry.Modified
	if created.IsZero() {
		created = s.at
	}
	return store.Info{
		Bucket: bucket, Name: key, Version: s.version, Size: s.entry.Size, ContentType: s.entry.ContentType,
		Created: created.UTC().Round(0), Kind: store.Stub, Archive: archive.None,
		Meta: map[string]string{store.OriginTag: s.tag, store.UnreadMark: "1"},
	}
}

// Stat describes an object, compared with its backend as the bucket's policy says. Its Kind is Whole where its bytes are
// here, Stub where they are not.
func (c *Cache) Stat(ctx context.Context, b *api.Bucket, key string) (store.Info, error) {
	return c.look(ctx, b, key, false)
}

// peek is look for who asks the backend for the object next, where its bytes are not here: that tells the same.
func (c *Cache) peek(ctx context.Context, b *api.Bucket, key string) (store.Info, error) {
	here, err := c.known(ctx, b, key)
	if err == nil && here.Kind == store.Whole && !isOwn(&here) {
		return c.look(ctx, b, key, false)
	}
	return here, err
}

// look is Stat. now: it is compared whatever the policy says.
func (c *Cache) look(ctx context.Context, b *api.Bucket, key string, now bool) (store.Info, error) {
	here, err := c.known(ctx, b, key)
	if err != nil {
		return here, err
	}
	about := objectKey{b.Name, key}
	if isOwn(&here) {
		return here, nil
	}
	last, known := c.seen.get(about)
	_, tagged := tagOf(&here)
	switch fresh := known && fresh(b.Backend, last.at); {
	case now:
	case b.Backend.Check == api.CheckNever && tagged:
		return here, nil
	case b.Backend.Check == api.CheckNever && known, fresh:
		return merge(&here, &last, b.Name, key), nil
	}
	info, err := c.compared(ctx, b, key)
	if gone(err) {
		return here, c.forget(ctx, b, key, &here, err)
	}
	return info, err
}

// compared describes an object as its backend has it now, or the cluster's own. It writes nothing.
func (c *Cache) compared(ctx context.Context, b *api.Bucket, key string) (store.Info, error) {
	last, err := c.compare(ctx, b, key)
	if err != nil {
		return store.Info{}, err
	}
	here, err := c.here(b.Name, key) // it may have come meanwhile
	if err != nil || isOwn(&here) {
		return here, err
	}
	return merge(&here, &last, b.Name, key), nil
}

// fresh says that a comparison need not be made again yet.
func fresh(b *api.Backend, at time.Time) bool {
	if b.Check == api.CheckAlways {
		return false
	}
	ttl := time.Duration(b.TTLS * float64(time.Second))
	if ttl <= 0 {
		ttl = api.DefaultTTL
	}
	return b.Check == api.CheckNever || time.Since(at) < ttl
}

// merge is what is here where it is what the backend has, else what the backend has.
func merge(here *store.Info, last *sight, bucket, key string) store.Info {
	if tag, tagged := tagOf(here); tagged && tag == last.tag {
		return *here
	}
	return last.described(bucket, key)
}

// here is what the store has of an object; the zero Info where it has nothing.
func (c *Cache) here(bucket, key string) (store.Info, error) {
	info, ok, err := c.Store.State(bucket, key)
	if err != nil {
		return store.Info{}, err
	}
	if !ok {
		return store.Info{Kind: store.Tombstone}, nil
	}
	return info, nil
}

// known is here, once it is known what others had of it. That matters where nothing is here, and where what is here may
// have been replaced at another target while that was the object's primary, which the backend would not tell.
func (c *Cache) known(ctx context.Context, b *api.Bucket, key string) (store.Info, error) {
	info, err := c.here(b.Name, key)
	if err != nil {
		return info, err
	}
	told := !b.MayOwn() && (b.Backend.Write == api.WriteReadOnly || b.Backend.Check != api.CheckNever)
	if info.Kind != store.Tombstone && told {
		return info, nil
	}
	if err := c.Learn(ctx, b.Name, key); err != nil {
		return info, err
	}
	return c.here(b.Name, key)
}

// compare asks the backend for an object, once for all who ask at a time.
func (c *Cache) compare(ctx context.Context, b *api.Bucket, key string) (sight, error) {
	if err := c.ahead(ctx, b); err != nil {
		return sight{}, err
	}
	about := objectKey{b.Name, key}
	one, err := c.stats.do(ctx, c.ctx, about, func(ctx context.Context) (sight, error) {
		remote, err := c.Backends.Get(ctx, b)
		if err != nil {
			return sight{}, err
		}
		asked := time.Now()
		entry, err := remote.Stat(ctx, key)
		if err != nil {
			return sight{}, err
		}
		if err := c.stands(b); err != nil {
			return sight{}, err
		}
		return c.saw(b.Name, key, entry, asked)
	})
	if gone(err) {
		c.seen.drop(about)
	}
	return one, err
}

// saw remembers what a backend said of an object.
func (c *Cache) saw(bucket, key string, entry backend.Entry, at time.Time) (sight, error) {
	here, err := c.here(bucket, key)
	if err != nil {
		return sight{}, err
	}
	return c.seen.put(objectKey{bucket, key}, entry, &here, c.Version, at), nil
}

// forget drops what is here of an object that its backend does not have any more.
func (c *Cache) forget(ctx context.Context, b *api.Bucket, key string, here *store.Info, gone error) error {
	absent := errors.Join(fmt.Errorf("%s: %w", api.Address(b.Name, key), store.ErrNotFound), gone)
	c.seen.drop(objectKey{b.Name, key})
	if here.Kind == store.Tombstone {
		return absent
	}
	leave, err := c.Enter(ctx, b.Name, key)
	if err != nil {
		return err
	}
	defer leave()
	if err := c.Store.Forget(ctx, b.Name, key, here.Version); err != nil && !errors.Is(err, store.ErrSole) {
		return err
	}
	c.usage.remove(b.Name, key)
	return absent
}

// singleflight lets one question be asked for all who want its answer at a time.
type singleflight struct {
	mu    sync.Mutex
	calls map[objectKey]*call
}

type call struct {
	done     chan struct{}
	answer   sight
	err      error
	outdated bool // what is asked for has changed meanwhile
}

// statTimeout bounds a question to a backend, which repeats it by itself.
const statTimeout = 2 * time.Minute

func (s *singleflight) do(ctx, life context.Context, key objectKey, ask func(context.Context) (sight, error)) (sight, error) {
	s.mu.Lock()
	one, running := s.calls[key]
	if !running {
		one = &call{done: make(chan struct{})}
		if s.calls == nil {
			s.calls = map[objectKey]*call{}
		}
		s.calls[key] = one
		go func() { // outlives who asked first, not the cache; ends in statTimeout
			ctx, cancel := context.WithTimeout(life, statTimeout)
			defer cancel()
			for again := true; again; {
				one.answer, one.err = ask(ctx)
				s.mu.Lock()
				if again = one.outdated && ctx.Err() == nil; !again {
					delete(s.calls, key)
				}
				one.outdated = false
				s.mu.Unlock()
			}
			close(one.done)
		}()
	}
	s.mu.Unlock()
	select {
	case <-one.done:
		return one.answer, one.err
	case <-ctx.Done():
		return sight{}, context.Cause(ctx)
	}
}

// outdate has a question that is under way be asked again, as its answer may be of what was before.
func (s *singleflight) outdate(key objectKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if one := s.calls[key]; one != nil {
		one.outdated = true
	}
}
