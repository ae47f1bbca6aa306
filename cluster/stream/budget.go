package stream

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
)

const (
	// streamBytes is what an open stream costs before it holds a batch: its send buffer, and what the
	// connection, three small batches' descriptions and its goroutines take.
	streamBytes = sendBuffer + 256<<10
	// keptBytes is how much a job keeps of its buffers from one batch to the next without being asked.
	keptBytes     = 1 << 20
	stallPatience = 10 * time.Second
)

// errStalled ends a stream whose client takes nothing while others wait for the memory that it holds.
// Its loader comes back for the first batch that it did not get.
var errStalled = errors.New("the client takes nothing, and other streams wait for the memory that its batches hold")

// Budget bounds the memory that all streams of a node take together. What is sent from the page cache
// takes none; a batch that is transformed lies in memory, input and output, until its client has it.
//
// Half of the budget is for what streams take as long as they are open: one more is refused as busy when
// that is used up. The other half is for transformed batches, which wait for room. The batch that a client
// waits for goes before those that are prepared ahead, which may take half of that half only; and where
// nothing is held, any batch may go on. Two loaders that wait for each other's memory on two nodes can't lock up: a client that takes
// nothing for a while loses its stream when others wait, and asks again.
type Budget struct {
	// Stall is how long a client may leave a write waiting while others wait for memory. It is set before
	// the first stream.
	Stall time.Duration

	total, limit int64 // limit: of each half
	evictions    atomic.Int64

	mu      sync.Mutex
	open    int64 // of open streams
	batches int64 // claimed by transformed batches
	tenants map[*tenant]struct{}
	queue   []*waiter // in the order of arrival
}

// NewBudget makes a budget of some bytes.
func NewBudget(total int64) *Budget {
	return &Budget{total: total, limit: total / 2, Stall: stallPatience, tenants: map[*tenant]struct{}{}}
}

// Total is the budget in bytes.
func (b *Budget) Total() int64 { return b.total }

// Used is how many bytes are taken now.
func (b *Budget) Used() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.open + b.batches
}

// Evictions counts the streams that were ended since their clients stalled while others waited.
func (b *Budget) Evictions() int64 { return b.evictions.Load() }

// Full says that another stream would be refused.
func (b *Budget) Full() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.open+streamBytes > b.limit
}

// tenant is one stream's account; a nil tenant has no bounds.
type tenant struct {
	budget  *Budget
	evict   func()
	writing atomic.Int64 // since when a write waits for the client, in Unix nanoseconds; 0 where none does

	// Guarded by the budget.
	open    int64
	held    int // batches in memory
	batches int64
}

// waiter is a batch that waits for room.
type waiter struct {
	tenant  *tenant
	bytes   int64
	granted chan struct{}
}

// admit opens an account; evict ends its stream, and must not block. A nil budget gives a nil tenant.
func (b *Budget) admit(evict func()) (*tenant, error) {
	if b == nil {
		return nil, nil
	}
	t := &tenant{budget: b, evict: evict}
	b.mu.Lock()
	b.tenants[t] = struct{}{}
	b.mu.Unlock()
	if err := t.keep(streamBytes); err != nil {
		t.leave()
		return nil, err
	}
	return t, nil
}

// keep takes memory for as long as the stream is open.
func (t *tenant) keep(bytes int64) error {
	if t == nil {
		return nil
	}
	b := t.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open+bytes > b.limit {
		return api.Errorf(429, api.CodeBusy, "streams take %d of the %d bytes that this target has for open ones, and this one needs %d more; end some, choose a smaller batch_size, or give it more (--stream-memory)", b.open, b.limit, bytes)
	}
	b.open += bytes
	t.open += bytes
	return nil
}

// claim waits until a batch may take some bytes.
func (t *tenant) claim(ctx context.Context, bytes int64) error {
	if t == nil {
		return nil
	}
	b := t.budget
	w := &waiter{tenant: t, bytes: bytes, granted: make(chan struct{})}
	b.mu.Lock()
	b.queue = append(b.queue, w)
	b.grant()
	b.mu.Unlock()
	patience := time.NewTicker(b.Stall)
	defer patience.Stop()
	for {
		select {
		case <-w.granted:
			return nil
		case <-ctx.Done():
			b.withdraw(w)
			return ctx.Err()
		case <-patience.C:
			b.evictOne(w)
		}
	}
}

// grant gives room to those who wait, in their order. The caller holds the lock.
func (b *Budget) grant() {
	passed := false // a batch that its client waits for does not fit: nobody overtakes it
	b.queue = slices.DeleteFunc(b.queue, func(w *waiter) bool {
		room, first := b.limit, w.tenant.held == 0
		if !first {
			room /= 2
		}
		fits := b.batches+w.bytes <= room || first && b.batches == 0
		if passed || !fits {
			passed = passed || first
			return false
		}
		w.tenant.held++
		w.tenant.batches += w.bytes
		b.batches += w.bytes
		close(w.granted)
		return true
	})
}

// withdraw takes a waiter back whose stream has ended.
func (b *Budget) withdraw(w *waiter) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if i := slices.Index(b.queue, w); i >= 0 {
		b.queue = slices.Delete(b.queue, i, i+1)
		b.grant() // others may have waited behind it
		return
	}
	b.release(w.tenant, w.bytes)
}

// resize corrects a claim to what the batch really takes, which may be more than there is room for.
func (t *tenant) resize(from, to int64) {
	if t == nil {
		return
	}
	b := t.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	t.batches += to - from
	b.batches += to - from
	b.grant()
}

// unclaim gives a batch's bytes back.
func (t *tenant) unclaim(bytes int64) {
	if t == nil {
		return
	}
	t.budget.mu.Lock()
	defer t.budget.mu.Unlock()
	t.budget.release(t, bytes)
}

func (b *Budget) release(t *tenant, bytes int64) {
	t.held--
	t.batches -= bytes
	b.batches -= bytes
	b.grant()
}

// evictOne ends the stream that has waited longest for its client, and too long, where w waits for it.
func (b *Budget) evictOne(w *waiter) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if w.tenant.held > 0 {
		return // only prepared ahead
	}
	var worst *tenant
	since := time.Now().Add(-b.Stall).UnixNano()
	for t := range b.tenants {
		if at := t.writing.Load(); t.held > 0 && at != 0 && at < since {
			worst, since = t, at
		}
	}
	if worst != nil {
		worst.writing.Store(0) // once
		b.evictions.Add(1)
		worst.evict()
	}
}

// leave closes the account. It is idempotent.
func (t *tenant) leave() {
	if t == nil {
		return
	}
	b := t.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open -= t.open
	b.batches -= t.batches
	t.open, t.batches, t.held = 0, 0, 0
	delete(b.tenants, t)
	b.grant()
}

// waits notes that a write waits for the client from now on, or no longer.
func (t *tenant) waits(yes bool) {
	switch {
	case t == nil:
	case yes:
		t.writing.Store(time.Now().UnixNano())
	default:
		t.writing.Store(0)
	}
}
