package target

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/copies"
	"github.com/shardstream/shardstream/cluster/membership"
	"github.com/shardstream/shardstream/cluster/placement"
	slicing "github.com/shardstream/shardstream/cluster/slices"
	"github.com/shardstream/shardstream/core/store"
)

// targetPatience is how long a write waits for as many targets as it takes.
const targetPatience = 3 * time.Second

// awaitEnough waits for as many targets as a write takes, if some are missing: where a cluster has just been started, or
// a target comes back, others may have seen it a little earlier than this node does.
func (t *Target) awaitEnough(ctx context.Context, p placed) (placed, error) {
	b := &p.bucket
	key := placement.Key(b.Name, p.key)
	enough := func(placer *api.Placer) bool { return len(placer.Layout().List(key, b.Width())) >= b.Width() }
	if b.Degraded || enough(p.placer) {
		return p, nil
	}
	wait, cancel := context.WithTimeout(ctx, targetPatience)
	defer cancel()
	if _, err := t.members.Until(wait, func(v *membership.View) bool { return enough(v.Placer) }); err != nil {
		return p, nil //nolint:nilerr // the write itself says what is missing
	}
	now, err := t.place(ctx, b.Name, p.key)
	if err == nil && now.primary.ID != t.id {
		err = p.moved()
	}
	return now, err
}

// others are the targets besides this one that are to have a copy now, and the number of copies there should be.
// Where fewer targets are up than that takes, the bucket says whether to go on with those there are.
func (t *Target) others(p *placed) (nodes []api.Node, wanted int, err error) {
	b := &p.bucket
	key := placement.Key(b.Name, p.key)
	if up := len(p.placer.Layout().List(key, b.Width())); up < b.Width() && !b.Degraded {
		return nil, 0, api.Errorf(http.StatusServiceUnavailable, api.CodeTooFew,
			"bucket %s takes %d targets and %d are up: start more, or let it take fewer meanwhile (bucket set --degraded)", b.Name, b.Width(), up)
	}
	for _, id := range p.placer.Layout().List(key, b.Copies()) {
		node, ok := p.placer.Node(id)
		switch {
		case id == t.id:
		case !ok || node.State != api.StateOK:
			return nil, 0, unavailable("target %s, which is to have a copy of %s, has just gone down", id, api.Address(b.Name, p.key))
		default:
			nodes = append(nodes, node)
		}
	}
	return nodes, b.Copies(), nil
}

// replicas are the other targets' parts of a write.
type replicas struct {
	t     *Target
	nodes []api.Node
	stage string        // id under which they have staged the body; "" where they get it with its commit
	data  []byte        // then
	about store.Info    // what they are to have, but for version and time
	local *store.Staged // this node's own part

	slices *slicing.Writing // of an object whose copies are stubs; nil: they are whole
}

// stageAll takes in a body, on this target and on all others at once.
func (t *Target) stageAll(ctx context.Context, p placed, nodes []api.Node, body io.Reader, o store.PutOptions) (*replicas, error) {
	parts := &replicas{t: t, nodes: nodes}
	if o.Size >= 0 && o.Size <= copies.SmallBody {
		data, err := io.ReadAll(io.LimitReader(body, o.Size+1))
		if err != nil {
			return nil, err
		}
		parts.data = data
		parts.local, err = t.store.Stage(ctx, p.bucket.Name, p.key, bytes.NewReader(data), o)
		if err != nil {
			return nil, err
		}
		parts.about = parts.local.Info()
		return parts, nil
	}
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails: see crypto/rand
	parts.stage = t.id + "-" + hex.EncodeToString(id[:])
	about := store.Info{Bucket: p.bucket.Name, Name: p.key, Size: o.Size, ContentType: o.ContentType, Meta: o.Meta, Archive: o.Archive}
	staged := make([]copies.Staged, len(nodes))
	fan := newFan(ctx, body)
	for i, node := range nodes {
		fan.add(func(ctx context.Context, body io.Reader) (err error) {
			staged[i], err = t.copies.With(p.version).Stage(ctx, node, parts.stage, about, body)
			return err
		})
	}
	var err error
	parts.local, err = t.store.Stage(ctx, p.bucket.Name, p.key, fan, o)
	if err = fan.end(err); err == nil {
		err = parts.compare(staged)
	}
	if err != nil {
		parts.discard() //nolint:contextcheck // it is done even where the write was given up
		return nil, err
	}
	return parts, nil
}

// compare makes sure that all have staged the same bytes.
func (r *replicas) compare(staged []copies.Staged) error {
	r.about = r.local.Info()
	for i, node := range r.nodes {
		if staged[i] != (copies.Staged{Size: r.about.Size, XXH3: r.about.XXH3, CRC32: r.about.CRC32}) {
			return unavailable("target %s has staged other bytes of %s than this one; send it again",
				node.ID, api.Address(r.about.Bucket, r.about.Name))
		}
	}
	return nil
}

// defaultCommitTimeout is how long all others together have to commit what they have staged, unless the settings say more.
const defaultCommitTimeout = 10 * time.Second

// onAll has all others commit a write. Where one fails, what becomes of the write is open: it is not shown here, but may
// be once another target takes over.
func (t *Target) onAll(ctx context.Context, nodes []api.Node, commit func(context.Context, api.Node) error) error {
	ctx, cancel := context.WithTimeout(ctx, t.patience)
	defer cancel()
	failures := make(chan error, len(nodes))
	for _, node := range nodes {
		go func() { failures <- commit(ctx, node) }() // ends with the context
	}
	var errs []error
	committed := false
	for range nodes {
		err := <-failures
		committed = committed || err == nil
		errs = append(errs, err)
	}
	err := errors.Join(errs...)
	var answer *api.Error
	switch {
	case err == nil:
		return nil
	case errors.Is(context.Cause(ctx), errDown):
		return errDown
	case !committed && len(nodes) == 1 && errors.As(err, &answer) && answer.Code == api.CodeNoSpace: // it is on none, for sure
		return answer
	}
	return unavailable("not all copies could be made: %v", err)
}

// discard gives up what was staged and not committed.
func (r *replicas) discard() {
	if r.local != nil {
		if err := r.local.Discard(); err != nil {
			r.t.log.Warn("a staged body could not be removed; the next start will", "error", err)
		}
	}
	if r.slices != nil {
		if err := r.slices.Discard(r.t.ctx); err != nil {
			r.t.log.Warn("a staged slice could not be removed; the next start will", "error", err)
		}
	}
	if r.stage == "" {
		return
	}
	ctx, cancel := context.WithTimeout(r.t.ctx, mapPatience)
	defer cancel()
	// Who is not reached discards it by itself after a while.
	_ = r.t.onAll(ctx, r.nodes, func(ctx context.Context, node api.Node) error { return r.t.copies.Discard(ctx, node, r.stage) })
}
