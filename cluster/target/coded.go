package target

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/heal"
	"github.com/shardstream/shardstream/cluster/origin"
	"github.com/shardstream/shardstream/cluster/placement"
	slicing "github.com/shardstream/shardstream/cluster/slices"
	"github.com/shardstream/shardstream/core/erasure"
	"github.com/shardstream/shardstream/core/store"
)

// An erasure-coded object is written as a mirrored one whose copies have no bytes: they are made durable as slices
// before. The primary keeps the whole besides, for reads, until it is evicted.

// keeper makes what keeps this target's slices.
func (t *Target) keeper(c Config) *slicing.Keeper {
	return slicing.New(slicing.Config{
		Self: t.id, Store: t.store, Wire: t.copies, Logger: t.log,
		State:   func() heal.State { return heal.StateOf(t.members.View(), 0) },
		Deletes: t.deletes, Recode: t.recode, DeleteGrace: c.DeleteGrace, StrayGrace: c.StrayGrace,
	})
}

// Slices are those of erasure-coded objects that this target keeps.
func (t *Target) Slices() *slicing.Keeper { return t.slices }

// sliced says whether an object of that size is to be in slices. One of unknown size is read as far as is needed to
// know; what was read comes again from the body that is returned.
func sliced(b *api.Bucket, size int64, body io.Reader) (bool, io.Reader, error) {
	if b.EC == nil || size >= 0 {
		return b.EC != nil && size > api.SmallObject, body, nil
	}
	ahead := bufio.NewReaderSize(body, api.SmallObject+1)
	_, err := ahead.Peek(api.SmallObject + 1)
	if err == nil || errors.Is(err, io.EOF) {
		return err == nil, ahead, nil
	}
	return false, ahead, err
}

// stageSlices takes in a body, whole on this target and in slices on all that are to have one, at once.
func (t *Target) stageSlices(ctx context.Context, p placed, nodes []api.Node, body io.Reader, o store.PutOptions) (*replicas, error) {
	code := p.bucket.EC
	total := code.Data + code.Parity
	to := make([]*api.Node, total)
	targets := slicing.List(p.placer, p.bucket.Name, p.key, total)
	if len(targets) < code.Data {
		return nil, api.Errorf(http.StatusServiceUnavailable, api.CodeTooFew,
			"objects of bucket %s are in slices on %d targets, of which it takes %d, and %d are up: start more", p.bucket.Name, total, code.Data, len(targets))
	}
	for i := range targets {
		to[i] = &targets[i]
	}
	about := store.Info{
		Bucket: p.bucket.Name, Name: p.key, Size: o.Size, ContentType: o.ContentType, Meta: o.Meta, Archive: o.Archive,
		Data: code.Data, Parity: code.Parity,
	}
	writing, err := t.slices.Begin(ctx, about, to, len(targets))
	if err != nil {
		return nil, err
	}
	o.Data, o.Parity = code.Data, code.Parity
	parts := &replicas{t: t, nodes: nodes, slices: writing}
	if parts.local, err = t.store.Stage(ctx, p.bucket.Name, p.key, io.TeeReader(body, writing), o); err == nil {
		err = writing.Stage()
	}
	if err != nil {
		parts.discard() //nolint:contextcheck // it is done even where the write was given up
		return nil, t.sliceError(err)
	}
	parts.about = parts.local.Info()
	return parts, nil
}

// takingPart are the other targets that take part in a write: those that are to have copies, and those that may get
// slices.
func (t *Target) takingPart(p *placed, nodes []api.Node) []api.Node {
	if p.bucket.EC == nil {
		return nodes
	}
	return slices.DeleteFunc(slicing.List(p.placer, p.bucket.Name, p.key, p.bucket.Width()), func(n api.Node) bool { return n.ID == t.id })
}

// sliceError is the error for slices that could not be made.
func (t *Target) sliceError(err error) error {
	var answer *api.Error
	if errors.As(err, &answer) && answer.Code == api.CodeNoSpace || !errors.Is(err, erasure.ErrTooFew) {
		return err
	}
	return unavailable("not all slices could be made: %v", err)
}

// stub is the description of an object as those have it that have none of its bytes.
func stub(i store.Info) store.Info {
	i.Kind = store.Stub
	return i
}

// restore makes an object whole here of which there is a stub, if that is what a read met.
func (t *Target) restore(ctx context.Context, bucket, key string, err error) error {
	if !errors.Is(err, store.ErrStub) {
		return err
	}
	info, err := t.store.Stat(bucket, key)
	if err != nil || info.Kind != store.Stub {
		return err
	}
	if _, cached := info.Origin(); cached {
		return t.cache.Bring(ctx, bucket, key, info.Version)
	}
	return t.slices.Rebuild(ctx, info)
}

// Open opens an object as it lies here, and makes it whole where its bytes are in slices.
func (t *Target) Open(ctx context.Context, bucket, key string) (*store.Object, error) {
	object, err := t.store.Open(bucket, key)
	if errors.Is(err, store.ErrStub) {
		if err = t.restore(ctx, bucket, key, err); err == nil {
			object, err = t.store.Open(bucket, key)
		}
	}
	if err == nil && object.Info().Data > 0 {
		t.slices.Touch(bucket, key)
	}
	if err == nil {
		info := object.Info()
		t.cache.Touch(&info)
	}
	return object, err
}

// openVersion is Open for a version that a stream is about. One that its backend has is fetched only if it is that.
func (t *Target) openVersion(ctx context.Context, bucket, key string, version uint64) (*store.Object, error) {
	if b, ok := t.members.View().Bucket(bucket); ok && b.Backend != nil {
		object, err := t.cache.OpenVersion(ctx, bucket, key, version)
		return object, origin.Answer(bucket, err) // its text names the backend
	}
	return t.Open(ctx, bucket, key)
}

// recode gives an object the form that its bucket has now: slices instead of whole copies, or the other way round. Its
// version stays; what has the old form is replaced once the new one is durable.
func (t *Target) recode(ctx context.Context, b api.Bucket, i store.Info) error {
	p, err := t.place(ctx, b.Name, i.Name)
	if err != nil {
		return err
	}
	if p.primary.ID != t.id {
		return unavailable("%s does it, which has %s as its own", p.primary.ID, api.Address(b.Name, i.Name))
	}
	if !slicing.Misformed(&p.bucket.Bucket, &i) {
		return nil
	}
	nodes, _, err := t.others(&p)
	if err != nil {
		return err
	}
	object, err := t.Open(ctx, b.Name, i.Name)
	if err != nil {
		return err
	}
	defer object.Close()
	if object.Info().Version != i.Version {
		return nil // written anew, in the form that is wanted
	}
	if p.bucket.EC == nil {
		return t.toCopies(ctx, p, nodes, object)
	}
	return t.toSlices(ctx, p, nodes, object)
}

// toSlices puts an object of whole copies into slices, and makes the copies stubs.
func (t *Target) toSlices(ctx context.Context, p placed, nodes []api.Node, object *store.Object) error {
	i := object.Info()
	i.Data, i.Parity = p.bucket.EC.Data, p.bucket.EC.Parity
	total := i.Data + i.Parity
	to := make([]*api.Node, total)
	targets := slicing.List(p.placer, i.Bucket, i.Name, total)
	if len(targets) < total {
		return unavailable("%d targets are up of the %d that slices take", len(targets), total)
	}
	for n := range targets {
		to[n] = &targets[n]
	}
	writing, err := t.slices.Begin(ctx, i, to, total)
	if err != nil {
		return err
	}
	if _, err = object.WriteRange(writing, 0, i.Size); err == nil {
		err = writing.Stage()
	}
	if err == nil {
		err = writing.Commit(ctx, i.Version, i.Created)
	}
	if err != nil {
		return errors.Join(err, writing.Discard(ctx))
	}
	return t.replaceAll(ctx, p, nodes, stub(i), nil)
}

// toCopies makes whole copies of an object that is in slices.
func (t *Target) toCopies(ctx context.Context, p placed, nodes []api.Node, object *store.Object) error {
	i := object.Info()
	i.Data, i.Parity = 0, 0
	return t.replaceAll(ctx, p, nodes, i, object)
}

// replaceAll replaces all copies of a version by ones of another form, here last: while this node has the old form, it is
// tried again.
func (t *Target) replaceAll(ctx context.Context, p placed, nodes []api.Node, i store.Info, object *store.Object) error {
	var body io.Reader
	if object != nil {
		body = bodyOf(object)
	}
	staged, err := t.stageCopy(ctx, i, body)
	if err != nil {
		return err
	}
	defer staged.Discard() //nolint:errcheck // after a replacement it does nothing; else what is left is swept
	unlock, err := t.locks.lock(ctx, i.Bucket, i.Name)
	if err != nil {
		return err
	}
	defer unlock()
	ctx, end := t.whileUp(ctx, nodes)
	defer end()
	ctx, cancel := context.WithTimeout(ctx, giveTimeout+time.Duration(i.Payload()/slowBytes)*time.Second)
	defer cancel()
	leave, err := t.enter(ctx, &p)
	if err != nil {
		return err
	}
	defer leave()
	if own, err := t.own(i.Bucket, i.Name); err != nil || own.Version != i.Version {
		return err // it was written anew
	}
	for _, node := range nodes {
		var body io.Reader
		if object != nil {
			body = bodyOf(object)
		}
		if err := t.copies.With(p.version).Replace(ctx, node, i, body); err != nil {
			return err
		}
	}
	_, err = staged.Replace(i.Version, i.Created, false)
	if errors.Is(err, store.ErrSuperseded) {
		err = nil
	}
	if err == nil {
		t.slices.Superseded(i.Bucket, i.Name)
	}
	return err
}

// listed says whether the targets of an object's slices are the same by two placements.
func listed(a, b *placed) bool {
	if a.bucket.EC == nil {
		return true
	}
	return slices.Equal(
		a.placer.Layout().List(placement.Key(a.bucket.Name, a.key), a.bucket.Width()),
		b.placer.Layout().List(placement.Key(b.bucket.Name, b.key), b.bucket.Width()))
}

// superseded notes that a write replaces an object that is in slices.
func (t *Target) superseded(bucket, key string) (told func()) {
	own, err := t.own(bucket, key)
	if err != nil || own.Data == 0 {
		return func() {}
	}
	return func() { t.slices.Superseded(bucket, key) }
}

// locateSlices says where this node's slices of an object lie.
func (t *Target) locateSlices(bucket, key string) ([]api.Copy, error) {
	infos, err := t.store.HaveSlices(bucket, key, 0)
	if err != nil {
		return nil, err
	}
	list := make([]api.Copy, 0, len(infos))
	for i := range infos {
		slice := store.SliceKey{Bucket: bucket, Name: key, Version: infos[i].Version, Slice: infos[i].Slice}
		file, err := t.store.LocateSlice(slice)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
		if err == nil { // else it has just gone
			list = append(list, api.Copy{
				Node: t.id, Disk: infos[i].Disk, Kind: api.KindSlice, Slice: infos[i].Slice, Version: infos[i].Version, Files: []string{file},
			})
		}
	}
	return list, nil
}
