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
	clean, err := h.sweep(ctx, s)
	if err != nil {
		return err
	}
	if !clean {
		report.Clean, report.Reasons = false, []string{fmt.Sprintf("copies that were moved are removed after %v", h.c.DeleteGrace)}
		h.show(report)
		return nil
	}
	if report.Empty, err = h.empty(s); err != nil {
		return err
	}
	report.State, report.Clean = api.RebalanceIdle, true
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
			continue
		}
		left += int64(len(p.left))
		reasons = append(reasons, fmt.Errorf("bucket %s: %d objects wait", b.Name, len(p.left)))
	}
	h.count(func(c *Counts) { c.Left = left })
	if len(reasons) == 0 {
		return nil
	}
	r := h.Report()
	r.State, r.Placed, r.Clean, r.Empty = api.RebalanceRunning, false, false, false
	r.Reasons = []string{fmt.Sprintf("%d objects are not where they belong yet", left)}
	h.show(r)
	return errors.Join(append(reasons, errLeft)...)
}

// total counts what a pass has before it, once.
func (h *Healer) total(s State) error {
	for i := range s.Buckets {
		b := &s.Buckets[i]
		p := h.buckets[b.Name]
		if p.walked || p.counted {
			continue
		}
		var n int64
		for last, more := p.cursor, true; more; {
			infos, next, err := h.list(b, last, countPage)
			if err != nil {
				return err
			}
			if more = next && len(infos) > 0; more {
				last = infos[len(infos)-1].Name
			}
			n += int64(len(infos))
		}
		p.counted = true
		h.count(func(c *Counts) { c.Total += n })
	}
	return nil
}

// list is a page of what lies here. While a disk is out, what the others have of a mirrored bucket is all that there is
// to do: the rest is on other targets. What has one copy is not on any, so such a bucket waits for the disk.
func (h *Healer) list(b *Bucket, after string, limit int) ([]store.Info, bool, error) {
	infos, more, err := h.c.Store.ListAll(b.Name, "", after, limit)
	if errors.Is(err, store.ErrDiskFailed) && b.Copies() > 1 && len(b.Was) == 0 {
		err = nil
	}
	return infos, more, err
}

// placeBucket walks a bucket from where it was left, or looks again at what was not as it should be.
func (h *Healer) placeBucket(ctx context.Context, s State, b *Bucket, p *progress) error {
	if p.walked && p.overflow {
		p.reset()
	}
	again := p.left
	p.left = nil
	for len(again) > 0 {
		names := again[:min(pageSize, len(again))]
		infos, err := h.states(b.Name, names)
		if err == nil {
			err = h.placePage(ctx, s, b, p, infos)
		}
		if err != nil {
			p.left = append(p.left, again...)
			return err
		}
		again = again[len(names):]
	}
	for !p.walked {
		infos, more, err := h.list(b, p.cursor, pageSize)
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
		h.mark(b.Name, p)
	}
	return nil
}

// mark notes in the report how far everything is placed, for whoever goes on after a restart.
func (h *Healer) mark(bucket string, p *progress) {
	if len(p.left) > 0 || p.overflow || len(p.misplaced) > 0 {
		return
	}
	for name, other := range h.buckets {
		if name < bucket && (!other.placed() || len(other.misplaced) > 0) {
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
		if err != nil && !errors.Is(err, store.ErrDiskFailed) { // else it is not here any more
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
		group.Go(func() error {
			done[i] = h.placeKey(pushing, s, &page.keys[i])
			return nil
		})
	}
	if err := errors.Join(group.Wait(), ctx.Err()); err != nil {
		return err
	}
	for i := range page.keys {
		p.note(&page.keys[i], done[i])
	}
	return nil
}

// placeKey gives others what they lack of a key, and says whether nothing is lacking any more.
func (h *Healer) placeKey(ctx context.Context, s State, k *key) bool {
	done := !k.Unsure && (!k.Lacking || len(k.Push) > 0)
	for _, id := range k.Push {
		done = h.push(ctx, s, k.info, id) && done
	}
	if !k.Mine || !done || k.info.Kind == store.Tombstone || k.info.Data == 0 && !s.toSlice(&k.info) {
		return done
	}
	return h.slice(ctx, k.info)
}

// slice makes what is missing of an erasure-coded object's slices.
func (h *Healer) slice(ctx context.Context, info store.Info) bool {
	if h.c.Slices == nil {
		return false // nobody can tell
	}
	began := time.Now()
	outcome, err := h.c.Slices.Heal(ctx, info)
	if err != nil {
		h.failed(ctx, info, "those that lack slices", err)
	}
	if outcome.Made > 0 {
		h.count(func(c *Counts) { c.Moved += int64(outcome.Made); c.Bytes += outcome.Bytes })
		h.pace.after(ctx, time.Since(began))
		if h.pace.before(ctx, outcome.Bytes) != nil { // the next one waits: how much is missing is known only now
			return false
		}
	}
	return err == nil && !outcome.Lacking
}

// push gives a target a copy, and says whether it has it now.
func (h *Healer) push(ctx context.Context, s State, info store.Info, to string) bool {
	node, ok := s.Placer.Node(to)
	if !ok || node.State != api.StateOK || h.pace.before(ctx, info.Payload()) != nil {
		return false
	}
	began := time.Now()
	n, err := h.c.Peers.Push(ctx, s.Placer.Map.Version, node, info)
	if err != nil {
		h.failed(ctx, info, to, err)
		return false
	}
	h.count(func(c *Counts) { c.Moved++; c.Bytes += n })
	h.pace.after(ctx, time.Since(began))
	return true
}

func (h *Healer) failed(ctx context.Context, info store.Info, to string, err error) {
	if ctx.Err() != nil {
		return
	}
	address := api.Address(info.Bucket, info.Name)
	h.log.WarnContext(ctx, "a copy could not be made; it is tried again", "object", address, "to", to, "error", err)
	h.count(func(c *Counts) {
		c.Failed++
		c.Detail = fmt.Sprintf("%s to %s: %v", address, to, err)
	})
}

// key is something that lies here, and what is to be done about it.
type key struct {
	Decision
	info    store.Info
	copies  []string // who is to have it
	want    int      // how many
	answers map[string]Answer
}

// hash names a key's copy.
func (k *key) hash() uint64 { return xxh3.HashStringSeed(k.info.Name, k.info.Version) }

// proof is who has which version.
func (k *key) proof() map[string]uint64 {
	proof := make(map[string]uint64, len(k.answers))
	for id, a := range k.answers {
		if !a.Lost {
			proof[id] = a.Version
		}
	}
	return proof
}

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
		plan := s.plan(b, infos[i].Name)
		if known && infos[i].Kind != store.Lost && s.untouched(b, &infos[i], &plan) {
			continue
		}
		q := Question{
			Self: h.c.Self, Plan: plan, Own: Answer{Version: infos[i].Version, Lost: infos[i].Kind == store.Lost},
			Answers: map[string]Answer{}, Want: b.Copies(),
		}
		for _, id := range plan.Ask(h.c.Self) {
			if n, ok := s.Placer.Node(id); ok && n.State == api.StateOK && !n.Away {
				names[id], places[id] = append(names[id], infos[i].Name), append(places[id], len(questions))
			}
		}
		questions = append(questions, q)
		page.keys = append(page.keys, key{info: infos[i], copies: plan.Copies, want: b.Copies()})
	}
	answers, err := h.have(ctx, s, b.Name, names)
	if err != nil {
		return page, err
	}
	for id, list := range answers {
		for n, a := range list {
			if a != nil {
				questions[places[id][n]].Answers[id] = *a
			}
		}
	}
	for i := range questions {
		page.keys[i].Decision, page.keys[i].answers = Decide(questions[i]), questions[i].Answers
	}
	return page, nil
}

// have asks each of the targets for its names. Who does not answer is left out: what follows from that is for Decide.
func (h *Healer) have(ctx context.Context, s State, bucket string, names map[string][]string) (map[string][]*Answer, error) {
	results := make(map[string]*[]*Answer, len(names))
	var group errgroup.Group
	for id, list := range names {
		node, _ := s.Placer.Node(id)
		result := new([]*Answer)
		results[id] = result
		group.Go(func() error {
			answers, err := h.c.Peers.Have(ctx, s.Placer.Map.Version, node, bucket, list)
			if err != nil {
				h.log.DebugContext(ctx, "a target does not tell what it has", "target", id, "error", err)
			} else if len(answers) == len(list) {
				*result = answers
			}
			return nil
		})
	}
	err := errors.Join(group.Wait(), ctx.Err())
	answers := make(map[string][]*Answer, len(names))
	for id, result := range results {
		answers[id] = *result
	}
	return answers, err
}
