package loader

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/sampler"
)

// iteration is one pass over (a part of) an epoch: a window of batches under assembly, filled by one
// puller per target. Pullers block where the window is full, TCP does the rest: memory is bounded on
// both sides however slow the consumer is.
type iteration struct {
	l      *Loader
	run    Run
	cancel context.CancelFunc
	done   chan struct{} // closed when every goroutine but confirming's has ended

	whole   chan struct{} // closed when every batch is there, delivered or not
	quiet   chan struct{} // closed when every puller has ended, though others may follow
	quieten sync.Once

	confirming sync.WaitGroup
	ready      chan struct{} // a token whenever the consumer should look again
	expiry     *time.Timer   // of one that was read ahead; guarded by the loader

	mu       sync.Mutex
	cond     *sync.Cond // a batch was assigned or delivered, a slot freed, or the iteration ended
	view     sampler.View
	info     api.StreamInfo // as the gateway opened the stream
	ahead    bool           // of its time: another iteration is being delivered yet (see ahead.go)
	batches  int64          // of this worker; -1 until the snapshot is known
	deliver  int64          // index of the next batch for the consumer
	assign   int64          // index of the next batch to get a slot
	window   map[int64]*batch
	spare    []*batch
	cluster  string // its id
	pullers  []*puller
	pulling  int                  // of the pullers, those that have not ended
	asked    map[*puller]struct{} // that repairs made, and are at work
	mapped   time.Time            // when the map was asked for last
	version  int64                // of the map
	group    *errgroup.Group
	err      error
	stopped  bool          // pullers shall end
	pulled   bool          // pullers have ended
	form     form          // of the last batch with a sample, where short batches are padded
	hungry   bool          // the consumer waits for any batch that has one
	patience time.Duration // that the consumer has spent on the next batch
	lastBy   string        // the target that completed the last one delivered
	counters counters

	turns *sampler.Turns // of a mixture
}

func startIteration(l *Loader, run Run, ahead bool) *iteration {
	ctx, cancel := context.WithCancel(context.Background())
	it := &iteration{
		l: l, run: run, view: l.view(run), cancel: cancel, ahead: ahead,
		done: make(chan struct{}), ready: make(chan struct{}, 1), whole: make(chan struct{}), quiet: make(chan struct{}),
		batches: -1, window: make(map[int64]*batch), asked: make(map[*puller]struct{}),
	}
	it.cond = sync.NewCond(&it.mu)
	it.counters.started = time.Now()
	go func() {
		err := it.pull(ctx)
		it.finish(err)
		close(it.done)
		if err == nil {
			l.lookAhead(it) //nolint:contextcheck // an iteration of its own, that outlives this one
		}
	}()
	return it
}

// pull resolves the stream and runs a puller per target until all have sent everything.
func (it *iteration) pull(ctx context.Context) error {
	info, err := it.open(ctx)
	if err != nil {
		return err
	}
	turns, err := turnsOf(info.Mixture, it.l.cfg.Seed, it.run.Epoch)
	if err != nil {
		return badRequest("%v", err)
	}
	group, ctx := errgroup.WithContext(ctx)
	it.mu.Lock()
	it.group, it.info, it.turns = group, info, turns
	it.view.Samples = info.Samples
	it.counters.snapshot, it.counters.order = info.Snapshot, it.orderOf(&info)
	it.cluster, it.version = info.Map.Cluster, info.Map.Version
	if err := it.view.Validate(); err != nil {
		it.mu.Unlock()
		return badRequest("%v", err)
	}
	it.batches = it.view.Batches()
	for _, n := range info.Map.Nodes {
		if n.Role == api.RoleTarget {
			p := newPuller(it, n, info.Snapshot)
			p.giveUpLocked(&n)
			it.pullers = append(it.pullers, p)
		}
	}
	it.pulling = len(it.pullers)
	pullers := it.pullers
	it.mu.Unlock()
	it.signal()
	if len(pullers) == 0 {
		return api.Errorf(503, api.CodeUnavailable, "the cluster has no targets")
	}
	// A puller that fails ends the others, those that wait for room in the window too.
	defer context.AfterFunc(ctx, func() {
		it.mu.Lock()
		it.stopped = true
		it.cond.Broadcast()
		it.mu.Unlock()
	})()
	group.Go(guarded(func() error { return it.watch(ctx) }))
	for _, p := range pullers {
		it.spawn(ctx, p)
	}
	return group.Wait()
}

// open asks a gateway for the snapshot, again while gateways are unreachable or busy.
func (it *iteration) open(ctx context.Context) (api.StreamInfo, error) {
	cfg := &it.l.cfg
	req := api.StreamRequest{
		Sources: cfg.Sources, Samples: cfg.Samples, BatchSize: cfg.BatchSize, Seed: cfg.Seed, ETL: cfg.ETL, ETLArgs: cfg.ETLArgs,
		Shuffle: cfg.Shuffle, Slices: cfg.Slices, Window: cfg.Window,
		Fields: cfg.Fields, Decode: cfg.Decode, WorldSize: it.run.World, Rank: it.run.Rank, DropLast: cfg.DropLast, Mixture: cfg.Mixture,
		Epoch: it.run.Epoch, Ahead: it.run.Position == 0,
	}
	retry := newBackoff(cfg.Timeout)
	for {
		tctx, cancel := context.WithTimeout(ctx, retry.left())
		info, err := it.l.control.OpenStream(tctx, req)
		cancel()
		if err == nil {
			if err := checkMixture(cfg.Mixture, info.Mixture); err != nil {
				return info, err
			}
			return info, it.checkSnapshot(info)
		}
		if ctx.Err() != nil || permanent(err) {
			return info, err
		}
		if describing(err) { // which goes on: what was described is not described again
			retry.reset()
			retry.wait(ctx)
			continue
		}
		it.count(func(c *counters) { c.retries++ })
		// Where nobody listens, waiting on helps only while a gateway is being started again.
		refused := errors.Is(err, syscall.ECONNREFUSED) && retry.spent() > gatewayPatience
		if refused || !retry.wait(ctx) {
			return info, unopened(err)
		}
	}
}

// unopened makes an error that a user can act on of one that came from the transport.
func unopened(err error) error {
	var answer *api.Error
	if errors.As(err, &answer) {
		return err
	}
	return api.Errorf(503, api.CodeUnavailable, "the stream could not be opened: %v; is the cluster up, and the endpoint right? See `shardstream status`", err)
}

func (it *iteration) checkSnapshot(info api.StreamInfo) error {
	if it.run.Snapshot != "" && it.run.Snapshot != info.Snapshot {
		return api.Errorf(409, codeSnapshotChanged,
			"the state was saved for snapshot %.12s, but the sources are now snapshot %.12s (%d samples in %d shards): shards were added, removed or rewritten; start a new epoch, or restore the old shards",
			it.run.Snapshot, info.Snapshot, info.Samples, info.Shards)
	}
	return nil
}

// describing says that the gateway is at work, and has more to do than it lets anybody wait for.
func describing(err error) bool {
	var ae *api.Error
	return errors.As(err, &ae) && ae.Code == api.CodeDescribing
}

// permanent says that asking again can't help: the cluster understood and refused.
func permanent(err error) bool {
	var ae *api.Error
	return errors.As(err, &ae) && ae.Status < 500 && ae.Status != 429
}

// next implements Loader.Next.
func (it *iteration) next(timeout time.Duration) (int, int64, error) {
	began, delivered := time.Now(), false
	defer func() { it.waited(time.Since(began), delivered) }()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	for {
		slot, table, ok, err := it.tryDeliver()
		if ok || err != nil {
			delivered = ok
			it.signal() // another caller may have waited for the same token
			return slot, table, err
		}
		select {
		case <-it.ready:
		case <-timer.C:
			return 0, 0, ErrTimeout
		}
	}
}

func (it *iteration) tryDeliver() (slot int, table int64, ok bool, err error) {
	it.mu.Lock()
	defer it.mu.Unlock()
	if it.ahead { // not yet known to be what is wanted
		return 0, 0, false, it.outdatedLocked()
	}
	if it.batches >= 0 && it.deliver >= it.batches {
		if err := it.overBudget(it.counters.samples+it.counters.skipped, true); err != nil {
			return 0, 0, false, err
		}
		return 0, 0, false, ErrEnd
	}
	b := it.window[it.deliver]
	if b == nil || !b.complete() {
		if it.err == nil && it.pulled {
			it.err = fmt.Errorf("batch %d is incomplete although every target finished", it.deliver)
		}
		return 0, 0, false, it.err
	}
	at, ready, err := it.complete(b)
	if err != nil {
		it.err = err
	}
	if err != nil || !ready {
		return 0, 0, false, it.err
	}
	it.l.arena.hold(b.slot)
	slot, it.lastBy = b.slot.id, b.by
	it.counters.batches++
	it.counters.samples += b.samples()
	it.counters.bytes += b.bytes
	b.retire()
	delete(it.window, it.deliver)
	it.spare = append(it.spare, b)
	it.deliver++
	it.cond.Broadcast()
	return slot, at, true, nil
}

// complete makes a batch whose places are all settled ready for the consumer; false where one of which no
// sample is left waits for another that shows what it would have looked like.
func (it *iteration) complete(b *batch) (table int64, ready bool, err error) {
	switch live := b.arrange(); {
	case live && b.pad:
		it.form.remember(b)
	case !live && b.pad && it.l.cfg.OnError != Raise:
		if ready, err := it.findForm(b); !ready {
			return 0, false, err
		}
		if err := b.blank(it.form); err != nil {
			return 0, false, err
		}
	}
	if err := it.judge(b); err != nil {
		return 0, false, err
	}
	table, err = b.finish(it.turns)
	return table, err == nil, err
}

func (b *batch) complete() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.missing == 0
}

// finish records how the pullers ended. Batches that are complete are delivered before an error is.
func (it *iteration) finish(err error) {
	it.mu.Lock()
	if it.err == nil {
		it.err = err
	}
	it.pulled = true
	it.mu.Unlock()
	it.signal()
}

// signal makes the consumer look again.
func (it *iteration) signal() {
	select {
	case it.ready <- struct{}{}:
	default:
	}
}

// completed is called by whoever settled the last place of a batch.
func (it *iteration) completed(index int64, node string) {
	it.mu.Lock()
	first := index == it.deliver || it.hungry
	if b := it.window[index]; b != nil {
		if node != "" {
			b.by = node
		}
		if b.repair {
			it.cond.Broadcast() // it waits for its turn, and has nothing to do any more
		}
	}
	it.wholeLocked()
	it.mu.Unlock()
	if first {
		it.signal()
	}
}

// slotFreed lets pullers that wait for memory look again.
func (it *iteration) slotFreed() {
	it.mu.Lock()
	it.cond.Broadcast()
	it.mu.Unlock()
}

// stop cancels the pullers, waits for them and gives the window's slots back.
func (it *iteration) stop() {
	it.mu.Lock()
	it.cancel()
	it.stopped = true
	if it.err == nil {
		it.err = errEnded
	}
	it.cond.Broadcast()
	it.mu.Unlock()
	<-it.done
	it.confirming.Wait()
	it.mu.Lock()
	defer it.mu.Unlock()
	for i, b := range it.window {
		it.l.arena.put(b.slot)
		delete(it.window, i)
	}
	it.counters.stopped = time.Now()
}
