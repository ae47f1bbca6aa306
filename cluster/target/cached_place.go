package target

import (
	"context"
	"errors"
	"io"
	"net/http"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/store"
)

// enterCached begins a change of an object of a bucket with a backend.
func (t *Target) enterCached(ctx context.Context, bucket, key string) (leave func(), err error) {
	p, err := t.placeCached(ctx, bucket, key)
	if err != nil {
		return nil, err
	}
	return t.enterAlone(ctx, &p)
}

// lockCached takes the lock of an object of a bucket with a backend. enter begins a change of it then: commits are few and
// short, as a change of the set of targets waits for them.
func (t *Target) lockCached(ctx context.Context, bucket, key string) (enter func() (leave func(), err error), unlock func(), err error) {
	p, err := t.placeCached(ctx, bucket, key)
	if err != nil {
		return nil, nil, err
	}
	if unlock, err = t.locks.lock(ctx, bucket, key); err != nil {
		return nil, nil, err
	}
	return func() (func(), error) { return t.enter(ctx, &p) }, unlock, nil
}

func (t *Target) placeCached(ctx context.Context, bucket, key string) (placed, error) {
	p, err := t.place(ctx, bucket, key)
	switch {
	case err != nil:
		return p, err
	case p.primary.ID != t.id:
		return p, unavailable("%s is %s's by now", api.Address(bucket, key), p.primary.ID)
	case p.bucket.Backend == nil:
		return p, unavailable("bucket %s has no backend any more", bucket)
	}
	return p, t.leased(&p.bucket.Bucket)
}

// share is this target's part of the weight of all.
func (t *Target) share() float64 {
	var own, all float64
	for _, n := range t.Placer().Map.Targets() {
		w := n.Weight
		if w == 0 {
			w = 1
		}
		if all += w; n.ID == t.id {
			own = w
		}
	}
	if all == 0 {
		return 1
	}
	return own / all
}

// learn makes sure that this target, which is the primary of an object, knows what others had of it before the set of targets
// changed: its version, which streams go by, and the object itself if it is the cluster's own. What can't be known is no
// error where nothing can be the cluster's own: the backend tells all else.
func (t *Target) learn(ctx context.Context, bucket, key string) error {
	p, err := t.place(ctx, bucket, key)
	if err != nil || p.primary.ID != t.id || t.isCertain(&p) {
		return err
	}
	unlock, err := t.locks.lock(ctx, bucket, key)
	if err != nil {
		return err
	}
	defer unlock()
	f, err := t.newestLocked(ctx, p)
	if err == nil && !f.here && f.newest.Exists() {
		err = t.takeDescription(ctx, p, f)
	}
	if err != nil && p.bucket.Backend != nil && !p.bucket.MayOwn() {
		t.log.InfoContext(ctx, "what others had of an object is not known; it is as its backend has it", "object", api.Address(bucket, key), "reason", err)
		return nil
	}
	return err
}

// takeDescription gets what another target has of an object here: its description where a backend has the bytes, too.
func (t *Target) takeDescription(ctx context.Context, p placed, f finding) error {
	failed := error(unavailable("nobody has %s at the moment", p.about()))
	for _, holder := range f.holders {
		info, body, err := t.copies.With(p.version).Fetch(ctx, holder, p.bucket.Name, p.key, f.newest.Version)
		if err != nil {
			failed = err
			continue
		}
		content := io.Reader(body)
		if _, cached := info.Origin(); cached && info.Kind == store.Whole {
			info.Kind, content = store.Stub, http.NoBody
		}
		staged, err := t.stageCopy(ctx, info, content)
		_ = body.Close() // what is wrong with it, its reader has said
		if err != nil {
			failed = err
			continue
		}
		err = t.commitAt(p, p.version, func() error { return t.commitStaged(staged, f.newest.Version, info.Created) })
		if err == nil {
			t.certain.add(p.version, p.about())
		}
		return errors.Join(err, staged.Discard())
	}
	return failed
}
