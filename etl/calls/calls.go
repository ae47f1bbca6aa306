// Package calls keeps the books of a runtime that hands each call to something outside the node, a server or a program:
// how many run at once, what they did, and that none is left behind when the runtime goes.
package calls

import (
	"context"
	"errors"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/shardstream/shardstream/etl"
)

// Book admits calls and counts them. It is safe for concurrent use.
type Book struct {
	places chan struct{} // one for each call under way
	ctx    context.Context
	cancel context.CancelFunc

	mu       sync.Mutex
	retired  bool
	inflight sync.WaitGroup // grows only while not retired

	latency etl.Meter
	counts  struct {
		requests, samples, errors, restarts, timeouts, bytesIn, bytesOut, waiting, busy atomic.Int64
	}
}

// New makes a book that lets so many calls run at once; 0: one for each CPU.
func New(workers int) *Book {
	if workers == 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	b := &Book{places: make(chan struct{}, workers)}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	return b
}

// Workers is how many calls run at once.
func (b *Book) Workers() int { return cap(b.places) }

// Call is one call under way. Its owner ends it, once.
type Call struct {
	Ctx context.Context //nolint:containedctx // of the call: ends with the caller's, the call, or the book

	book   *Book
	cancel context.CancelCauseFunc
	stop   func() bool
	begun  time.Time
	once   sync.Once
}

// Begin admits a call and waits for its turn. It answers ErrClosed once the book is closed.
func (b *Book) Begin(ctx context.Context) (*Call, error) {
	if !b.enter() {
		return nil, etl.ErrClosed
	}
	b.counts.requests.Add(1)
	b.counts.waiting.Add(1)
	select {
	case b.places <- struct{}{}:
	case <-ctx.Done():
		b.leave()
		return nil, ctx.Err()
	case <-b.ctx.Done():
		b.leave()
		return nil, etl.ErrClosed
	}
	c := &Call{book: b, begun: time.Now()}
	c.Ctx, c.cancel = context.WithCancelCause(ctx)
	c.stop = context.AfterFunc(b.ctx, func() { c.cancel(etl.ErrClosed) })
	return c, nil
}

func (b *Book) enter() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.retired {
		return false
	}
	b.inflight.Add(1)
	return true
}

func (b *Book) leave() {
	b.counts.waiting.Add(-1)
	b.inflight.Done()
}

// In and Out count payload bytes given and received.
func (c *Call) In(n int64) { c.book.counts.bytesIn.Add(n) }

// Out counts bytes received.
func (c *Call) Out(n int64) { c.book.counts.bytesOut.Add(n) }

// Cancel ends the call's context for a reason; Cause tells it.
func (c *Call) Cancel(reason error) { c.cancel(reason) }

// Cause is why the call's context has ended, nil while it has not: the reason given to Cancel, ErrClosed, or what ended
// the caller's context.
func (c *Call) Cause() error { return context.Cause(c.Ctx) }

// End counts the call's outcome and gives its place to the next one. Only the first End counts.
func (c *Call) End(samples, failed int) {
	c.once.Do(func() {
		c.stop()
		c.cancel(context.Canceled)
		took := time.Since(c.begun)
		c.book.latency.Observe(took)
		c.book.counts.busy.Add(int64(took))
		c.book.counts.samples.Add(int64(samples))
		c.book.counts.errors.Add(int64(failed))
		<-c.book.places
		c.book.leave()
	})
}

// Timeout and Restart count what they say.
func (b *Book) Timeout() { b.counts.timeouts.Add(1) }

// Restart counts a process or container that died or was given up.
func (b *Book) Restart() { b.counts.restarts.Add(1) }

// Stats are the counts; running is what only the runtime knows.
func (b *Book) Stats(running int) etl.Stats {
	c := &b.counts
	return etl.Stats{
		Workers: cap(b.places), Running: running,
		Requests: c.requests.Load(), Samples: c.samples.Load(), Errors: c.errors.Load(), Restarts: c.restarts.Load(),
		Timeouts: c.timeouts.Load(), BytesIn: c.bytesIn.Load(), BytesOut: c.bytesOut.Load(), Waiting: c.waiting.Load(),
		Busy: time.Duration(c.busy.Load()), Latency: b.latency.Histogram(),
	}
}

// Drain refuses new calls and waits for those under way; when ctx ends first, it ends them.
func (b *Book) Drain(ctx context.Context) {
	b.mu.Lock()
	b.retired = true
	b.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.inflight.Wait()
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
	b.cancel()
	<-done
}

// Answer makes the output of a call: reading it counts bytes, refuses more than limit, and passes every error but the
// end through fail; closing it ends the call. closer frees what the call holds.
func (c *Call) Answer(body io.Reader, closer func(), key string, limit int64, fail func(error) error) io.ReadCloser {
	return &answer{call: c, body: body, closer: closer, key: key, limit: limit, fail: fail}
}

type answer struct {
	call   *Call
	body   io.Reader
	closer func()
	fail   func(error) error
	key    string
	limit  int64

	read int64
	err  error
	once sync.Once
}

func (a *answer) Read(p []byte) (int, error) {
	if a.err != nil {
		return 0, a.err
	}
	n, err := a.body.Read(p)
	a.read += int64(n)
	a.call.Out(int64(n))
	switch {
	case a.read > a.limit:
		a.err = a.fail(&etl.SizeError{Key: a.key, Size: a.read, Limit: a.limit})
		return 0, a.err
	case err == nil:
		return n, nil
	case errors.Is(err, io.EOF):
		a.err = io.EOF
	default:
		a.err = a.fail(err)
	}
	return n, a.err
}

// Close ends the call. An answer that was not read to its end is given up, which is no failure of the user's.
func (a *answer) Close() error {
	a.once.Do(func() {
		failed := 0
		if a.err != nil && !errors.Is(a.err, io.EOF) {
			failed = 1
		}
		if a.err == nil {
			a.err = errors.New("the answer was closed")
		}
		a.call.Cancel(context.Canceled)
		a.closer()
		a.call.End(1, failed)
	})
	return nil
}

func isClosed(err error) bool { return errors.Is(err, etl.ErrClosed) }
