package backend

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"time"
)

// Policy says how patient WithRetries is. What is zero gets its default.
type Policy struct {
	Backend string // its URL, for errors
	// Attempts bound the requests of one call that fail for a reason that passes, and those of a body without progress (6).
	Attempts int
	// Base and Limit are the first and the longest wait between attempts (100 ms, 10 s); what is waited is anything between
	// nothing and that. Limit also bounds, three times over, what a backend may ask for by Retry-After.
	Base, Limit time.Duration
	// Patience is how long a call waits for a backend that asks to be left alone, and for others' requests to end, before it
	// fails with Busy (60 s). No attempt begins later than that, counted from the last name of
	// a listing, and without the time that a put has been sending.
	Patience time.Duration
	// Requests and Bodies are how many requests wait for an answer at a time, and how many bodies are read (64, 128).
	Requests, Bodies int
	// Timeout is for one attempt of a call that moves no data (30 s); Stall is how long a body, a listing or a put may bring
	// nothing before it is given up and taken up again (30 s).
	Timeout, Stall time.Duration
	Observer       Observer // nil: nobody
}

// Observer hears of every call once it has ended. It must not block.
type Observer interface{ Observe(Observation) }

// Observation is one call that has ended.
type Observation struct {
	Op      string // "list", "stat", "open" (up to its answer), "read" (the body), "put", "delete"
	Took    time.Duration
	Err     error // nil, or *Error
	Bytes   int64 // of a body
	Retries int   // requests beyond the first
}

func (p Policy) complete() Policy {
	set := func(d *time.Duration, otherwise time.Duration) {
		if *d <= 0 {
			*d = otherwise
		}
	}
	count := func(n *int, otherwise int) {
		if *n <= 0 {
			*n = otherwise
		}
	}
	set(&p.Base, 100*time.Millisecond)
	set(&p.Limit, 10*time.Second)
	set(&p.Patience, time.Minute)
	set(&p.Timeout, 30*time.Second)
	set(&p.Stall, 30*time.Second)
	count(&p.Attempts, 6)
	count(&p.Requests, 64)
	count(&p.Bodies, 128)
	return p
}

// WithRetries makes a backend patient. What fails for a reason that passes is tried again, a bounded number of times, at
// random intervals that grow; a body that breaks off, stalls or ends early is taken up again where it stopped, by its
// tag. When the backend asks to be left alone, nobody sends it anything for that long, nor as much as before for a while.
// A body ends with io.EOF only when it is complete, and when it has the checksum that the backend has of it: otherwise
// the error is of kind Corrupt, and whoever kept the bytes may read once more. All errors are *Error.
func WithRetries(b Backend, p Policy) Backend {
	p = p.complete()
	return &patient{
		Backend: b, policy: p,
		gate:   newGate(p.Requests, p.Base, 3*p.Limit),
		bodies: newGate(p.Bodies, p.Base, p.Limit),
	}
}

type patient struct {
	Backend
	policy Policy
	gate   *gate
	bodies *gate // counts only
}

// call is one call in its attempts.
type call struct {
	*patient
	op, name string
	start    time.Time
	requests int
	fresh    int       // attempts since the last progress
	deadline time.Time // of patience: for the next attempt to begin
	corrupt  bool      // a put was refused for its checksum once
	left     bool      // the gate, before the attempt was over
}

func (p *patient) begin(op, name string) *call {
	return &call{patient: p, op: op, name: name, start: time.Now()}
}

func (c *call) observe(err error, n int64) {
	if c.policy.Observer != nil {
		c.policy.Observer.Observe(Observation{
			Op: c.op, Took: time.Since(c.start), Err: err, Bytes: n, Retries: max(c.requests-1, 0),
		})
	}
}

// run makes attempts until one succeeds, fails for good, or there were enough.
func (c *call) run(ctx context.Context, attempt func(context.Context) error) error {
	c.progressed()
	var last error
	for {
		if err := c.gate.enter(ctx, c.deadline); err != nil {
			return c.refused(ctx, err, last)
		}
		c.requests++
		c.left = false
		last = c.made(ctx, attempt(ctx))
		c.leave()
		if last == nil || !c.again(last) || !time.Now().Before(c.deadline) {
			return last
		}
		if KindOf(last) != Busy && !sleep(ctx, c.wait()) {
			return c.refused(ctx, context.Cause(ctx), last)
		}
	}
}

// progressed begins the time of patience anew.
func (c *call) progressed() { c.deadline = time.Now().Add(c.policy.Patience) }

// leave lets another in.
func (c *call) leave() {
	if !c.left {
		c.left = true
		c.gate.leave()
	}
}

// made turns the outcome of an attempt into an *Error, and tells the gate.
func (c *call) made(ctx context.Context, err error) error {
	if err == nil {
		c.gate.succeeded()
		return nil
	}
	e := c.typed(ctx, err)
	if e.Kind == Busy {
		c.gate.busy(e.After)
	}
	return e
}

// typed is any error as an *Error.
func (c *call) typed(ctx context.Context, err error) *Error {
	if cause := context.Cause(ctx); cause != nil {
		return &Error{Backend: c.policy.Backend, Op: c.op, Name: c.name, Kind: Failed, Err: cause}
	}
	var e *Error
	if errors.As(err, &e) && e.Op != "connect" {
		return e
	}
	kind, err := Broken(ctx, err)
	return &Error{Backend: c.policy.Backend, Op: c.op, Name: c.name, Kind: kind, Err: err}
}

// again tells whether there is another attempt.
func (c *call) again(err error) bool {
	switch kind := KindOf(err); {
	case kind == Busy: // by time
		return true
	case c.op == "put" && kind == Corrupt && !c.corrupt:
		c.corrupt = true
		return true
	case kind != Passing:
		return false
	}
	c.fresh++
	return c.fresh < c.policy.Attempts
}

func (c *call) wait() time.Duration {
	return rand.N(backOff(c.policy.Base, c.policy.Limit, max(c.fresh, 1)) + 1)
}

// refused is the error of a call that may not wait any longer; last is how its last attempt ended, if it made one.
func (c *call) refused(ctx context.Context, err, last error) error {
	e := &Error{Backend: c.policy.Backend, Op: c.op, Name: c.name, Kind: Busy, Err: err}
	if ctx.Err() != nil {
		e.Kind, e.Err = Failed, context.Cause(ctx)
		if last != nil {
			e.Err = fmt.Errorf("%w, after: %w", e.Err, last)
		}
		return e
	}
	var paused *pausedError
	if errors.As(err, &paused) {
		e.After = paused.left
	}
	var before *Error
	if errors.As(last, &before) {
		e.Status, e.Err = before.Status, before.Err
	}
	return e
}

// within makes an attempt that has a limit of time.
func (c *call) within(ctx context.Context, attempt func(context.Context) error) error {
	limited, cancel := context.WithTimeoutCause(ctx, c.policy.Timeout, errSlow)
	defer cancel()
	err := attempt(limited)
	return c.slow(ctx, limited, err)
}

// slow tells a request that was given up from one that its caller has given up.
func (c *call) slow(ctx, limited context.Context, err error) error {
	if err != nil && ctx.Err() == nil && limited.Err() != nil {
		return &Error{Backend: c.policy.Backend, Op: c.op, Name: c.name, Kind: Passing, Err: context.Cause(limited)}
	}
	return err
}

var (
	errSlow    = errors.New("it did not answer in time")
	errStalled = errors.New("it stood still for too long")
)

func (p *patient) Stat(ctx context.Context, name string) (e Entry, err error) {
	c := p.begin("stat", name)
	err = c.run(ctx, func(ctx context.Context) error {
		return c.within(ctx, func(ctx context.Context) (err error) {
			e, err = p.Backend.Stat(ctx, name)
			return err
		})
	})
	c.observe(err, 0)
	return e, err
}

func (p *patient) Delete(ctx context.Context, name string) error {
	c := p.begin("delete", name)
	err := c.run(ctx, func(ctx context.Context) error {
		return c.within(ctx, func(ctx context.Context) error { return p.Backend.Delete(ctx, name) })
	})
	if KindOf(err) == NotFound && err != nil && c.requests > 1 {
		err = nil // an attempt whose answer was lost has removed it
	}
	c.observe(err, 0)
	return err
}

// Put sends the body from its start in each attempt: a whole put of the same bytes does no harm a second time.
func (p *patient) Put(ctx context.Context, name string, body io.ReadSeeker, size int64, o PutOptions) (e Entry, err error) {
	c := p.begin("put", name)
	start, err := body.Seek(0, io.SeekCurrent)
	if err != nil {
		return e, c.typed(ctx, fmt.Errorf("the body can't be read twice: %w", err))
	}
	err = c.run(ctx, func(ctx context.Context) error {
		if _, err := body.Seek(start, io.SeekStart); err != nil {
			return &Error{Backend: p.policy.Backend, Op: c.op, Name: name, Kind: Failed, Err: fmt.Errorf("read the body again: %w", err)}
		}
		watched, watch := newWatch(ctx, p.policy.Stall+p.policy.Timeout)
		defer watch.stop()
		watch.arm()
		lent := &lentBody{source: body, start: start, watch: watch}
		defer lent.takeBack()
		began := time.Now()
		e, err = p.Backend.Put(watched, name, lent, size, o)
		if watched.Err() == nil { // to send much is not to wait
			c.deadline = c.deadline.Add(time.Since(began))
		}
		return c.slow(ctx, watched, err)
	})
	if err != nil {
		size = 0
	}
	c.observe(err, size)
	return e, err
}

// List goes on after the last name where it was interrupted.
func (p *patient) List(ctx context.Context, prefix, after string) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		c := p.begin("list", "")
		err := c.run(ctx, func(ctx context.Context) (err error) {
			after, err = c.list(ctx, prefix, after, func(e Entry) bool { return yield(e, nil) })
			return err
		})
		c.observe(err, 0)
		if err != nil {
			yield(Entry{}, err)
		}
	}
}

// list yields entries up to the first error, or as long as they are wanted, and returns the last name.
func (c *call) list(ctx context.Context, prefix, after string, yield func(Entry) bool) (last string, err error) {
	watched, watch := newWatch(ctx, c.policy.Stall)
	defer watch.stop()
	watch.arm()
	for e, err := range c.Backend.List(watched, prefix, after) {
		watch.disarm()
		if err != nil {
			return after, c.slow(ctx, watched, err)
		}
		if e.Name <= after && after != "" {
			return after, &Error{
				Backend: c.policy.Backend, Op: "list", Kind: Unsupported,
				Err: fmt.Errorf("it lists %q after %q; listings must be sorted by the bytes of names", e.Name, after),
			}
		}
		c.leave() // whoever takes the entries may make requests
		after, c.fresh = e.Name, 0
		if !yield(e) {
			return after, nil
		}
		c.progressed()
		watch.arm()
	}
	return after, c.slow(ctx, watched, watched.Err())
}
