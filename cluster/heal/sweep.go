package heal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/store"
)

const (
	gravesEvery = time.Minute // or the grace of tombstones, where that is shorter
	dropBatch   = 100         // deletes behind one sync of the audit log
)

// sweep removes what does not belong here, where that was confirmed a period of grace ago and is confirmed again now. It
// says whether nothing of the kind is left.
func (h *Healer) sweep(ctx context.Context, s State) (clean bool, err error) {
	clean = true
	for i := range s.Buckets {
		b := &s.Buckets[i]
		p := h.buckets[b.Name]
		if len(p.misplaced) == 0 {
			continue
		}
		if time.Since(p.confirmed) < h.c.DeleteGrace {
			clean = false
			continue
		}
		if err := h.sweepBucket(ctx, s, b, p); err != nil {
			return false, fmt.Errorf("bucket %s: %w", b.Name, err)
		}
		clean = clean && len(p.misplaced) == 0 && p.placed()
	}
	if h.c.Slices != nil && h.slices != 0 {
		left, err := h.c.Slices.Sweep(ctx)
		if err != nil {
			return false, fmt.Errorf("slices: %w", err)
		}
		h.slices = left
		clean = clean && left == 0
	}
	return clean, nil
}

// sweepBucket walks the bucket for what is to go. What is not as it was when it was first confirmed has the pass begin
// again.
func (h *Healer) sweepBucket(ctx context.Context, s State, b *Bucket, p *progress) error {
	first := p.misplaced
	p.misplaced = nil
	for last, more := "", true; more; {
		infos, next, err := h.list(b, last, pageSize)
		if err != nil {
			p.reset()
			return err
		}
		if more = next && len(infos) > 0; more {
			last = infos[len(infos)-1].Name
		}
		candidates := infos[:0:0]
		for i := range infos {
			if plan := s.plan(b, infos[i].Name); !slices.Contains(plan.Copies, h.c.Self) {
				candidates = append(candidates, infos[i])
			}
		}
		if len(candidates) == 0 {
			continue
		}
		if err = h.same(); err == nil {
			err = h.sweepPage(ctx, s, b, p, candidates, first)
		}
		if err != nil {
			p.reset()
			return err
		}
	}
	return nil
}

func (h *Healer) sweepPage(ctx context.Context, s State, b *Bucket, p *progress, infos []store.Info, first map[uint64]bool) error {
	page, err := h.ask(ctx, s, b, infos, false)
	if err != nil {
		return err
	}
	may := func(k *key) bool { return k.Drop && first[k.hash()] }
	// A whole copy of an erasure-coded object stands in for slices that are missing.
	standsIn := func(k *key) bool { return k.info.Data > 0 && k.info.Kind == store.Whole }
	complete := map[uint64]bool{}
	for i := range page.keys {
		if k := &page.keys[i]; may(k) && standsIn(k) {
			complete[k.hash()] = h.slice(ctx, k.info)
		}
	}
	if len(complete) > 0 { // which took its time, and answers count for a while only
		if page, err = h.ask(ctx, s, b, infos, false); err != nil {
			return err
		}
	}
	var list []Deletion
	for i := range page.keys {
		k := &page.keys[i]
		needed := standsIn(k) && !complete[k.hash()]
		if !may(k) || needed {
			p.note(k, k.Drop && !(may(k) && needed)) // to be confirmed for the first time, or to be placed
			continue
		}
		list = append(list, Deletion{
			Info: k.info, Reason: "it belongs on others, which have it", Keepers: k.copies, Proof: k.proof(), Asked: page.at, Map: s.Placer.Map.Version,
		})
	}
	return h.drop(ctx, list)
}

// drop deletes in batches, each with its lines in the audit log before.
func (h *Healer) drop(ctx context.Context, list []Deletion) error {
	for batch := range slices.Chunk(list, dropBatch) {
		if err := h.same(); err != nil {
			return err
		}
		n, err := h.c.Deletes.Do(ctx, h.c.Self, batch)
		h.count(func(c *Counts) { c.Deleted += int64(n) })
		if err != nil {
			return err
		}
	}
	return nil
}

// empty says of a target that is drained whether nothing at all lies here any more.
func (h *Healer) empty(s State) (bool, error) {
	if self, _ := s.Placer.Node(h.c.Self); !self.Draining {
		return false, nil
	}
	for i := range s.Buckets {
		infos, _, err := h.c.Store.ListAll(s.Buckets[i].Name, "", "", 1)
		if err != nil || len(infos) > 0 {
			return false, err
		}
	}
	if h.c.Slices == nil {
		return true, nil
	}
	held, err := h.c.Slices.Holds()
	return !held && err == nil, err
}

// bury lets tombstones go that are older than their grace. That is safe only while nobody could come back with an older
// copy: all targets are there, with all of their disks, and all data is where it belongs. And each target must know of
// the deletion still, or know nothing of the object.
func (h *Healer) bury(ctx context.Context, s State) error {
	if time.Since(h.swept) < min(gravesEvery, h.c.TombstoneGrace) || !allThere(&s.Placer.Map) || !s.Placer.Layout().Settled() {
		return nil
	}
	for i := range s.Buckets {
		b := &s.Buckets[i]
		for last, more := "", true; more; {
			infos, next, err := h.c.Store.ListAll(b.Name, "", last, pageSize) // all disks are there
			if err != nil {
				return err
			}
			if more = next && len(infos) > 0; more {
				last = infos[len(infos)-1].Name
			}
			old := slices.DeleteFunc(infos, func(i store.Info) bool {
				return i.Kind != store.Tombstone || time.Since(i.Created) < h.c.TombstoneGrace
			})
			if len(old) == 0 {
				continue
			}
			if err := h.buryPage(ctx, s, b, old); err != nil {
				return err
			}
		}
	}
	h.swept = time.Now()
	return nil
}

func (h *Healer) buryPage(ctx context.Context, s State, b *Bucket, graves []store.Info) error {
	names := make([]string, len(graves))
	for i := range graves {
		names[i] = graves[i].Name
	}
	asking, members := map[string][]string{}, []string{}
	for _, n := range s.Placer.Map.Targets() {
		if members = append(members, n.ID); n.ID != h.c.Self {
			asking[n.ID] = names
		}
	}
	at := time.Now()
	answers, err := h.have(ctx, s, b.Name, asking)
	if err != nil {
		return err
	}
	list := make([]Deletion, 0, len(graves))
	for i, grave := range graves {
		d := Deletion{
			Info: grave, Reason: "all targets know of the deletion, or of nothing older", Keepers: members,
			Proof: map[string]uint64{}, Asked: at, Map: s.Placer.Map.Version,
		}
		for id := range asking {
			if list := answers[id]; len(list) == len(names) && list[i] != nil && !list[i].Lost {
				d.Proof[id] = list[i].Version
			}
		}
		if d.check(h.c.Self, time.Now()) == nil { // else it is kept
			list = append(list, d)
		}
	}
	if !allThere(&h.current().Placer.Map) {
		return errGoal
	}
	err = h.drop(ctx, list)
	if errors.Is(err, ErrNoProof) {
		return nil // kept: the next time
	}
	return err
}

func (h *Healer) current() State { return h.c.State(h.c.Board.Control().Round) }

// allThere says that no target is away, down or bare, and that no disk is missing anywhere.
func allThere(m *api.Map) bool {
	for _, n := range m.Targets() {
		if n.Away || n.Bare || n.State != api.StateOK {
			return false
		}
		for _, d := range n.Disks {
			if d.State != api.StateOK {
				return false
			}
		}
	}
	return true
}
