package etl

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"
)

// condition is how the starting of a definition's workers goes. Workers belong to a generation; Restart begins the next.
type condition struct {
	mu      sync.Mutex
	health  Health        // State, Detail and Since only
	changed chan struct{} // closed and replaced at each change

	generation int64
	renewed    chan struct{} // closed when the generation ends
	over       chan struct{} // closed: that of the generations before
	ready      int64         // generation of the last worker that came up, 0 for none
	since      time.Time     // when the first of that generation did
	attempts   int64         // starts that ended, well or not
	failure    error         // of the last of them
}

func newCondition() *condition {
	c := &condition{
		health:  Health{State: StateNew, Since: time.Now()},
		changed: make(chan struct{}), generation: 1, renewed: make(chan struct{}), over: make(chan struct{}),
	}
	close(c.over)
	return c
}

// set changes the state. The caller holds mu.
func (c *condition) set(state, detail string) {
	if c.health.State != state {
		c.health.State, c.health.Since = state, time.Now()
	}
	c.health.Detail = detail
	close(c.changed)
	c.changed = make(chan struct{})
}

// building tells what the environment's build is at.
func (c *condition) building(line string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.set(StateBuilding, line)
}

// begin is called before a worker is started and returns its generation.
func (c *condition) begin() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.generation
}

// loading is called once the interpreter is there.
func (c *condition) loading() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.set(StateStarting, "a worker loads the source")
}

// end is called with what became of a start.
func (c *condition) end(generation int64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.attempts++
	c.failure = err
	if err != nil {
		c.set(StateFailed, firstLine(err))
		return
	}
	if c.ready != generation {
		c.ready, c.since = generation, time.Now()
	}
	c.set(StateReady, "")
}

// renew ends the generation.
func (c *condition) renew() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.generation++
	close(c.renewed)
	c.renewed = make(chan struct{})
	c.set(StateStarting, "workers are replaced")
}

// ended is closed when a generation is over.
func (c *condition) ended(generation int64) <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if generation != c.generation {
		return c.over
	}
	return c.renewed
}

// firstLine is an error for a state's detail.
func firstLine(err error) string {
	var fault *UserError
	text := err.Error()
	if errors.As(err, &fault) {
		text = fault.Summary
	}
	line, _, _ := strings.Cut(text, "\n")
	return clip(line, 500)
}

// Health says how the pool is.
func (p *Pool) Health() Health {
	c := p.spawn.condition
	c.mu.Lock()
	h := c.health
	if p.running.Load() > 0 && c.ready == c.generation { // whatever became of further workers
		h = Health{State: StateReady, Since: c.since}
	}
	c.mu.Unlock()
	p.spawn.mu.Lock()
	if p.spawn.python != nil {
		h.Python = p.spawn.python.Version
	}
	p.spawn.mu.Unlock()
	h.Isolation, h.Confined = p.spawn.confined()
	return h
}

// Prepare builds the environment that the definition wants and starts one worker, which loads the source. The error is
// the reason why that can't be done: a *UserError where the definition is to blame.
func (p *Pool) Prepare(ctx context.Context) error {
	if !p.enter() {
		return ErrClosed
	}
	defer p.inflight.Done()
	c := p.spawn.condition
	c.mu.Lock()
	attempts := c.attempts
	c.mu.Unlock()
	for wanted := false; ; {
		c.mu.Lock()
		up, changed := p.running.Load() > 0 && c.ready == c.generation, c.changed
		tried, failure := c.attempts > attempts, c.failure
		attempts = c.attempts
		c.mu.Unlock()
		if up {
			return nil
		}
		if tried && failure != nil && !gaveUp(failure) {
			return failure
		}
		if tried || !wanted { // a start that somebody gave up says nothing: ask for another
			wanted = true
			select {
			case p.demand <- struct{}{}:
			default: // as many as there are slots have been asked for
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-p.ctx.Done():
			return ErrClosed
		}
	}
}

// gaveUp says that a start ended since nobody wanted it any more.
func gaveUp(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// Restart replaces the workers by new ones, each once it is done with what it has in hand, and returns when the first of
// these is up. An environment whose build failed is tried again.
func (p *Pool) Restart(ctx context.Context) error {
	if m := p.spawn.opts.Environments; m != nil {
		m.Retry(p.def.environmentSpec())
	}
	p.spawn.condition.renew()
	return p.Prepare(ctx)
}
