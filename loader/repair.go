package loader

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/wire"
)

// describe fills in what all requests of an iteration share.
func (it *iteration) describe(r *wire.ReadRequest) {
	cfg, v := &it.l.cfg, &it.view
	r.Epoch, r.Seed = it.run.Epoch, cfg.Seed
	r.Shuffle, r.Slices, r.Window = it.counters.order.Shuffle, it.counters.order.Slices, it.counters.order.Window
	r.Start, r.BatchSize, r.DropLast = v.Start, v.BatchSize, v.DropLast
	r.World, r.Rank, r.Workers, r.Worker = v.World, v.Rank, v.Workers, v.Worker
	r.Compress = cfg.Compress
	r.Objects = cfg.Samples == api.SamplesObjects
	r.ETL, r.ETLArgs = cfg.ETL, cfg.ETLArgs
	r.Fields, r.Decode, r.Chunk = cfg.Fields, cfg.Decode, chunkBatches
	r.Mixture = planOf(it.info.Mixture)
}

// refreshMap learns new addresses of targets, of targets that have joined, and of those that the cluster has given up;
// failing that, the old ones are tried again.
func (it *iteration) refreshMap(ctx context.Context) {
	asked, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	m, err := it.l.control.RefreshMap(asked)
	if err != nil {
		return
	}
	it.mu.Lock()
	defer it.mu.Unlock()
	it.mapped = time.Now()
	if m.Map.Version < it.version {
		return // from a gateway that is behind
	}
	it.version = m.Map.Version
	for _, p := range it.pullers {
		if _, member := m.Map.Node(p.node); !member {
			p.giveUpLocked(&api.Node{Away: true})
		}
	}
	for _, n := range m.Map.Nodes {
		i := slices.IndexFunc(it.pullers, func(p *puller) bool { return p.node == n.ID })
		switch {
		case i >= 0:
			it.pullers[i].peer.Store(&n)
			it.pullers[i].giveUpLocked(&n)
		case n.Role == api.RoleTarget && n.State == api.StateOK:
			it.joinLocked(ctx, n)
		}
	}
}

// mapAge is how old the map may be that is gone by once a batch had to be repaired: shards may have moved to targets
// that have joined.
const mapAge = time.Second

// renewMap asks for the map unless that was done just now.
func (it *iteration) renewMap(ctx context.Context) {
	it.mu.Lock()
	old := time.Since(it.mapped) > mapAge
	it.mu.Unlock()
	if old {
		it.refreshMap(ctx)
	}
}

// joinLocked begins to read from a target that was not there when the stream was opened: shards may have
// moved to it. It is asked from the batch that the consumer waits for; what it sends of batches that others
// filled is dropped. Only goroutines of the group call it.
func (it *iteration) joinLocked(ctx context.Context, n api.Node) {
	if it.stopped {
		return
	}
	p := newPuller(it, n, it.counters.snapshot)
	p.progress.Store(it.deliver)
	it.pullers = append(it.pullers, p)
	it.pulling++
	it.spawn(ctx, p)
}

// checkHoles starts a repair for each batch of the window that every target has answered and that still
// lacks samples: they were damaged on the way or on disk, or moved while they were being asked for.
func (it *iteration) checkHoles(ctx context.Context) {
	it.mu.Lock()
	defer it.mu.Unlock()
	answered := it.answeredLocked()
	for index := it.deliver; index < min(answered, it.assign); index++ {
		it.repairLocked(ctx, index)
	}
	// A batch of which nobody holds a sample has no slot yet; it gets one, so that it is repaired. What is in
	// the way (no room, an error) meets acquire or settle too.
	for it.assign < answered && !it.stopped {
		if ok, err := it.assignNext(ctx); !ok || err != nil {
			return
		}
	}
}

// answeredLocked is the first batch that some target has not answered yet; those that are away don't count.
func (it *iteration) answeredLocked() int64 {
	answered := it.batches
	for _, p := range it.pullers {
		if !p.away.excused.Load() {
			answered = min(answered, p.progress.Load())
		}
	}
	return answered
}

func (it *iteration) repairLocked(ctx context.Context, index int64) {
	b := it.window[index]
	if b == nil || b.repair || b.complete() {
		return
	}
	b.repair = true
	it.group.Go(guarded(func() error {
		err := it.repair(ctx, b, index)
		if err == nil {
			it.repaired(ctx, b, index)
		}
		return err
	}))
}

// repaired ends a repair that found nothing more to ask for. Places that another stream was filling then may
// be empty again by now: whoever gave them up did not start a repair beside this one.
func (it *iteration) repaired(ctx context.Context, b *batch, index int64) {
	it.mu.Lock()
	defer it.mu.Unlock()
	if it.window[index] != b {
		return
	}
	b.repair = false
	if index < it.answeredLocked() && len(b.holes(index, nil)) > 0 {
		it.repairLocked(ctx, index)
	}
}

// repair asks every target that is not away for the missing places of a batch, verified, until they are there.
func (it *iteration) repair(ctx context.Context, b *batch, index int64) error {
	retry, began := newBackoff(it.l.cfg.Timeout), time.Now()
	for {
		left, last, err := it.askAll(ctx, b, index)
		if err != nil {
			return err
		}
		if left == 0 {
			it.renewMap(ctx)
			return nil
		}
		if b.resign(index) {
			it.completed(index, "")
			return nil
		}
		var answered bool
		if retry.since, answered = it.missed(index, began); !answered {
			return nil // a target is back, and at it
		}
		if !retry.wait(ctx) {
			if holes := b.holes(index, nil); len(holes) > 0 {
				return it.lost(index, holes, last)
			}
			return nil // they are being filled
		}
		it.refreshMap(ctx)
		waited, err := it.turn(ctx, b, index)
		if err != nil {
			return err
		}
		began = began.Add(waited)
	}
}

// askAll asks one target after the other for what a batch lacks, and returns how many places still do.
func (it *iteration) askAll(ctx context.Context, b *batch, index int64) (left int, last, err error) {
	var holes []int
	it.mu.Lock()
	pullers := it.pullers // more of them once a target has joined
	it.mu.Unlock()
	for i := range pullers {
		p := pullers[(int64(i)+index)%int64(len(pullers))] // not all repairs of all ranks the same first
		if holes = b.holes(index, holes[:0]); len(holes) == 0 {
			return 0, nil, nil
		}
		once := it.ask(p)
		if once == nil {
			continue
		}
		err := once.stream(ctx, wire.ReadRequest{From: index, To: index + 1, Slots: holes, Verify: true})
		it.told(once)
		if ctx.Err() != nil {
			return 0, nil, ctx.Err()
		}
		if err == nil {
			continue
		}
		if err := it.mend(ctx, err); err != nil {
			return 0, nil, err
		}
		last = err
	}
	return len(b.holes(index, holes[:0])), last, nil
}

// ask makes the puller of one answer; nil where the target is away.
func (it *iteration) ask(p *puller) *puller {
	it.mu.Lock()
	defer it.mu.Unlock()
	if p.away.excused.Load() {
		return nil
	}
	it.counters.retries++
	once := newPuller(it, *p.peer.Load(), p.snapshot)
	it.asked[once] = struct{}{}
	return once
}

func (it *iteration) told(once *puller) {
	it.mu.Lock()
	delete(it.asked, once)
	it.mu.Unlock()
}

// turn waits until the consumer comes to a batch that nobody could fill: what one needs that is away is asked for
// again and again, and not for all batches of the window.
func (it *iteration) turn(ctx context.Context, b *batch, index int64) (waited time.Duration, err error) {
	began := time.Now()
	it.mu.Lock()
	defer it.mu.Unlock()
	for it.deliver < index && !b.complete() {
		if it.stopped || ctx.Err() != nil {
			return 0, context.Canceled
		}
		it.cond.Wait()
	}
	return time.Since(began), nil
}

func (it *iteration) lost(index int64, holes []int, last error) error {
	reason := "no target holds them; was a shard deleted or rewritten after the stream was opened?"
	if last != nil {
		reason = last.Error()
	}
	it.mu.Lock()
	for _, p := range it.pullers {
		if p.away.excused.Load() && p.away.last != nil {
			reason = p.unreachable(p.away.last).Message
		}
	}
	it.mu.Unlock()
	return api.Errorf(503, codeTimeout, "%d samples of batch %d, the first at position %d of the epoch, did not arrive within %v: %s",
		len(holes), index, it.view.Batch(index).Start+int64(holes[0]), it.l.cfg.Timeout, reason)
}

// permanentError marks an error of this side that trying again can't mend.
type permanentError struct{ error }

func (e permanentError) Unwrap() error { return e.error }

// fatal says that a stream's error ends the iteration.
func fatal(err error) bool {
	var p permanentError
	return errors.As(err, &p) || permanent(err)
}

// mend returns nil where asking again may help after a stream's error. A snapshot that no target has any
// more, or not all of (they keep the last ones used, and may lose those with the power), is made again by
// the gateway.
func (it *iteration) mend(ctx context.Context, err error) error {
	var ae *api.Error
	if !errors.As(err, &ae) || ae.Code != api.CodeNoSnapshot && ae.Code != api.CodeMissingPages {
		if fatal(err) {
			return err
		}
		return nil
	}
	info, err := it.open(ctx)
	if err != nil {
		return err
	}
	it.mu.Lock()
	defer it.mu.Unlock()
	if info.Snapshot != it.counters.snapshot {
		return api.Errorf(409, codeSnapshotChanged,
			"the sources changed since the stream was opened, and its snapshot %.12s is gone; start a new epoch, or restore the old shards", it.counters.snapshot)
	}
	return nil
}

// remoteError makes an error of a FrameError; codes of passing trouble are tried again.
func remoteError(f wire.Failure) error {
	if f.Code == "" || strings.Trim(f.Code, "abcdefghijklmnopqrstuvwxyz0123456789_") != "" {
		return fmt.Errorf("%w: an error with the code %.40q", wire.ErrMalformed, f.Code)
	}
	if f.Message == "" {
		f.Message = "the target gave no reason"
	}
	status := 400
	switch f.Code {
	case api.CodeUnavailable, api.CodeBusy, api.CodeInternal, wire.CodeUnshared:
		status = 503
	}
	return api.Errorf(status, f.Code, "%s", f.Message)
}

// backoff waits between tries, longer each time, within a budget since the last success.
type backoff struct {
	budget time.Duration
	since  time.Time
	delay  time.Duration
}

const (
	firstDelay = 20 * time.Millisecond
	lastDelay  = time.Second
	// gatewayPatience is how long a gateway that refuses connections is waited for.
	gatewayPatience = 3 * time.Second
)

func newBackoff(budget time.Duration) *backoff {
	return &backoff{budget: budget, since: time.Now(), delay: firstDelay}
}

func (b *backoff) reset() { b.since, b.delay = time.Now(), firstDelay }

func (b *backoff) spent() time.Duration { return time.Since(b.since) }

// left is what remains of the budget, at least enough for one try.
func (b *backoff) left() time.Duration { return max(b.budget-b.spent(), lastDelay) }

// wait sleeps until the next try; false when the budget is used up or the context ended.
func (b *backoff) wait(ctx context.Context) bool {
	return time.Since(b.since)+b.delay <= b.budget && b.pause(ctx, nil)
}

// pause sleeps until the next try, whatever the budget; false when done was closed or the context ended.
func (b *backoff) pause(ctx context.Context, done <-chan struct{}) bool {
	t := time.NewTimer(b.delay)
	defer t.Stop()
	b.delay = min(b.delay*2, lastDelay)
	select {
	case <-t.C:
		return true
	case <-done:
		return false
	case <-ctx.Done():
		return false
	}
}
