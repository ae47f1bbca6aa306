package target

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/membership"
	"github.com/shardstream/shardstream/core/store"
)

// mapPatience is how long a request waits for this node to see a map that another has seen already.
const mapPatience = 2 * time.Second

// fence keeps a target from deciding anything by a map that others have left behind.
type fence struct {
	told atomic.Int64 // the highest version of the map that another node went by
	mu   sync.Mutex   // held while told is changed
	at   time.Time    // when this was heard
}

// hear notes which version of the map another node goes by.
func (t *Target) hear(version int64) {
	f := &t.fence
	if version <= f.told.Load() {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if version > f.told.Load() {
		f.at = time.Now()
		f.told.Store(version)
	}
}

// refute forgets a version that this node was told of and that does not exist, as after a restore of the control plane,
// or since somebody made it up: the control plane was asked later, and this node has what was the newest then.
func (t *Target) refute() {
	f := &t.fence
	f.mu.Lock()
	defer f.mu.Unlock()
	if t.members.Proven(f.at) {
		f.told.Store(min(f.told.Load(), t.mapVersion()))
	}
}

// mapVersion is the version of the map that this node goes by, known the newest that it knows to exist.
func (t *Target) mapVersion() int64 { return t.members.View().Map().Version }
func (t *Target) known() int64      { return max(t.mapVersion(), t.fence.told.Load()) }

// caughtUp is the view once it is as new as any that this node was told of. Until then others may answer for what was
// its own.
func (t *Target) caughtUp(ctx context.Context) (*membership.View, error) {
	newest := func(v *membership.View) bool { return v.Map().Version >= t.fence.told.Load() }
	if view := t.members.View(); newest(view) {
		return view, nil
	}
	t.refute()
	ctx, cancel := context.WithTimeout(ctx, mapPatience)
	defer cancel()
	view, err := t.members.Until(ctx, newest)
	if err == nil {
		return view, nil
	}
	t.refute()
	if view := t.members.View(); newest(view) {
		return view, nil
	}
	return nil, t.behind(t.fence.told.Load())
}

// behind is the error of a node that does not come to know a version of the map.
func (t *Target) behind(told int64) error {
	return api.Errorf(http.StatusServiceUnavailable, api.CodeUnavailable,
		"%s goes by version %d of the cluster map and others by %d: it does not hear from the control plane", t.id, t.mapVersion(), told)
}

// leased makes sure that nobody takes this node for dead. A bucket with one copy of each object needs no such care:
// there is nobody who could take over.
func (t *Target) leased(b *api.Bucket) error {
	if b.Copies() <= 1 || t.members.Leased() {
		return nil
	}
	return api.Errorf(http.StatusServiceUnavailable, api.CodeUnavailable,
		"%s does not hear from the control plane: others may have taken over its objects of bucket %s", t.id, b.Name)
}

// fromPeer begins a request of another target about copies: it waits until this node knows the sender's map. The
// version is the sender's.
func (r *Request) fromPeer() (int64, error) {
	version, err := strconv.ParseInt(r.Header(api.HeaderMap), 10, 64)
	if err != nil || version <= 0 {
		return 0, api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "%s=%q is not the version of a map", api.HeaderMap, clip(r.Header(api.HeaderMap)))
	}
	r.Target.hear(version)
	view, err := r.Target.caughtUp(r.Context())
	if err == nil && view.Map().Version < version {
		err = r.Target.behind(version)
	}
	return version, err
}

// fromCurrentPeer is fromPeer for a request that is refused where the sender goes by an older map than this node knows of.
func (r *Request) fromCurrentPeer() (int64, error) {
	version, err := r.fromPeer()
	if err != nil {
		return 0, err
	}
	return version, r.Target.stale(version)
}

// stale refuses what a sender decided by a map that is older than one that this node knows of.
func (t *Target) stale(version int64) error {
	if known := t.known(); version < known {
		return api.Errorf(http.StatusConflict, api.CodeStaleMap, "version %d of the cluster map is older than %d", version, known)
	}
	return nil
}

// placed is how an object is placed by one view of the cluster.
type placed struct {
	bucket  membership.Bucket
	key     string
	placer  *api.Placer
	version int64 // of the map
	primary api.Node
}

// place finds out who answers for an object. It costs no request where the bucket is known here.
func (t *Target) place(ctx context.Context, bucket, key string) (placed, error) {
	view, err := t.caughtUp(ctx)
	if err != nil {
		return placed{}, err
	}
	b, ok := view.Bucket(bucket)
	if !ok || b.Deleting {
		if view, b, err = t.justMade(ctx, bucket); err != nil {
			return placed{}, err
		}
	}
	p := placed{bucket: b, key: key, placer: view.Placer, version: view.Map().Version}
	if p.primary, ok = view.Placer.Primary(bucket, key, b.Copies()); !ok {
		return p, api.Errorf(http.StatusServiceUnavailable, api.CodeUnavailable, "the cluster has no target that is up: start one")
	}
	return p, nil
}

// justMade finds a bucket that this node does not know yet, and waits for a view that has it: as long as there was no
// bucket, sets of targets followed each other without a trace, so an earlier view may place its objects wrongly.
func (t *Target) justMade(ctx context.Context, bucket string) (*membership.View, membership.Bucket, error) {
	b, err := t.members.FindBucket(ctx, bucket)
	if err != nil {
		return nil, b, err
	}
	ctx, cancel := context.WithTimeout(ctx, mapPatience)
	defer cancel()
	view, err := t.members.Wait(ctx, b.Identity)
	if err != nil {
		return nil, b, err
	}
	if b, ok := view.Bucket(bucket); ok && !b.Deleting {
		return view, b, nil
	}
	return nil, b, fmt.Errorf("bucket %s: %w", bucket, membership.ErrNoBucket)
}

// ended says that this node knows of the end of the bucket that an object is in; another of its name may be there. One
// that this node's view does not have may have been made a moment ago; if the view is as new as that, it is gone.
func (t *Target) ended(p *placed) bool {
	view := t.members.View()
	b, ok := view.Bucket(p.bucket.Name)
	if !ok {
		return view.Revision >= p.bucket.Identity
	}
	return b.Identity > p.bucket.Identity || b.Identity == p.bucket.Identity && b.Deleting
}

// passOn sends a client on to an object's primary.
func (r *Request) passOn(p *placed) error {
	if p.primary.State != api.StateOK {
		return away(p.primary)
	}
	r.redirect(p.primary, "")
	return nil
}

// settled says that all data is known to be where the map puts it.
func (p *placed) settled() bool { return p.placer.Layout().Settled() && len(p.bucket.Was) == 0 }

// about is the object's name among the keys of locks and of what is certain.
func (p *placed) about() string { return keyOf(p.bucket.Name, p.key) }

func keyOf(bucket, key string) string { return bucket + "/" + key }

// lockTimeout bounds the wait for an object's lock: whoever has it may wait for other nodes, but not for ever.
const lockTimeout = 45 * time.Second

// keyLocks serialise what changes an object here: writes at its primary, and copies that come from others. Holders may
// wait for other nodes meanwhile, so each key has a lock of its own.
type keyLocks struct {
	mu   sync.Mutex
	held map[string]*keyLock
}

type keyLock struct {
	free  chan struct{} // has an element while nobody holds it
	users int
}

// lock waits for a key's lock. unlock may be called more than once.
func (l *keyLocks) lock(ctx context.Context, bucket, key string) (unlock func(), err error) {
	about := keyOf(bucket, key)
	l.mu.Lock()
	if l.held == nil {
		l.held = map[string]*keyLock{}
	}
	k := l.held[about]
	if k == nil {
		k = &keyLock{free: make(chan struct{}, 1)}
		k.free <- struct{}{}
		l.held[about] = k
	}
	k.users++
	l.mu.Unlock()
	leave := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if k.users--; k.users == 0 {
			delete(l.held, about)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	select {
	case <-k.free:
		return sync.OnceFunc(func() { k.free <- struct{}{}; leave() }), nil
	case <-ctx.Done():
		leave()
		return nil, api.Errorf(http.StatusServiceUnavailable, api.CodeUnavailable,
			"%s is being written all the time, or by a write that waits for a node: %v", api.Address(bucket, key), context.Cause(ctx))
	}
}

// checkCondition evaluates the condition of a write against what there is: its ETag, where it exists.
func checkCondition(c store.Condition, about, etag string, exists bool) error {
	if c.IfMatch != "" && !(exists && matches(c.IfMatch, etag)) || c.IfNoneMatch != "" && exists && matches(c.IfNoneMatch, etag) {
		if !exists {
			return fmt.Errorf("%s does not exist: %w", about, store.ErrPrecondition)
		}
		return fmt.Errorf("%s has the ETag %s: %w", about, etag, store.ErrPrecondition)
	}
	return nil
}
