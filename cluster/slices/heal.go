package slices

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/zeebo/xxh3"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/copies"
	"github.com/shardstream/shardstream/cluster/heal"
	"github.com/shardstream/shardstream/core/erasure"
	"github.com/shardstream/shardstream/core/store"
)

// pageSize is how many objects others are asked about at once.
const pageSize = 1000

// Heal has an object be in the form that its bucket has, and in all its slices, on the targets that are to have them, as
// far as there are any. It is called for what this target has a description of.
func (k *Keeper) Heal(ctx context.Context, i store.Info) (heal.Outcome, error) {
	s := k.State()
	b := bucketOf(s, i.Bucket)
	if b == nil {
		return heal.Outcome{}, nil
	}
	if Misformed(&b.Bucket, &i) {
		if err := k.Recode(ctx, b.Bucket, i); err != nil {
			return heal.Outcome{Lacking: true}, err
		}
		return heal.Outcome{Made: 1, Bytes: i.Size}, nil
	}
	if i.Data == 0 {
		return heal.Outcome{}, nil
	}
	list := List(s.Placer, i.Bucket, i.Name, i.Data+i.Parity)
	h := k.Find(ctx, s.Placer.Map.Targets(), i.Bucket, i.Name, i.Version)
	a := Arrange(ids(list), i.Data+i.Parity, h.Held)
	if a.Complete() || len(a.Free) == 0 {
		return heal.Outcome{}, nil
	}
	for _, n := range list {
		if err := h.Failed[n.ID]; err != nil { // it may have what seems to be missing
			return heal.Outcome{Lacking: true}, err
		}
	}
	made, bytes, err := k.complete(ctx, s.Placer, i, a, h)
	return heal.Outcome{Lacking: err != nil, Made: made, Bytes: bytes}, err
}

// Missing says how many slices of an object are not where they are to be.
func (k *Keeper) Missing(ctx context.Context, i store.Info) (int, error) {
	p := k.placer()
	list := List(p, i.Bucket, i.Name, i.Data+i.Parity)
	h := k.Find(ctx, list, i.Bucket, i.Name, i.Version)
	if err := h.err(); err != nil {
		return 0, err
	}
	a := Arrange(ids(list), i.Data+i.Parity, h.Held)
	return len(a.Missing), nil
}

// Sweep removes slices that do not belong here, which was proven a period of grace ago and is proven again, and says how
// many are left that are not where they are to stay.
func (k *Keeper) Sweep(ctx context.Context) (misplaced int, err error) {
	found, err := k.examineAll(ctx, k.State())
	return found.misplaced + found.unsure, err
}

// Holds says whether there are any slices here.
func (k *Keeper) Holds() (bool, error) {
	for _, b := range k.State().Buckets {
		infos, _, err := k.Store.ListSlices(b.Name, store.SliceKey{}, 1)
		if err != nil && !errors.Is(err, store.ErrDiskFailed) {
			return true, err
		}
		if len(infos) > 0 {
			return true, nil
		}
	}
	return false, nil
}

// Misformed says that an object has another form than its bucket gives to new ones. That it is in another number of
// slices is none: it stays so until it is written anew.
func Misformed(b *api.Bucket, i *store.Info) bool {
	_, elsewhere := i.Origin()
	return b.EC == nil && i.Data > 0 || b.EC != nil && i.Data == 0 && i.Kind == store.Whole && i.Size > api.SmallObject && !elsewhere
}

// complete makes the slices that an arrangement lacks, as many as there is a target for, and says how many and of how
// many bytes they were.
func (k *Keeper) complete(ctx context.Context, p *api.Placer, i store.Info, a Arrangement, h Holders) (made int, bytes int64, err error) {
	code, err := erasure.New(i.Data, i.Parity)
	if err != nil {
		return 0, 0, err
	}
	size := code.SliceSize(i.Size)
	to := make([]*api.Node, code.Slices())
	remade := 0
	for n, id := range a.Free {
		node, ok := p.Node(id)
		slice := a.Missing[n]
		switch {
		case !ok:
			return made, bytes, fmt.Errorf("%s is no member any more", id)
		case len(h.who(k.Self, slice)) == 0:
			to[slice] = &node
			remade++
			continue
		}
		if err := k.copySlice(ctx, p, &i, slice, node, h, size); err != nil {
			return made, bytes, err
		}
		made, bytes = made+1, bytes+size
	}
	if remade == 0 {
		return made, bytes, nil
	}
	if err := k.remake(ctx, p, code, i, to, remade, h); err != nil {
		return made, bytes, err
	}
	return made + remade, bytes + int64(remade)*size, nil
}

// copySlice brings a slice from where it is to where it is to be.
func (k *Keeper) copySlice(ctx context.Context, p *api.Placer, i *store.Info, slice int, to api.Node, h Holders, size int64) error {
	from := k.source(p, i, h)
	r, err := from.Open(ctx, slice, 0)
	if err != nil {
		return err
	}
	defer r.Close()
	w := &Writing{keeper: k, need: 1, parts: make([]*part, i.Data+i.Parity)}
	w.parts[slice] = k.send(ctx, to, k.sliceOf(i, slice, size))
	for left := size; left > 0 && err == nil; {
		var b []byte
		if b, err = r.Next(int(min(left, 1<<20))); err == nil {
			_, err = w.parts[slice].Write(b)
		}
		left -= int64(len(b))
	}
	return k.finish(ctx, w, *i, err)
}

func (k *Keeper) sliceOf(i *store.Info, slice int, size int64) store.Info {
	return store.Info{
		Bucket: i.Bucket, Name: i.Name, Kind: store.Slice, Size: size, Data: i.Data, Parity: i.Parity, Slice: slice, Created: i.Created,
		Version: i.Version,
	}
}

// remake makes slices anew: from the whole where it is here, else from those that are left.
func (k *Keeper) remake(ctx context.Context, p *api.Placer, code *erasure.Code, i store.Info, to []*api.Node, need int, h Holders) error {
	object, err := k.Store.Open(i.Bucket, i.Name)
	if err == nil && object.Info().Version == i.Version {
		defer object.Close()
		w, err := k.Begin(ctx, i, to, need)
		if err != nil {
			return err
		}
		if _, err = object.WriteRange(w, 0, i.Size); err == nil {
			err = w.encoder.Close()
		}
		return k.finish(ctx, w, i, err)
	}
	if err == nil {
		return errors.Join(fmt.Errorf("%s is being overwritten", api.Address(i.Bucket, i.Name)), object.Close())
	}
	w := &Writing{keeper: k, need: need, parts: k.sendAll(ctx, code, i, to)}
	whole := xxh3.New()
	if err = code.Decode(ctx, i.Size, k.source(p, &i, h), whole, w.writers()); err == nil && whole.Sum64() != i.XXH3 {
		err = fmt.Errorf("the slices of %s do not make the object that its checksum is of", api.Address(i.Bucket, i.Name))
	}
	return k.finish(ctx, w, i, err)
}

// finish makes slices durable that were sent without an error, as those of the version.
func (k *Keeper) finish(ctx context.Context, w *Writing, i store.Info, err error) error {
	if err == nil {
		err = w.stage(nil, make([]error, len(w.parts)))
	}
	if err == nil {
		err = w.Commit(ctx, i.Version, i.Created)
	}
	if err != nil {
		return errors.Join(err, w.Discard(ctx))
	}
	return nil
}

// answers are the holders of many objects.
type answers struct {
	slices map[string][][]int
	failed map[string]error
}

func (a *answers) of(i int) Holders {
	h := Holders{Held: make(map[string][]int, len(a.slices)), Failed: a.failed}
	for id, objects := range a.slices {
		if len(objects[i]) > 0 {
			h.Held[id] = objects[i]
		}
	}
	return h
}

// findAll asks targets which slices they have of many objects.
func (k *Keeper) findAll(ctx context.Context, nodes []api.Node, bucket string, objects []copies.ObjectVersion) answers {
	a := answers{slices: map[string][][]int{}, failed: map[string]error{}}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, n := range nodes {
		wg.Go(func() {
			own, err := k.haveAll(ctx, n, bucket, objects)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				a.failed[n.ID] = err
			} else {
				a.slices[n.ID] = own
			}
		})
	}
	wg.Wait()
	return a
}

func (k *Keeper) haveAll(ctx context.Context, n api.Node, bucket string, objects []copies.ObjectVersion) ([][]int, error) {
	if n.ID != k.Self {
		if n.Away || n.State != api.StateOK {
			return nil, down(n)
		}
		return k.Wire.HaveSlices(ctx, n, bucket, objects)
	}
	own := make([][]int, len(objects))
	for i := range objects {
		var err error
		if own[i], err = k.Own(bucket, objects[i]); err != nil {
			return nil, err
		}
	}
	return own, nil
}
