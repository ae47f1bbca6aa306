package slices

import (
	"context"
	"sync"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/copies"
	"github.com/shardstream/shardstream/cluster/heal"
	"github.com/shardstream/shardstream/core/store"
)

const (
	// maxHints bounds the names that are to be looked at; what does not fit is found by looking at everything.
	maxHints  = 100_000
	maxLooks  = 20        // at one name, before it is left to the look at everything
	lookAtAll = time.Hour // or the grace of strays, where that is shorter
	minTick   = 20 * time.Millisecond
	maxTick   = 5 * time.Second
	tickTime  = 10 * time.Minute // for all that is done in one tick
)

// hints are objects whose slices are to be looked at.
type hints struct {
	mu   sync.Mutex
	own  map[copies.ObjectName]*hint // here
	tell map[copies.ObjectName]bool  // on all targets
	mend map[copies.ObjectName]bool  // a slice of them was found damaged here, and is lacking now
}

type hint struct {
	due   time.Time
	looks int
}

// Superseded says that an object was overwritten or deleted, of which there are slices. Targets look whether they have
// some that are of no use any more.
func (k *Keeper) Superseded(bucket, name string) {
	k.hints.mu.Lock()
	defer k.hints.mu.Unlock()
	if k.hints.tell == nil {
		k.hints.tell = map[copies.ObjectName]bool{}
	}
	if len(k.hints.tell) < maxHints {
		k.hints.tell[copies.ObjectName{Bucket: bucket, Name: name}] = true
	}
}

// LookAt has slices of some objects be looked at here.
func (k *Keeper) LookAt(bucket string, names []string) {
	k.hints.mu.Lock()
	defer k.hints.mu.Unlock()
	if k.hints.own == nil {
		k.hints.own = map[copies.ObjectName]*hint{}
	}
	for _, name := range names {
		if len(k.hints.own) < maxHints {
			k.hints.own[copies.ObjectName{Bucket: bucket, Name: name}] = &hint{due: time.Now()}
		}
	}
}

// Mend has an object be brought back to all its slices, of which one is lacking here.
func (k *Keeper) Mend(bucket, name string) {
	k.hints.mu.Lock()
	defer k.hints.mu.Unlock()
	if k.hints.mend == nil {
		k.hints.mend = map[copies.ObjectName]bool{}
	}
	if len(k.hints.mend) < maxHints {
		k.hints.mend[copies.ObjectName{Bucket: bucket, Name: name}] = true
	}
}

// Run removes slices that are of no use any more, mends what reads found damaged, and makes room on disks that fill up,
// until the context ends. What heal does after a change of the map is not its business.
func (k *Keeper) Run(ctx context.Context) error {
	tick := time.NewTicker(min(max(k.DeleteGrace/4, minTick), maxTick))
	defer tick.Stop()
	all := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		work, cancel := context.WithTimeout(ctx, tickTime)
		s := k.State()
		k.tellAll(work, s)
		k.lookAtDue(work, s)
		k.mendAll(work, s)
		k.watchRoom(work, s)
		if time.Since(all) >= min(lookAtAll, k.StrayGrace) {
			all = time.Now()
			if _, err := k.examineAll(work, s); err != nil && ctx.Err() == nil {
				k.Logger.Warn("looking for slices that are of no use any more is tried again", "error", err)
			}
		}
		cancel()
	}
}

// tellAll tells all targets which objects were superseded here. Who can't be told finds out by itself.
func (k *Keeper) tellAll(ctx context.Context, s heal.State) {
	k.hints.mu.Lock()
	tell := k.hints.tell
	k.hints.tell = nil
	k.hints.mu.Unlock()
	names := map[string][]string{}
	for o := range tell {
		names[o.Bucket] = append(names[o.Bucket], o.Name)
	}
	for bucket, list := range names {
		for _, n := range s.Placer.Map.Targets() {
			switch {
			case n.ID == k.Self:
				k.LookAt(bucket, list)
			case n.State == api.StateOK:
				for at := 0; at < len(list); at += copies.MaxNames {
					_ = k.Wire.LookAt(ctx, n, bucket, list[at:min(at+copies.MaxNames, len(list))])
				}
			}
		}
	}
}

// lookAtDue looks at the objects that are due: at once, and when their period of grace is over.
func (k *Keeper) lookAtDue(ctx context.Context, s heal.State) {
	now := time.Now()
	due := map[string][]string{}
	k.hints.mu.Lock()
	for o, h := range k.hints.own {
		if h.due.After(now) {
			continue
		}
		due[o.Bucket] = append(due[o.Bucket], o.Name)
		h.due = now.Add(k.DeleteGrace + minTick)
		h.looks++
	}
	k.hints.mu.Unlock()
	for bucket, names := range due {
		left := k.look(ctx, s, bucket, names)
		k.hints.mu.Lock()
		for _, name := range names {
			o := copies.ObjectName{Bucket: bucket, Name: name}
			if h := k.hints.own[o]; h != nil && (!left[name] || h.looks >= maxLooks) {
				delete(k.hints.own, o)
			}
		}
		k.hints.mu.Unlock()
	}
}

// look looks at all slices of some objects, and says which have some that may be of no use.
func (k *Keeper) look(ctx context.Context, s heal.State, bucket string, names []string) map[string]bool {
	left := map[string]bool{}
	b := bucketOf(s, bucket)
	if b == nil {
		return left
	}
	for _, name := range names {
		infos, err := k.Store.HaveSlices(bucket, name, 0)
		if err == nil {
			var found tally
			found, err = k.examine(ctx, s, b, infos)
			left[name] = found.misplaced+found.unsure > 0
		}
		if err != nil {
			left[name] = true
		}
	}
	return left
}

func bucketOf(s heal.State, name string) *heal.Bucket {
	for i := range s.Buckets {
		if s.Buckets[i].Name == name {
			return &s.Buckets[i]
		}
	}
	return nil
}

// mendAll makes slices anew that were found damaged.
func (k *Keeper) mendAll(ctx context.Context, s heal.State) {
	k.hints.mu.Lock()
	mend := k.hints.mend
	k.hints.mend = nil
	k.hints.mu.Unlock()
	for o := range mend {
		if err := k.mend(ctx, s, o); err != nil && ctx.Err() == nil {
			k.Logger.Warn("a damaged slice could not be made anew; it is tried again", "object", api.Address(o.Bucket, o.Name), "error", err)
			k.Mend(o.Bucket, o.Name)
		}
	}
}

func (k *Keeper) mend(ctx context.Context, s heal.State, o copies.ObjectName) error {
	b := bucketOf(s, o.Bucket)
	if b == nil {
		return nil
	}
	i, found, err := k.describe(ctx, s, b, o.Name)
	if err != nil || !found || i.Data == 0 {
		return err
	}
	_, err = k.Heal(ctx, i)
	return err
}

// describe finds an object's description: here, or with a target that has it.
func (k *Keeper) describe(ctx context.Context, s heal.State, b *heal.Bucket, name string) (store.Info, bool, error) {
	if i, ok, err := k.Store.State(b.Name, name); err != nil || ok {
		return i, ok && i.Kind != store.Tombstone, err
	}
	plan := s.Placer.Plan(b.Name, name, b.Copies())
	for _, id := range plan.Copies {
		n, ok := s.Placer.Node(id)
		if !ok || id == k.Self {
			continue
		}
		states, err := k.Wire.Have(ctx, n, b.Name, []string{name})
		if err != nil {
			return store.Info{}, false, err
		}
		if !states[0].Exists() {
			return store.Info{}, false, nil
		}
		i, body, err := k.Wire.Fetch(ctx, n, b.Name, name, states[0].Version)
		if err != nil {
			return store.Info{}, false, err
		}
		return i, true, body.Close()
	}
	return store.Info{}, false, nil
}
