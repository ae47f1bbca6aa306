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
	r.Epoch, r.Seed, r.Shuffle = it.run.Epoch, cfg.Seed, cfg.Shuffle
	r.Start, r.BatchSize, r.DropLast = v.Start, v.BatchSize, v.DropLast
	r.World, r.Rank, r.Workers, r.Worker = v.World, v.Rank, v.Workers, v.Worker
	r.Compress = cfg.Compress
	r.Objects = cfg.Samples == api.SamplesObjects
	r.ETL, r.ETLArgs = cfg.ETL, cfg.ETLArgs
	r.Fields, r.Decode, r.Chunk = cfg.Fields, cfg.Decode, chunkBatches
	r.Mixture = planOf(it.info.Mixture)
}

// refreshMap learns new addresses of targets, and of targets that have joined; failing that, the old ones
// are tried again.
func (it *iteration) refreshMap(ctx context.Context) {
	asked, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	m, err := it.l.control.RefreshMap(asked)
	if err != nil {
		return
	}
	it.mu.Lock()
	defer it.mu.Unlock()
	for _, n := range m.Map.Nodes {
		i := slices.IndexFunc(it.pullers, func(p *puller) bool { return p.node == n.ID })
		switch {
		case i >= 0:
			it.pullers[i].peer.Store(&n)
		case n.Role == api.RoleTarget && n.State == api.StateOK:
			it.joinLocked(ctx, n)
		}
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
	it.group.Go(guarded(func() error { return p.run(ctx) }))
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

// answeredLocked is the first batch that some target has not answered yet.
func (it *iteration) answeredLocked() int64 {
	answered := it.batches
	for _, p := range it.pullers {
		answered = min(answered, p.progress.Load())
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

// repair asks every target for the missing places of a batch, verified, until they are there.
func (it *iteration) repair(ctx context.Context, b *batch, index int64) error {
	retry := newBackoff(it.l.cfg.Timeout)
	var holes []int
	for {
		it.mu.Lock()
		pullers := it.pullers // more of them once a target has joined
		it.mu.Unlock()
		var last error
		for _, p := range pullers {
			if holes = b.holes(index, holes[:0]); len(holes) == 0 {
				return nil
			}
			it.count(func(c *counters) { c.retries++ })
			once := newPuller(it, *p.peer.Load(), p.snapshot)
			err := once.stream(ctx, wire.ReadRequest{From: index, To: index + 1, Slots: holes, Verify: true})
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err == nil {
				continue
			}
			if err := it.mend(ctx, err); err != nil {
				return err
			}
			last = err
		}
		if holes = b.holes(index, holes[:0]); len(holes) == 0 {
			return nil
		}
		if !retry.wait(ctx) {
			return it.lost(index, holes, last)
		}
		it.refreshMap(ctx)
	}
}

func (it *iteration) lost(index int64, holes []int, last error) error {
	reason := "no target holds them; was a shard deleted or rewritten after the stream was opened?"
	if last != nil {
		reason = last.Error()
	}
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

// excuse takes time out of the budget's count.
func (b *backoff) excuse(d time.Duration) { b.since = b.since.Add(d) }

func (b *backoff) spent() time.Duration { return time.Since(b.since) }

// left is what remains of the budget, at least enough for one try.
func (b *backoff) left() time.Duration { return max(b.budget-b.spent(), lastDelay) }

// wait sleeps until the next try; false when the budget is used up or the context ended.
func (b *backoff) wait(ctx context.Context) bool {
	if time.Since(b.since)+b.delay > b.budget {
		return false
	}
	t := time.NewTimer(b.delay)
	defer t.Stop()
	b.delay = min(b.delay*2, lastDelay)
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
