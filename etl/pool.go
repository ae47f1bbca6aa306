package etl

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/shardstream/shardstream/etl/environment"
)

const (
	chunkTime    = 20 * time.Millisecond // work that a worker should take at a time
	chunkLeast   = time.Millisecond      // and, near the end of a call, the least that is worth a crossing
	chunkSamples = 128
	chunkBytes   = 1 << 20
	chunkFirst   = 4 // samples in a chunk while nothing is known of the function's speed
)

// Options are a pool's surroundings; all have defaults.
type Options struct {
	Python       string        // interpreter; else as FindPython says
	Isolation    string        // the least that will do, as sandbox names it; empty or "auto": the most that the machine has
	Hide         []string      // directories of the node, which no worker may see
	Dir          string        // where workers get their temporary directories; the system's by default
	Logger       *slog.Logger  // worker restarts and the like; not the user's output, which Logs returns
	StartTimeout time.Duration // for loading the source, imports included; default 60 s
	MaxSample    int64         // payload bytes of one sample, in or out; default 1 GiB
	MaxResults   int64         // payload bytes of all results of one call; default 4 GiB
	LogBytes     int           // of user output kept; default 64 KiB
	// Environments builds what definitions require; nil: the node's Python has to have it.
	Environments *environment.Manager
}

var _ Runtime = (*Pool)(nil)

// chunk is what one worker takes at a time: a run of samples, or an object.
type chunk struct {
	ctx    context.Context //nolint:containedctx // of the call that it is part of
	kind   uint8
	args   Args
	in     []Sample
	out    []Result
	object *objectCall
	finish func(error) // called once; afterwards in and out belong to the caller again

	held   *atomic.Int64 // bytes of results of the call so far
	deaths int           // of processes that worked on it
	fault  error         // the arguments do not fit: nothing of it can succeed
}

// Pool is a set of worker processes that all run one definition. It is safe for concurrent use.
type Pool struct {
	spawn *spawner
	def   Definition
	size  int

	queue  chan *chunk     // unbuffered: a chunk is handed to a worker that is ready for it
	demand chan struct{}   // asks for one more process
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	once   sync.Once
	err    error // of Close

	mu       sync.Mutex
	retired  bool           // no new calls
	inflight sync.WaitGroup // calls; grows only while not retired
	slots    sync.WaitGroup

	running  atomic.Int64
	alive    atomic.Int64 // running or starting
	estimate atomic.Int64 // nanoseconds of one sample
	latency  Meter
	counts   struct {
		requests, samples, errors, restarts, timeouts, bytesIn, bytesOut, waiting, busy atomic.Int64
	}
}

// NewPool checks the definition's form and finds the interpreter; processes start with the first samples.
func NewPool(def Definition, opts Options) (*Pool, error) {
	spawn, err := newSpawner(def, opts)
	if err != nil {
		return nil, err
	}
	p := &Pool{spawn: spawn, def: spawn.def, size: spawn.def.Workers, queue: make(chan *chunk)}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	if p.size == 0 {
		p.size = runtime.GOMAXPROCS(0)
	}
	p.demand = make(chan struct{}, p.size)
	for i := range p.size {
		s := &slot{pool: p, log: spawn.log.With("worker", i+1)}
		p.slots.Go(s.run)
	}
	return p, nil
}

// Definition is what the pool runs, defaults filled in.
func (p *Pool) Definition() Definition { return p.def }

// Transform applies the function to every sample of in; out[i] answers in[i] and must be as long. Samples run
// in parallel. A sample that fails has its Err set and does not stop the others; the error returned means
// that the pool can't work at all (ErrClosed, ErrLevel, a *UserError of a source that doesn't load or of arguments
// that don't fit), or that ctx ended; out is then incomplete. Neither in nor out is touched once Transform
// has returned. Results share memory with each other and, in blobs that the function returned as it got them, with the
// samples: treat both as read-only while either is in use.
func (p *Pool) Transform(ctx context.Context, args Args, in []Sample, out []Result) error {
	if len(in) != len(out) {
		return fmt.Errorf("etl %q: %d samples, room for %d results", p.def.Name, len(in), len(out))
	}
	switch {
	case p.def.Level == LevelSample:
		return p.transform(ctx, requestSample, args, in, out)
	case p.def.Level == LevelBatch:
		return p.transform(ctx, requestBatch, args, in, out)
	case len(p.def.Fields) > 0:
		return TransformFields(ctx, p, 2*p.size, args, in, out)
	}
	return p.wrongLevel("whole objects", "samples")
}

// TransformObject applies an object-level function to one object. The context is that of the whole answer: when it
// ends, so does the reading of the body.
func (p *Pool) TransformObject(ctx context.Context, args Args, object Object) (*Output, error) {
	if p.def.Level != LevelObject {
		return nil, p.wrongLevel("samples", "whole objects")
	}
	args, err := p.def.MergeArgs(args)
	if err != nil {
		return nil, err
	}
	if !p.enter() {
		return nil, ErrClosed
	}
	p.counts.requests.Add(1)
	p.counts.waiting.Add(1)
	begun := time.Now()
	call := newObjectCall(ctx, object)
	c := &chunk{ctx: call.ctx, kind: requestObject, args: args, object: call}
	c.finish = func(err error) {
		p.counts.waiting.Add(-1)
		p.latency.Observe(time.Since(begun))
		call.end(err)
		p.inflight.Done()
	}
	if err := p.hand(ctx, c); err != nil {
		c.finish(err)
	}
	answer := <-call.answer
	if answer.output == nil || answer.output.Size >= 0 {
		call.cancel() // nothing of it is left
	}
	return answer.output, answer.err
}

// transform cuts the samples into chunks, hands them to workers as these become free, and waits for all.
func (p *Pool) transform(ctx context.Context, kind uint8, args Args, in []Sample, out []Result) error {
	args, err := p.def.MergeArgs(args)
	if err != nil {
		return err
	}
	if !p.enter() {
		return ErrClosed
	}
	defer p.inflight.Done()
	defer func(begun time.Time) { p.latency.Observe(time.Since(begun)) }(time.Now())
	p.counts.requests.Add(1)
	p.counts.waiting.Add(int64(len(in)))
	defer p.counts.waiting.Add(-int64(len(in)))
	var pending sync.WaitGroup
	var mu sync.Mutex
	var failed error
	fail := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		if err != nil && failed == nil {
			failed = err
		}
	}
	hasFailed := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return failed != nil
	}
	var held atomic.Int64
	for at := 0; at < len(in) && !hasFailed(); {
		n := p.chunkSize(kind, in[at:], len(in))
		c := &chunk{ctx: ctx, kind: kind, args: args, in: in[at : at+n], out: out[at : at+n], held: &held}
		pending.Add(1)
		c.finish = func(err error) { fail(err); pending.Done() }
		if err := p.hand(ctx, c); err != nil {
			c.finish(err)
		}
		at += n
	}
	pending.Wait()
	return failed
}

// chunkSize says how many of the samples left make a chunk: enough work that the crossing costs little, little
// enough that all workers have some. Chunks shrink towards the end of a call, so that workers end together (guided
// self-scheduling, Polychronopoulos and Kuck 1987). A batch function gets as many at a time as that leaves to each
// worker.
func (p *Pool) chunkSize(kind uint8, left []Sample, all int) int {
	most, limit := max(1, len(left)/(2*p.size)), int64(chunkBytes)
	if kind == requestBatch {
		most, limit = min((all+p.size-1)/p.size, maxBatchSamples), maxBatchBytes
	} else if estimate := p.estimate.Load(); estimate > 0 {
		most = max(most, int(int64(chunkLeast)/estimate))
		most = min(most, max(1, int(int64(chunkTime)/estimate)), chunkSamples)
	} else {
		most = min(most, chunkFirst)
	}
	n := min(most, len(left))
	var size int64
	for i := range n {
		if size += left[i].Size(); size > limit {
			return max(1, i)
		}
	}
	return n
}

// hand gives a chunk to the next free worker and asks for another process where none is free.
func (p *Pool) hand(ctx context.Context, c *chunk) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if p.ctx.Err() != nil {
		return ErrClosed
	}
	select {
	case p.queue <- c:
		return nil
	default:
	}
	select {
	case p.demand <- struct{}{}:
	default: // as many as there are slots have been asked for
	}
	select {
	case p.queue <- c:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-p.ctx.Done():
		return ErrClosed
	}
}

// observe counts a finished chunk and, where nothing unusual happened, learns how long a sample takes.
func (p *Pool) observe(c *chunk, took time.Duration, usual bool) {
	var failures, sent, received int64
	for i := range c.in {
		sent += c.in[i].Size()
		received += c.out[i].Size()
		if c.out[i].Err != nil {
			failures++
		}
	}
	n := int64(len(c.in))
	if call := c.object; call != nil {
		n, sent, received = 1, call.in+call.fed.Load(), call.out
		if call.failed {
			failures = 1
		}
	}
	p.counts.samples.Add(n)
	p.counts.errors.Add(failures)
	p.counts.bytesIn.Add(sent)
	p.counts.bytesOut.Add(received)
	p.counts.busy.Add(int64(took))
	if !usual {
		return
	}
	each := max(1, int64(took)/n)
	if old := p.estimate.Load(); old > 0 {
		each = (3*old + each) / 4
	}
	p.estimate.Store(each)
}

// Logs is the end of what the build of the environment and user code wrote to stdout and stderr.
func (p *Pool) Logs() string { return p.spawn.buildLog() + p.spawn.logs.String() }

// Stats are the pool's counts.
func (p *Pool) Stats() Stats {
	c := &p.counts
	return Stats{
		Workers: p.size, Running: int(p.running.Load()),
		Requests: c.requests.Load(), Samples: c.samples.Load(), Errors: c.errors.Load(), Restarts: c.restarts.Load(), Timeouts: c.timeouts.Load(),
		BytesIn: c.bytesIn.Load(), BytesOut: c.bytesOut.Load(), Waiting: c.waiting.Load(),
		Busy: time.Duration(c.busy.Load()), Latency: p.latency.Histogram(),
	}
}

// enter registers a call, unless the pool is on its way out.
func (p *Pool) enter() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.retired {
		return false
	}
	p.inflight.Add(1)
	return true
}

// Shutdown refuses new calls with ErrClosed, lets the running ones finish and then closes the pool; when ctx ends
// first it closes the pool at once.
func (p *Pool) Shutdown(ctx context.Context) error {
	p.mu.Lock()
	p.retired = true
	p.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.inflight.Wait()
	}()
	select {
	case <-done:
		return p.Close()
	case <-ctx.Done():
		err := p.Close() // ends the calls that are left
		<-done
		return err
	}
}

// Close ends the pool: running samples are given up with ErrClosed, every process and goroutine is joined. Idempotent.
func (p *Pool) Close() error {
	p.once.Do(func() {
		p.mu.Lock()
		p.retired = true
		p.mu.Unlock()
		p.cancel()
		p.slots.Wait()
		p.err = p.spawn.cleanup()
	})
	return p.err
}
