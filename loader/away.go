package loader

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
)

// A target that can't be reached, or that the cluster has given up, is excused: batches count as answered without it,
// and what they lack is asked of the others, which may have copies (see repair.go). Its puller tries on beside that,
// and what it sends once it is back is taken again. Where nobody else has a shard, the repair waits as the
// puller would have.

const (
	// lookEvery is how often a batch that does not get on is noticed, stuckFor how long it may not, until the map is
	// asked for, and lookAtMost how far the looks lie apart where they find nothing: the target may just be slow.
	lookEvery  = 250 * time.Millisecond
	stuckFor   = time.Second
	lookAtMost = 8 * time.Second
)

// away is a puller's state as one whose target may be away.
type away struct {
	excused atomic.Bool // changed under the iteration's lock
	// These are guarded by the iteration.
	given bool      // up by the cluster, as the map says
	heard time.Time // when it first answered since it was excused
	last  error

	mu  sync.Mutex
	cut func() // ends what the puller waits for of its target
}

func (a *away) cuts(cut func()) {
	a.mu.Lock()
	a.cut = cut
	a.mu.Unlock()
}

// interrupt ends the wait for a target that hangs. What it has sent by halves is given back.
func (a *away) interrupt() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.cut != nil {
		a.cut()
	}
}

// resume is the batch from which on a target is to be read: others may have filled some that it did not answer.
func (it *iteration) resume(p *puller) int64 {
	it.mu.Lock()
	defer it.mu.Unlock()
	from := max(p.progress.Load(), it.deliver)
	p.progress.Store(from)
	return from
}

// excuse goes on without a target, until it is back.
func (it *iteration) excuse(ctx context.Context, p *puller, reason error) {
	it.mu.Lock()
	first := !p.away.excused.Load()
	if first {
		p.away.excused.Store(true)
		p.away.heard = time.Time{}
	}
	p.away.last = reason
	it.mu.Unlock()
	if first {
		it.checkHoles(ctx)
	}
}

// greet notes that a target has answered. It may take a while to get on; but one that only ever begins is still away.
func (it *iteration) greet(p *puller) {
	it.mu.Lock()
	defer it.mu.Unlock()
	if p.away.excused.Load() && p.away.heard.IsZero() {
		p.away.heard = time.Now()
	}
}

// welcome takes a target back that gets on.
func (it *iteration) welcome(p *puller) {
	it.mu.Lock()
	defer it.mu.Unlock()
	p.away.excused.Store(false)
}

// missed is since when a batch has been missing something, where that began to be asked for; false where it is some
// target's turn to answer. A target that was away and has answered has as much time from then on.
func (it *iteration) missed(index int64, since time.Time) (time.Time, bool) {
	it.mu.Lock()
	defer it.mu.Unlock()
	for _, p := range it.pullers {
		if p.away.excused.Load() && p.away.heard.After(since) {
			since = p.away.heard
		}
	}
	return since, index < it.answeredLocked()
}

// giveUpLocked notes whether the cluster has given a target up. One that it has, and that is not being read, is not
// waited for.
func (p *puller) giveUpLocked(n *api.Node) {
	p.away.given = n.Away
	p.away.mu.Lock()
	idle := p.away.cut == nil
	p.away.mu.Unlock()
	if n.Away && idle && !p.away.excused.Load() {
		p.away.heard = time.Time{}
		p.away.excused.Store(true)
	}
}

// isWhole says that all batches are there: nothing more is needed of any target.
func (it *iteration) isWhole() bool {
	select {
	case <-it.whole:
		return true
	default:
		return false
	}
}

// wholeLocked ends the pullers of targets that are away once all batches are there.
func (it *iteration) wholeLocked() {
	if it.assign < it.batches || it.isWhole() {
		return
	}
	for _, b := range it.window {
		if !b.complete() {
			return
		}
	}
	close(it.whole)
	for _, p := range it.pullers {
		if p.away.excused.Load() {
			p.away.interrupt()
		}
	}
}

// spawn runs a puller. Only goroutines of the group call it, and whoever begins the group.
func (it *iteration) spawn(ctx context.Context, p *puller) {
	it.group.Go(guarded(func() error {
		defer it.leave()
		return p.run(ctx)
	}))
}

// leave counts a puller that has ended.
func (it *iteration) leave() {
	it.mu.Lock()
	defer it.mu.Unlock()
	if it.pulling--; it.pulling == 0 {
		it.quieten.Do(func() { close(it.quiet) })
	}
}

// watch looks after targets that hang. Where a batch does not get on, it asks for the map, and ends the wait for those
// that the cluster has given up. It is of the pullers' group, and ends with the last of them.
func (it *iteration) watch(ctx context.Context) error {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	last, since, pause := int64(-1), time.Now(), stuckFor
	for {
		select {
		case <-ticker.C:
		case <-it.quiet:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
		it.mu.Lock()
		at, stuck := it.deliver, it.stuckLocked()
		it.mu.Unlock()
		switch {
		case at != last || !stuck:
			if time.Since(since) < stuckFor {
				pause = stuckFor
			}
			last, since = at, time.Now()
		case time.Since(since) >= pause:
			it.refreshMap(ctx)
			it.dropHung(ctx, at)
			since, pause = time.Now(), min(pause+pause/2, lookAtMost)
		}
	}
}

// stuckLocked says that the next batch lacks something, or has not been begun.
func (it *iteration) stuckLocked() bool {
	b := it.window[it.deliver]
	return !it.ahead && it.deliver < it.batches && (b == nil || !b.complete())
}

// dropHung ends the wait for targets that were given up and have not answered a batch, and for what repairs ask of them.
func (it *iteration) dropHung(ctx context.Context, index int64) {
	it.mu.Lock()
	given := map[string]bool{}
	var hung []*puller
	for _, p := range it.pullers {
		given[p.node] = p.away.given
		if p.away.given && !p.away.excused.Load() && p.progress.Load() <= index {
			hung = append(hung, p)
		}
	}
	for p := range it.asked {
		if given[p.node] {
			p.away.interrupt()
		}
	}
	it.mu.Unlock()
	for _, p := range hung {
		p.away.interrupt()
		it.excuse(ctx, p, api.Errorf(503, api.CodeUnavailable, "the cluster has given it up"))
	}
}
