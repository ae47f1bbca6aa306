// Package cache keeps objects of buckets with backends on a target: what was fetched, what is known of what was not,
// and what is taken away again as room is needed.
//
// A target's store has of such an object one of: the whole with its backend's tag (cached, may be evicted), a stub with
// the tag (described, or evicted), the whole without a tag (the cluster's own: nobody else has it), or nothing. A stub and
// the whole that fills it have one version; another tag at the backend is another version, which replaces what is here
// in one commit. There is one fetch of an object at a time, which all who want it follow; what they read of it is its
// bytes as they come, and the end only when the whole has proved right and is committed.
//
// All of it is for objects that this target is the primary of. The target says so, and lets commits in, by Config.Enter.
package cache

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/backend"
	"github.com/shardstream/shardstream/core/store"
)

// Backends gives the backend of a bucket, shared by all who ask.
type Backends interface {
	Get(ctx context.Context, b *api.Bucket) (backend.Backend, error)
}

// Future says when streams need objects next: a larger order is later. Objects that no stream plans to use are not
// known. It must not call the cache.
type Future interface {
	NextUse(bucket, key string) (order float64, known bool)
}

// Config wires a cache. All fields but Logger are needed.
type Config struct {
	Store    *store.Store
	Backends Backends
	// Bucket finds a bucket that exists.
	Bucket func(name string) (*api.Bucket, bool)
	// Buckets names those that have backends.
	Buckets func() []string
	// Enter begins a change of an object, once it has the object's lock, if this node is its primary.
	Enter func(ctx context.Context, bucket, key string) (leave func(), err error)
	// Lock takes the object's lock alone, for what takes as long as a backend does. enter is Enter for who has it.
	Lock func(ctx context.Context, bucket, key string) (enter func() (leave func(), err error), unlock func(), err error)
	// Learn makes sure that this target knows what others had of an object that it has nothing of, after the set of targets
	// has changed.
	Learn func(ctx context.Context, bucket, key string) error
	// Version gives out a version.
	Version func() uint64
	// Share is this target's part of the cluster's weight, by which it has a part of a bucket's quota.
	Share func() float64
	// High is the part of a disk that may be in use before objects are evicted from it, until Low is.
	High, Low float64
	Logger    *slog.Logger
}

// Bounds of what goes on at a time. Fetches beyond them wait, those that somebody waits for ahead of the others.
const (
	maxFetches       = 64 // of the node
	maxBucketFetches = 48 // of one bucket, so that a slow backend leaves some to others
	maxBackground    = 16 // of those that nobody waits for
	maxBucketLate    = 12 // of these, of one bucket
	maxFills         = 256
	maxDescribes     = 32 // archives that are described at a time, of one call
	firstDescribes   = 8  // of these, to begin with
)

// Cache is what a target does for buckets with backends. Its methods may be called from any goroutine.
type Cache struct {
	Config
	usage usage
	seen  seen
	stats singleflight
	slots slots
	meter counts

	mu      sync.Mutex
	flights map[objectKey]*flight
	future  Future
	closed  bool
	ctx     context.Context //nolint:containedctx // of all fetches: it ends with Close
	cancel  context.CancelCauseFunc
	work    sync.WaitGroup
	fills   chan objectKey
}

type objectKey struct{ bucket, key string }

var errStopping = errors.New("this target is stopping")

// New makes a cache. Close it before the store.
func New(c Config) *Cache {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	k := &Cache{Config: c, flights: map[objectKey]*flight{}, fills: make(chan objectKey, maxFills)}
	k.ctx, k.cancel = context.WithCancelCause(context.Background())
	k.usage.store = c.Store
	return k
}

// SetFuture has eviction go by when streams need objects next.
func (c *Cache) SetFuture(f Future) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.future = f
}

// nextUse asks the future, if there is one.
func (c *Cache) nextUse(bucket, key string) (order float64, known bool) {
	c.mu.Lock()
	f := c.future
	c.mu.Unlock()
	if f == nil {
		return 0, false
	}
	return f.NextUse(bucket, key)
}

// stands says by an error that a bucket was deleted since it was found, be there another of its name or not.
func (c *Cache) stands(b *api.Bucket) error {
	if now, ok := c.Bucket(b.Name); ok && now.Backend != nil && now.Backend.URL == b.Backend.URL {
		return nil
	}
	return api.Errorf(http.StatusServiceUnavailable, api.CodeUnavailable, "bucket %s was deleted a moment ago; ask again", b.Name)
}

// Run keeps disks below their watermark, and fetches in the background what was read in part, until the context ends.
func (c *Cache) Run(ctx context.Context) error {
	var wait sync.WaitGroup
	for range maxBackground {
		wait.Go(func() { c.fill(ctx) })
	}
	defer wait.Wait()
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		c.watchDisks(ctx)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// Close gives up what is being fetched, and returns when all of it has ended. Nothing begins any more.
func (c *Cache) Close() {
	c.mu.Lock()
	c.closed = true
	c.cancel(errStopping)
	c.mu.Unlock()
	c.work.Wait()
}

// Touch notes that an object is in use.
func (c *Cache) Touch(info *store.Info) {
	if _, ok := tagOf(info); ok {
		c.usage.touch(info)
	}
}

// Fetches is how many fetches are under way or wait for their turn.
func (c *Cache) Fetches() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return int64(len(c.flights))
}

// Whole fetches an object if it is not here, compared with the backend as the bucket's policy says, and opens it. hit:
// it was here.
func (c *Cache) Whole(ctx context.Context, b *api.Bucket, key string) (object *store.Object, hit bool, err error) {
	var last error
	for range maxTries {
		info, err := c.peek(ctx, b, key)
		if err != nil {
			return nil, false, err
		}
		if info.Kind == store.Whole {
			if object, err = c.open(b.Name, key, info.Version); err == nil {
				c.meter.hit(info.Size)
				return object, true, nil
			}
		} else if isOwn(&info) {
			object, err = c.Store.Open(b.Name, key) // its error says what is wrong with it
			return object, true, err
		} else if info, err = c.fetch(ctx, b, key, want{urgent: true}); err == nil {
			if object, err = c.open(b.Name, key, info.Version); err == nil {
				c.meter.miss()
				return object, false, nil
			}
		}
		if !again(err) {
			return nil, false, c.noRoom(b, key, err)
		}
		last = err
	}
	return nil, false, gaveUp(b.Name, key, last)
}

// maxTries bounds how often a read begins anew as its object was replaced.
const maxTries = 4

// OpenVersion opens a version of an object, which a stream is about. Where only its description is here, it is fetched,
// and must be what was described. It is not compared with the backend otherwise.
func (c *Cache) OpenVersion(ctx context.Context, bucket, key string, version uint64) (*store.Object, error) {
	object, err := c.Store.Open(bucket, key)
	if err == nil {
		info := object.Info()
		c.Touch(&info)
		c.meter.hit(info.Size)
		return object, nil
	}
	if !errors.Is(err, store.ErrStub) && !errors.Is(err, store.ErrLost) {
		return nil, err
	}
	if err := c.Bring(ctx, bucket, key, version); err != nil {
		return nil, err
	}
	return c.open(bucket, key, version)
}

// Prefetch fetches an object if it is not here: the version that is described, or with 0 what the backend has now. The
// end of the context ends the waiting, not the fetch. ErrNoRoom where the object has no place beside what is needed
// sooner, pinned, or in use.
func (c *Cache) Prefetch(ctx context.Context, bucket, key string, version uint64) error {
	if version != 0 {
		return c.bring(ctx, bucket, key, version, want{fill: true, pinned: true})
	}
	b, ok := c.Bucket(bucket)
	if !ok || b.Backend == nil {
		return nil
	}
	var last error
	for range maxTries {
		info, err := c.peek(ctx, b, key)
		if err != nil || info.Kind == store.Whole || isOwn(&info) {
			return err
		}
		if _, last = c.fetch(ctx, b, key, want{fill: true}); !again(last) {
			return last
		}
	}
	return gaveUp(bucket, key, last)
}

// PrefetchSpare is Prefetch of a version to which nothing gives way: ErrNoRoom where there is none left.
func (c *Cache) PrefetchSpare(ctx context.Context, bucket, key string, version uint64) error {
	return c.bring(ctx, bucket, key, version, want{fill: true, pinned: true, spare: true})
}

// Bring makes sure that the bytes of a version are here, as somebody waits for them.
func (c *Cache) Bring(ctx context.Context, bucket, key string, version uint64) error {
	err := c.bring(ctx, bucket, key, version, want{urgent: true, pinned: true})
	if err == nil {
		c.meter.miss()
	}
	return err
}

// bring makes sure that the bytes of a version are here.
func (c *Cache) bring(ctx context.Context, bucket, key string, version uint64, w want) error {
	b, ok := c.Bucket(bucket)
	if !ok || b.Backend == nil {
		return store.ErrStub
	}
	var last error
	for range maxTries {
		info, err := c.Store.Stat(bucket, key)
		switch {
		case err != nil:
			return err
		case info.Version != version:
			return changed(bucket, key, version, info.Version)
		case info.Kind == store.Whole:
			return nil
		case isOwn(&info):
			return store.ErrLost // nobody else has it
		}
		got, err := c.fetch(ctx, b, key, w)
		if err == nil && got.Version != version {
			return changed(bucket, key, version, got.Version)
		}
		if !again(err) {
			if w.urgent {
				err = c.noRoom(b, key, err)
			}
			return err
		}
		last = err
	}
	return gaveUp(bucket, key, last)
}

// open opens an object that was fetched a moment ago.
func (c *Cache) open(bucket, key string, version uint64) (*store.Object, error) {
	object, err := c.Store.Open(bucket, key)
	switch {
	case errors.Is(err, store.ErrStub), errors.Is(err, store.ErrNotFound):
		return nil, errAgain // evicted, or dropped, meanwhile
	case err != nil:
		return nil, err
	}
	info := object.Info()
	if info.Version != version {
		return nil, errors.Join(errAgain, object.Close())
	}
	c.Touch(&info)
	return object, nil
}

// noRoom tells whoever has to have an object whole why it can't be.
func (c *Cache) noRoom(b *api.Bucket, key string, err error) error {
	if !errors.Is(err, ErrNoRoom) {
		return err
	}
	return api.Errorf(http.StatusInsufficientStorage, api.CodeNoSpace,
		"%s can't be kept, as that takes: %v; raise the bucket's quota (%d bytes in the cluster, 0: none), unpin objects, or add disks",
		api.Address(b.Name, key), err, b.Backend.Quota)
}
