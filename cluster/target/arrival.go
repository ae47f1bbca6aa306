package target

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/copies"
	"github.com/shardstream/shardstream/core/store"
)

// arrival is a copy, or a deletion, that another target gives this one.
type arrival struct {
	sender  string
	version int64 // of the map that it goes by
	bucket  string
	key     string
	state   copies.State
	commit  func() error // makes it the newest here
	replace func() error // puts it in the place of a copy of that very version; nil: that copy is as good
}

// take takes in what another target gives. Where this node is the object's primary it makes sure first that the others
// have it: what the primary has is shown.
func (t *Target) take(ctx context.Context, a arrival) error {
	if err := t.stale(a.version); err != nil { // before the lock: it may be held by a write that waits for the sender
		return err
	}
	wait, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	unlock, err := t.locks.lock(wait, a.bucket, a.key)
	if err != nil {
		return err
	}
	defer unlock()
	own, err := t.own(a.bucket, a.key)
	switch {
	case err != nil:
		return err
	case own.Version == a.state.Version && a.replace == nil && !more(a.state.Kind, own.Kind):
		return nil
	case own.Version > a.state.Version:
		return api.Errorf(http.StatusConflict, api.CodeSuperseded, "%s is here in version %d", api.Address(a.bucket, a.key), own.Version)
	}
	p, err := t.place(ctx, a.bucket, a.key)
	if err != nil {
		return err
	}
	if err := t.stale(min(a.version, p.version)); err != nil { // else the sender might pass for one that goes by the newest
		return err
	}
	if own.Version == a.state.Version && a.replace != nil {
		return t.commitAt(p, a.version, a.replace)
	}
	if p.primary.ID == t.id && own.Version != a.state.Version {
		return t.adopt(ctx, p, a)
	}
	return t.commitAt(p, a.version, a.commit)
}

// more says whether a copy of one kind holds more than one of another.
func more(kind, than store.Kind) bool {
	return kind != than && (than == store.Lost || than == store.Stub && kind == store.Whole)
}

// commitAt commits by the map that an object was placed by, which must still be the newest.
func (t *Target) commitAt(p placed, version int64, commit func() error) error {
	at, leave := t.gate.Enter(t.known)
	defer leave()
	if at != p.version || version < at {
		return api.Errorf(http.StatusConflict, api.CodeStaleMap, "version %d of the cluster map is older than %d", min(version, p.version), at)
	}
	if err := commit(); err != nil {
		return err
	}
	// A bucket that came to its end meanwhile may have been cleared before the commit.
	if t.ended(&p) {
		if own, err := t.own(p.bucket.Name, p.key); err == nil {
			_ = t.store.Drop(t.ctx, p.bucket.Name, p.key, own.Version) // else it is a stray
		}
		return bucketEnded(p.bucket.Name)
	}
	return nil
}

func bucketEnded(bucket string) error {
	return api.Errorf(http.StatusNotFound, api.CodeNoBucket, "bucket %s is being deleted", bucket)
}

// commitStaged makes a staged body a copy. One that is there already is as good.
func (t *Target) commitStaged(staged *store.Staged, version uint64, created time.Time) error {
	about := staged.Info()
	_, err := staged.Commit(version, created, store.Condition{})
	if errors.Is(err, store.ErrSuperseded) {
		return t.isThere(about.Bucket, about.Name, version, err)
	}
	return err
}

// isThere turns the refusal of a version into a success where it is exactly what is there.
func (t *Target) isThere(bucket, key string, version uint64, refusal error) error {
	own, err := t.own(bucket, key)
	switch {
	case err != nil:
		return err
	case own.Version == version:
		return nil
	}
	return api.Errorf(http.StatusConflict, api.CodeSuperseded, "%v", refusal)
}

func (t *Target) bury(ctx context.Context, bucket, key string, version uint64) error {
	err := t.store.Bury(ctx, bucket, key, version)
	if errors.Is(err, store.ErrSuperseded) {
		return t.isThere(bucket, key, version, err)
	}
	return err
}
