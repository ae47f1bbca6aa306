package slices

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/copies"
	"github.com/shardstream/shardstream/cluster/heal"
	"github.com/shardstream/shardstream/core/store"
)

// tally counts slices that lie here.
type tally struct {
	misplaced int // of no use, by proof, and not removed yet
	unsure    int // others have to be asked again, or to be given what they are to have
}

// proofs remember which slices were proven to be of no use, and since when.
type proofs struct {
	mu    sync.Mutex
	first map[store.SliceKey]proof
}

type proof struct {
	reason string
	since  time.Time
}

// maxProofs bounds what is remembered; what is forgotten is proven again.
const maxProofs = 1 << 20

// confirm notes a proof and says whether there was the same one a period of grace ago.
func (p *proofs) confirm(key store.SliceKey, reason string, grace time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if first, ok := p.first[key]; ok && first.reason == reason {
		return time.Since(first.since) >= grace
	}
	if p.first == nil || len(p.first) >= maxProofs {
		p.first = map[store.SliceKey]proof{}
	}
	p.first[key] = proof{reason, time.Now()}
	return false
}

// refute forgets a slice's proof.
func (p *proofs) refute(key store.SliceKey) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.first, key)
}

// examineAll looks at all slices that lie here, and removes those that were proven to be of no use a period of grace ago
// and are proven so again.
func (k *Keeper) examineAll(ctx context.Context, s heal.State) (tally, error) {
	var all tally
	for i := range s.Buckets {
		b := &s.Buckets[i]
		var start store.SliceKey
		for more := true; more; {
			infos, next, err := k.Store.ListSlices(b.Name, start, pageSize)
			if err != nil && !errors.Is(err, store.ErrDiskFailed) { // what a disk out of use has is as good as lost
				return all, err
			}
			if more = next && len(infos) > 0; more {
				last := &infos[len(infos)-1]
				start = store.SliceKey{Name: last.Name, Version: last.Version, Slice: last.Slice}
			}
			found, err := k.examine(ctx, s, b, infos)
			if err != nil {
				return all, err
			}
			all.misplaced, all.unsure = all.misplaced+found.misplaced, all.unsure+found.unsure
		}
	}
	return all, nil
}

// examine looks at some slices of a bucket that lie here.
func (k *Keeper) examine(ctx context.Context, s heal.State, b *heal.Bucket, infos []store.Info) (found tally, err error) {
	if len(infos) == 0 {
		return found, nil
	}
	e := k.inquire(ctx, s, b, infos)
	var list []heal.Deletion
	for i := range infos {
		key := keyOf(&infos[i])
		d, fate := e.judge(i)
		switch fate {
		case keep:
			k.proofs.refute(key)
		case unsure:
			k.proofs.refute(key)
			found.unsure++
		case useless:
			if d.Reason != reasonStray {
				found.misplaced++
			}
			confirmed := k.proofs.confirm(key, d.Reason, k.DeleteGrace)
			// One that is too young would keep the others from being removed with it.
			if confirmed && time.Since(d.Info.Created) >= d.Stray {
				list = append(list, d)
			}
		}
	}
	if len(list) == 0 {
		return found, ctx.Err()
	}
	n, err := k.Deletes.Do(ctx, k.Self, list)
	for i := range n {
		k.proofs.refute(keyOf(&list[i].Info))
		if list[i].Reason != reasonStray {
			found.misplaced--
		}
	}
	if errors.Is(err, heal.ErrNoProof) {
		err = nil // kept: the next time
	}
	return found, err
}

func keyOf(i *store.Info) store.SliceKey {
	return store.SliceKey{Bucket: i.Bucket, Name: i.Name, Version: i.Version, Slice: i.Slice}
}

// fate is what is to become of a slice.
type fate int

const (
	keep    fate = iota
	unsure       // kept, until all have answered, or others have what they are to have
	useless      // by proof
)

// Reasons in the audit log.
const (
	reasonOlder = "the object was overwritten or deleted"
	reasonMoved = "each of the targets that are to have a slice has another one, or this one"
	reasonWhole = "the object is kept in whole copies"
	reasonStray = "it is of a write that was given up"
)

// inquiry is what all targets know of some slices' objects.
type inquiry struct {
	keeper  *Keeper
	state   heal.State
	bucket  *heal.Bucket
	infos   []store.Info
	at      time.Time                 // before the first answer was given
	names   map[string]int            // where an object's name is in the answers
	states  map[string][]copies.State // by target; who has not answered is not there
	holders answers
}

func (k *Keeper) inquire(ctx context.Context, s heal.State, b *heal.Bucket, infos []store.Info) *inquiry {
	e := &inquiry{keeper: k, state: s, bucket: b, infos: infos, at: time.Now(), names: map[string]int{}, states: map[string][]copies.State{}}
	var names []string
	objects := make([]copies.ObjectVersion, len(infos))
	for i := range infos {
		objects[i] = copies.ObjectVersion{Name: infos[i].Name, Version: infos[i].Version}
		if _, known := e.names[infos[i].Name]; !known {
			e.names[infos[i].Name] = len(names)
			names = append(names, infos[i].Name)
		}
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, n := range s.Placer.Map.Targets() {
		wg.Go(func() {
			if states, err := k.states(ctx, n, b.Name, names); err == nil {
				mu.Lock()
				defer mu.Unlock()
				e.states[n.ID] = states
			}
		})
	}
	wg.Wait()
	e.holders = k.findAll(ctx, s.Placer.Map.Targets(), b.Name, objects)
	return e
}

func (k *Keeper) states(ctx context.Context, n api.Node, bucket string, names []string) ([]copies.State, error) {
	if n.ID != k.Self {
		if n.Away || n.State != api.StateOK {
			return nil, down(n)
		}
		return k.Wire.Have(ctx, n, bucket, names)
	}
	states := make([]copies.State, len(names))
	for i, name := range names {
		info, ok, err := k.Store.State(bucket, name)
		if err != nil {
			return nil, err
		}
		if ok {
			states[i] = copies.StateOf(info)
		}
	}
	return states, nil
}

// of are the states of an object with some targets; false where not all have told.
func (e *inquiry) of(name string, ids []string) ([]copies.State, bool) {
	states := make([]copies.State, len(ids))
	for i, id := range ids {
		answer, ok := e.states[id]
		if !ok || answer[e.names[name]].Unknown {
			return nil, false
		}
		states[i] = answer[e.names[name]]
	}
	return states, len(ids) > 0
}

// judge says what is to become of a slice, and why.
func (e *inquiry) judge(n int) (heal.Deletion, fate) {
	i := &e.infos[n]
	plan := e.state.Placer.Plan(i.Bucket, i.Name, e.bucket.Copies())
	states, all := e.of(i.Name, plan.Copies)
	if !all {
		return heal.Deletion{}, unsure
	}
	every := func(f func(copies.State) bool) bool {
		return !slices.ContainsFunc(states, func(s copies.State) bool { return !f(s) })
	}
	switch {
	case every(func(s copies.State) bool { return s.Version > i.Version }):
		return e.deletion(i, reasonOlder, plan.Copies), useless
	case every(func(s copies.State) bool { return s.Version < i.Version }):
		return e.stray(i)
	case !every(func(s copies.State) bool { return s.Version == i.Version }):
		return heal.Deletion{}, unsure
	case every(func(s copies.State) bool { return s.Kind == store.Whole && s.Data == 0 }):
		d := e.deletion(i, reasonWhole, plan.Copies)
		d.Whole = plan.Copies
		return d, useless
	case slices.ContainsFunc(states, func(s copies.State) bool { return s.Kind == store.Whole && s.Data == 0 }):
		return heal.Deletion{}, unsure // on its way from one form to the other
	}
	h := e.holders.of(n)
	a := Arrange(ids(List(e.state.Placer, i.Bucket, i.Name, i.Data+i.Parity)), i.Data+i.Parity, h.Held)
	switch {
	case i.Slice < len(a.Holds) && a.Holds[i.Slice] == e.keeper.Self:
		return heal.Deletion{}, keep
	case !a.Complete():
		return heal.Deletion{}, unsure
	}
	d := e.deletion(i, reasonMoved, plan.Copies)
	d.Slices = a.Holds
	return d, useless
}

// stray is for a slice of a version that the object's targets do not know. Somebody else might, or will.
func (e *inquiry) stray(i *store.Info) (heal.Deletion, fate) {
	members := ids(e.state.Placer.Map.Targets())
	states, all := e.of(i.Name, members)
	if !all || slices.ContainsFunc(states, func(s copies.State) bool { return s.Version >= i.Version }) {
		return heal.Deletion{}, unsure
	}
	if time.Since(i.Created) < e.keeper.StrayGrace { // its write may go on; nothing else is to wait for that
		return heal.Deletion{}, keep
	}
	d := e.deletion(i, reasonStray, members)
	d.Stray = e.keeper.StrayGrace
	return d, useless
}

func (e *inquiry) deletion(i *store.Info, reason string, keepers []string) heal.Deletion {
	d := heal.Deletion{
		Info: *i, Reason: reason, Keepers: keepers, Proof: map[string]uint64{}, Asked: e.at, Map: e.state.Placer.Map.Version,
	}
	for _, id := range keepers {
		if answer, ok := e.states[id]; ok {
			d.Proof[id] = answer[e.names[i.Name]].Version
		}
	}
	return d
}
