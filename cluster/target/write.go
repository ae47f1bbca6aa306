package target

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/copies"
	"github.com/shardstream/shardstream/cluster/membership"
	"github.com/shardstream/shardstream/cluster/placement"
	"github.com/shardstream/shardstream/core/store"
)

// kept is an object that was written: how many copies were made at once, of how many.
type kept struct {
	store.Info
	made, wanted int
}

// degraded is the value of api.HeaderDegraded, "" where all copies were made.
func (k *kept) degraded() string {
	if k.made >= k.wanted {
		return ""
	}
	return fmt.Sprintf("%d/%d", k.made, k.wanted)
}

// moved is the error for a write whose object has got another primary, or other copies, while its body came in.
func (p *placed) moved() error {
	return unavailable("%s has moved to other targets while it was sent; send it again", api.Address(p.bucket.Name, p.key))
}

// keep stores an object that this target is the primary of.
func (t *Target) keep(ctx context.Context, p placed, body io.Reader, o store.PutOptions) (kept, error) {
	write := t.putCopies
	if p.bucket.Copies() == 1 && t.isCertain(&p) {
		write = t.putSole
	}
	k, err := write(ctx, p, body, o)
	if err != nil {
		t.makeRoom(ctx, o.Size, err)
		return k, err
	}
	return k, t.stillThere(ctx, p.bucket, k.Info)
}

// stillThere makes sure that the bucket was not deleted while an object came in: then the object must
// go, as the deletion did not see it.
func (t *Target) stillThere(ctx context.Context, before membership.Bucket, info store.Info) error {
	now, err := t.members.FindBucket(ctx, before.Name)
	var away *membership.UnavailableError
	if errors.As(err, &away) || err == nil && now.Identity == before.Identity {
		return nil
	}
	if err := t.store.Drop(ctx, info.Bucket, info.Name, info.Version); err != nil {
		return err
	}
	return fmt.Errorf("bucket %s was deleted meanwhile: %w", before.Name, membership.ErrNoBucket)
}

// putSole stores the only copy of an object.
func (t *Target) putSole(ctx context.Context, p placed, body io.Reader, o store.PutOptions) (kept, error) {
	o.Admit = func() (func(), error) { return t.enterAlone(ctx, &p) }
	info, err := t.store.Put(ctx, p.bucket.Name, p.key, body, o)
	return kept{Info: info, made: 1, wanted: 1}, err
}

// enterAlone begins the commit of a write that no other target takes part in, once it has the object's lock: who asks
// what is here, to take over, waits for it.
func (t *Target) enterAlone(ctx context.Context, p *placed) (leave func(), err error) {
	unlock, err := t.locks.lock(ctx, p.bucket.Name, p.key)
	if err != nil {
		return nil, err
	}
	left, err := t.enter(ctx, p)
	if err != nil {
		unlock()
		return nil, err
	}
	return func() { left(); unlock() }, nil
}

// enter begins the commit of a write at its primary. Where the map has changed since the object was placed, it goes on
// by the new one if that puts the object on the same targets, and this one still knows what the newest is.
func (t *Target) enter(ctx context.Context, p *placed) (leave func(), err error) {
	for {
		at, leave := t.gate.Enter(t.known)
		if at == p.version {
			err := t.leased(&p.bucket.Bucket)
			if t.ended(p) {
				err = bucketEnded(p.bucket.Name)
			}
			if err != nil {
				leave()
				return nil, err
			}
			t.store.SetFloor(placement.FirstVersion(p.version))
			return leave, nil
		}
		leave()
		now, err := t.place(ctx, p.bucket.Name, p.key)
		if err != nil {
			return nil, err
		}
		same := now.primary.ID == t.id && now.bucket.Identity == p.bucket.Identity &&
			now.bucket.Copies() == p.bucket.Copies() && now.bucket.Width() == p.bucket.Width() && listed(&now, p)
		if !same || !t.isCertain(&now) || !slices.Equal(now.plan().Copies, p.plan().Copies) {
			return nil, p.moved()
		}
		*p = now
	}
}

// putCopies stores an object on all targets that are to have it: on this one last, so that it is shown only when all
// have it.
func (t *Target) putCopies(ctx context.Context, p placed, body io.Reader, o store.PutOptions) (kept, error) {
	p, err := t.awaitEnough(ctx, p)
	if err != nil {
		return kept{}, err
	}
	nodes, wanted, err := t.others(&p)
	if err != nil {
		return kept{}, err
	}
	condition := o.Condition
	o.Condition = store.Condition{}
	if condition != (store.Condition{}) { // which spares a body that would be refused anyway
		if err := t.meets(ctx, p, condition, t.newest); err != nil {
			return kept{}, err
		}
	}
	down, cancel := t.whileUp(ctx, t.takingPart(&p, nodes))
	defer cancel()
	parts, err := t.stage(down, p, nodes, body, o)
	if err != nil {
		return kept{}, err
	}
	defer parts.discard() //nolint:contextcheck // it is done even where the write was given up
	unlock, err := t.locks.lock(down, p.bucket.Name, p.key)
	if err != nil {
		return kept{}, err
	}
	defer unlock()
	if condition != (store.Condition{}) {
		err = t.meets(down, p, condition, t.newestLocked)
	} else {
		err = t.takeOver(down, p)
	}
	if err != nil {
		return kept{}, err
	}
	info, err := t.commitAll(down, p, parts)
	if parts.slices != nil {
		return kept{Info: info, made: parts.slices.Written(), wanted: p.bucket.Width()}, err
	}
	return kept{Info: info, made: 1 + len(nodes), wanted: wanted}, err
}

// stage takes in a body in the form that its bucket has for objects of its size.
func (t *Target) stage(ctx context.Context, p placed, nodes []api.Node, body io.Reader, o store.PutOptions) (*replicas, error) {
	inSlices, body, err := sliced(&p.bucket.Bucket, o.Size, body)
	switch {
	case err != nil:
		return nil, err
	case inSlices:
		return t.stageSlices(ctx, p, nodes, body, o)
	}
	return t.stageAll(ctx, p, nodes, body, o)
}

// meets evaluates the condition of a write against the newest version.
func (t *Target) meets(ctx context.Context, p placed, c store.Condition, newest func(context.Context, placed) (finding, error)) error {
	f, err := newest(ctx, p)
	if err != nil {
		return err
	}
	return checkCondition(c, api.Address(p.bucket.Name, p.key), f.newest.ETag(), f.newest.Exists())
}

// errDown ends a write that waits for a target that has gone down.
var errDown = errors.New("a target that takes part has gone down")

// whileUp is a context that ends when this node learns that one of the nodes is down: what waits for it need not wait
// until the connection is given up.
func (t *Target) whileUp(ctx context.Context, nodes []api.Node) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	if len(nodes) == 0 {
		return ctx, func() { cancel(nil) }
	}
	go func() { // ends with the context
		_, err := t.members.Until(ctx, func(v *membership.View) bool {
			return slices.ContainsFunc(nodes, func(n api.Node) bool {
				now, ok := v.Placer.Node(n.ID)
				return !ok || now.State != api.StateOK || now.Addr != n.Addr
			})
		})
		if err == nil {
			cancel(errDown)
		}
	}()
	return ctx, func() { cancel(nil) }
}

// commitAll gives the write its version and commits it: on the others at once, then here. The caller holds the object's
// lock and knows that nobody else is its primary.
func (t *Target) commitAll(ctx context.Context, p placed, parts *replicas) (store.Info, error) {
	leave, err := t.enter(ctx, &p)
	if err != nil {
		return store.Info{}, err
	}
	defer leave()
	info := parts.about
	info.Version, info.Created = t.store.NextVersion(), time.Now().UTC().Round(0)
	tell := t.superseded(info.Bucket, info.Name)
	if parts.slices != nil {
		if err := parts.slices.Commit(ctx, info.Version, info.Created); err != nil {
			return store.Info{}, t.sliceError(err)
		}
	}
	err = t.onAll(ctx, parts.nodes, func(ctx context.Context, node api.Node) error {
		client := t.copies.With(p.version)
		if parts.slices != nil {
			return client.Put(ctx, node, stub(info), nil)
		}
		if parts.stage == "" {
			return client.Put(ctx, node, info, bytes.NewReader(parts.data))
		}
		return client.Commit(ctx, node, copies.Commit{
			Stage: parts.stage, Bucket: info.Bucket, Name: info.Name, Version: info.Version, Created: info.Created,
		})
	})
	if err != nil {
		return store.Info{}, err
	}
	if err := t.commitStaged(parts.local, info.Version, info.Created); err != nil {
		if len(parts.nodes) > 0 { // the others have it: it may come to light yet
			err = unavailable("the copy of %s itself could not be made: %v", t.id, err)
		}
		return store.Info{}, err
	}
	parts.stage = "" // all have committed what they had staged
	t.certain.add(p.version, p.about())
	tell()
	info.Disk = parts.local.Info().Disk
	return info, nil
}

// erase deletes an object that this target is the primary of.
func (t *Target) erase(ctx context.Context, p placed, c store.Condition) error {
	if p.bucket.Copies() == 1 && p.settled() {
		leave, err := t.enterAlone(ctx, &p)
		if err != nil {
			return err
		}
		defer leave()
		return t.store.Delete(ctx, p.bucket.Name, p.key, c)
	}
	p, err := t.awaitEnough(ctx, p)
	if err != nil {
		return err
	}
	nodes, _, err := t.others(&p)
	if err != nil {
		return err
	}
	ctx, cancel := t.whileUp(ctx, nodes)
	defer cancel()
	unlock, err := t.locks.lock(ctx, p.bucket.Name, p.key)
	if err != nil {
		return err
	}
	defer unlock()
	f, err := t.newestLocked(ctx, p)
	if err != nil {
		return err
	}
	about := api.Address(p.bucket.Name, p.key)
	if err := checkCondition(c, about, f.newest.ETag(), f.newest.Exists()); err != nil {
		return err
	}
	if !f.newest.Exists() {
		return fmt.Errorf("%s: %w", about, store.ErrNotFound)
	}
	leave, err := t.enter(ctx, &p)
	if err != nil {
		return err
	}
	defer leave()
	version := t.store.NextVersion()
	tell := t.superseded(p.bucket.Name, p.key)
	err = t.onAll(ctx, nodes, func(ctx context.Context, node api.Node) error {
		return t.copies.With(p.version).Bury(ctx, node, p.bucket.Name, p.key, version)
	})
	if err == nil {
		err = t.bury(ctx, p.bucket.Name, p.key, version)
	}
	if err == nil {
		t.certain.add(p.version, p.about())
		tell()
	}
	return err
}
