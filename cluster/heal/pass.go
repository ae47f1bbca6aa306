package heal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/zeebo/xxh3"
	"golang.org/x/sync/errgroup"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/store"
)

const (
	pageSize  = 1000 // keys that others are asked about at once
	countPage = 10_000
	pushes    = 4 // under way at a time
	// maxLeft bounds the names of a bucket that are remembered to be looked at again, and maxMisplaced those of copies
	// that are to go; where there are more, the bucket is walked again.
	maxLeft      = 50_000
	maxMisplaced = 1_000_000
)

var (
	// errGoal ends a pass whose goal is no longer the cluster's.
	errGoal = errors.New("the set of targets has changed")
	// errLeft says that not all could be done.
	errLeft = errors.New("not everything is where it belongs yet")
)

// work does all that can be done now towards the goal.
func (h *Healer) work(ctx context.Context, s State) error {
	if v := s.Placer.Map.Version; h.quiet < v {
		if err := h.c.Gate.Quiet(ctx, v); err != nil {
			return err
		}
		h.quiet = v
	}
	if err := h.place(ctx, s); err != nil {
		return err
	}
	report := h.Report()
	report.State, report.Reasons, report.Placed = api.RebalanceRunning, nil, true
	h.show(report)
	clean, err := h.sweep(ctx, s)
	if err != nil || !clean {
		return err
	}
	held, err := h.holds(s)
	if err != nil {
		return err
	}
	report.State, report.Clean, report.Empty = api.RebalanceIdle, true, !held && h.extra.remains.Held == 0
	h.show(report)
	return h.bury(ctx, s)
}

// same ends a pass where the goal has changed, or people have stopped it.
func (h *Healer) same() error {
	control := h.c.Board.Control()
	s := h.c.State(control.Round)
	if control.Stopped || s.Goal() != h.goal || !h.c.Leased() {
		return errGoal
	}
	return nil
}

// place brings what lies here to all that are to have it.
func (h *Healer) place(ctx context.Context, s State) error {
	if err := h.total(s); err != nil {
		return err
	}
	var left int64
	var reasons []error
	for i := range s.Buckets {
		b := &s.Buckets[i]
		p := h.buckets[b.Name]
		if p.placed() {
			continue
		}
		if err := h.placeBucket(ctx, s, b, p); err != nil {
			return fmt.Errorf("bucket %s: %w", b.Name, err)
		}
		if p.placed() {
			h.known[b.Name] = p.policy
		} else {
			left += int64(len(p.left))
			reasons = append(reasons, fmt.Errorf("bucket %s: %d objects wait", b.Name, len(p.left)))
		}
	}
	if h.c.Keeper != nil && !h.extra.placed {
		remains, err := h.c.Keeper.Place(ctx, s, h.duty())
		if err != nil {
			return err
		}
		h.extra = keeping{remains: remains, placed: remains.Left == 0, confirmed: time.Now()}
		left += remains.Left
	}
	h.count(func(c *Counts) { c.Left = left })
	if left == 0 && len(reasons) == 0 {
		return nil
	}
	r := h.Report()
	r.Placed, r.Clean, r.Empty = false, false, false
	h.show(waiting(api.RebalanceRunning, fmt.Sprintf("%d objects are not where they belong yet", left), r))
	return errors.Join(append(reasons, errLeft)...)
}

// total counts what a pass has before it, once.
func (h *Healer) total(s State) error {
	for i := range s.Buckets {
		b := &s.Buckets[i]
		p := h.buckets[b.Name]
		if p.walked || p.counted > 0 {
			continue
		}
		for last, more := p.cursor, true; more; {
			infos, next, err := h.c.Store.ListAll(b.Name, "", last, countPage)
			if err != nil {
				return err
			}
			if more = next && len(infos) > 0; more {
				last = infos[len(infos)-1].Name
			}
			p.counted += int64(len(infos))
		}
		h.count(func(c *Counts) { c.Total += p.counted })
	}
	return nil
}

// placeBucket walks a bucket from where it was left, or looks again at what was not as it should be.
func (h *Healer) placeBucket(ctx context.Context, s State, b *Bucket, p *progress) error {
	if p.walked && p.overflow {
		*p = progress{policy: p.policy, counted: p.counted}
	}
	again := p.left
	p.left = nil
	for len(again) > 0 {
		names := again[:min(pageSize, len(again))]
		again = again[len(names):]
		infos, err := h.states(b.Name, names)
		if err == nil {
			err = h.placePage(ctx, s, b, p, infos)
		}
		if err != nil {
			p.left = append(p.left, append(names, again...)...)
			return err
		}
	}
	for !p.walked {
		infos, more, err := h.c.Store.ListAll(b.Name, "", p.cursor, pageSize)
		if err != nil {
			return err
		}
		if err := h.placePage(ctx, s, b, p, infos); err != nil {
			return err
		}
		h.count(func(c *Counts) { c.Objects += int64(len(infos)) })
		if len(infos) > 0 {
			p.cursor = infos[len(infos)-1].Name
		}
		p.walked = !more
		if len(p.left) == 0 && !p.overflow {
			h.mark(b.Name, p)
		}
	}
	return nil
}

// mark notes in the report how far everything is placed, for whoever goes on after a restart.
func (h *Healer) mark(bucket string, p *progress) {
	for name, other := range h.buckets {
		if name < bucket && !other.placed() {
			return
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.report.Cursor = &Cursor{Bucket: bucket, Name: p.cursor}
}

func (h *Healer) states(bucket string, names []string) ([]store.Info, error) {
	infos := make([]store.Info, 0, len(names))
	for _, name := range names {
		info, found, err := h.c.Store.State(bucket, name)
		if err != nil {
			return nil, err
		}
		if found {
			infos = append(infos, info)
		}
	}
	return infos, nil
}

// placePage deals with a page of what lies here.
func (h *Healer) placePage(ctx context.Context, s State, b *Bucket, p *progress, infos []store.Info) error {
	if err := h.same(); err != nil {
		return err
	}
	page, err := h.ask(ctx, s, b, infos, h.known[b.Name] == p.policy)
	if err != nil {
		return err
	}
	done := make([]bool, len(page.keys))
	group, pushing := errgroup.WithContext(ctx)
	group.SetLimit(pushes)
	for i := range page.keys {
		k := &page.keys[i]
		done[i] = !k.Unsure && (!k.Lacking || len(k.Push) > 0)
		if len(k.Push) == 0 {
			continue
		}
		group.Go(func() error {
			for _, id := range k.Push {
				if !h.push(pushing, s, k.info, id) {
					done[i] = false
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	for i := range page.keys {
		p.note(&page.keys[i], done[i])
	}
	return nil
}

// note remembers what is to be looked at again, and what is to go.
func (p *progress) note(k *key, done bool) {
	switch {
	case done && !k.Misplaced:
	case done:
		if p.misplaced == nil {
			p.misplaced = map[uint64]bool{}
		}
		if len(p.misplaced) < maxMisplaced {
			p.misplaced[k.hash()] = true
		}
		p.confirmed = time.Now()
	case len(p.left) < maxLeft:
		p.left = append(p.left, k.info.Name)
	default:
		p.overflow = true
	}
}

// push gives a target a copy, and says whether it has it now.
func (h *Healer) push(ctx context.Context, s State, info store.Info, to string) bool {
	node, ok := s.Placer.Node(to)
	if !ok || node.State != api.StateOK {
		return false
	}
	if h.pace.before(ctx, info.Payload()) != nil {
		return false
	}
	began := time.Now()
	n, err := h.c.Peers.Push(ctx, node, info)
	if err != nil {
		if ctx.Err() == nil {
			h.failed(info, to, err)
		}
		return false
	}
	h.count(func(c *Counts) { c.Moved++; c.Bytes += n })
	h.pace.after(ctx, time.Since(began))
	return true
}

func (h *Healer) failed(info store.Info, to string, err error) {
	address := api.Address(info.Bucket, info.Name)
	h.log.Warn("a copy could not be made; it is tried again", "object", address, "to", to, "error", err)
	h.count(func(c *Counts) {
		c.Failed++
		c.Detail = fmt.Sprintf("%s to %s: %v", address, to, err)
	})
}

// key is something that lies here, and what is to be done about it.
type key struct {
	Decision
	info    store.Info
	copies  []string
	answers map[string]uint64
}

// hash names a key's copy.
func (k *key) hash() uint64 { return xxh3.HashStringSeed(k.info.Name, k.info.Version) }

// asked is a page of keys with the others' answers.
type asked struct {
	keys []key
	at   time.Time // before the first of them was given
}

// ask has the others tell what they have of a page of keys, and decides. Where the bucket is known to have been in order
// under the sets before, keys are left out that those placed where the present one does.
func (h *Healer) ask(ctx context.Context, s State, b *Bucket, infos []store.Info, known bool) (asked, error) {
	page := asked{at: time.Now()}
	questions := make([]Question, 0, len(infos))
	names := map[string][]string{} // by node
	places := map[string][]int{}
	for i := range infos {
		plan := s.Placer.Plan(b.Name, infos[i].Name, b.Copies())
		if known && len(plan.Former) == 0 && !s.hasBare(plan.Copies) {
			continue
		}
		q := Question{Self: h.c.Self, Plan: plan, Own: infos[i].Version, Answers: map[string]uint64{}, Want: b.Copies()}
		for _, id := range plan.Ask(h.c.Self) {
			if n, ok := s.Placer.Node(id); ok && n.State == api.StateOK && !n.Away {
				names[id], places[id] = append(names[id], infos[i].Name), append(places[id], len(questions))
			}
		}
		questions = append(questions, q)
		page.keys = append(page.keys, key{info: infos[i], copies: plan.Copies})
	}
	answers := make(map[string][]uint64, len(names))
	for id := range names {
		answers[id] = nil
	}
	if err := h.have(ctx, s, b.Name, names, answers); err != nil {
		return page, err
	}
	for id, versions := range answers {
		for n, v := range versions {
			questions[places[id][n]].Answers[id] = v
		}
	}
	for i := range questions {
		page.keys[i].Decision, page.keys[i].answers = Decide(questions[i]), questions[i].Answers
	}
	return page, nil
}

// have asks each of the targets for its names. Who does not answer is left out: that is for Decide to judge.
func (h *Healer) have(ctx context.Context, s State, bucket string, names map[string][]string, answers map[string][]uint64) error {
	results := make(map[string]*[]uint64, len(names))
	var group errgroup.Group
	for id, list := range names {
		node, _ := s.Placer.Node(id)
		result := new([]uint64)
		results[id] = result
		group.Go(func() error {
			versions, err := h.c.Peers.Have(ctx, node, bucket, list)
			if err == nil && len(versions) == len(list) {
				*result = versions
			}
			return nil
		})
	}
	err := group.Wait()
	for id, result := range results {
		answers[id] = *result
	}
	if err == nil {
		err = ctx.Err()
	}
	return err
}
