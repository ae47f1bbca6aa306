package target

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/etls"
	"github.com/shardstream/shardstream/etl"
	"github.com/shardstream/shardstream/etl/deploy"
)

const (
	// readyWait is how long a request waits for a transformation that is being made ready.
	readyWait      = 20 * time.Second
	restartTimeout = 2 * time.Minute

	// A transformation that can't be made ready is tried again ever later, and sooner where a request wants it.
	retryFirst  = 2 * time.Second
	retryLast   = 5 * time.Minute
	retryDemand = 5 * time.Second

	// How many are made ready at a time: those that need nothing but a worker, and those that may build for minutes,
	// which must not keep the others waiting.
	lightTurns = 8
	heavyTurns = 16
)

// deployed is one definition and its runtime.
type deployed struct {
	definition api.ETL
	ctx        context.Context //nolint:containedctx // of the definition: ends when it is replaced
	cancel     context.CancelFunc

	once    sync.Once
	runtime etl.Runtime
	made    error // why there is no runtime

	tried chan struct{} // closed when the first attempt to make it ready has ended
	first sync.Once
	wake  chan struct{} // asks for another attempt

	// Under the ETLs' mu:
	held int           // by requests that go on with it
	gone bool          // a newer one is known, or none
	idle chan struct{} // closed once it is gone and not held

	mu    sync.Mutex
	err   error // of the last attempt
	since time.Time
}

func newDeployed(ctx context.Context, definition api.ETL) *deployed {
	d := &deployed{definition: definition, tried: make(chan struct{}), wake: make(chan struct{}, 1), idle: make(chan struct{}), since: time.Now()}
	d.ctx, d.cancel = context.WithCancel(ctx)
	return d
}

// note keeps what became of an attempt to make it ready.
func (d *deployed) note(err error) {
	d.mu.Lock()
	d.err, d.since = err, time.Now()
	d.mu.Unlock()
	d.first.Do(func() { close(d.tried) })
}

// failure is why the last attempt failed, nil if it did not, and since when that is so.
func (d *deployed) failure() (since time.Time, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.since, d.err
}

// runtimeOf makes the runtime where that has not been done; it starts nothing.
func (e *ETLs) runtimeOf(d *deployed) (etl.Runtime, error) {
	d.once.Do(func() { d.runtime, d.made = deploy.New(etls.Definition(d.definition), e.options) })
	return d.runtime, d.made
}

// makeReady prepares a runtime, again and again until that works or its definition is replaced.
func (e *ETLs) makeReady(d *deployed) {
	for pause := retryFirst; ; pause = min(2*pause, retryLast) {
		err := e.attempt(d)
		if d.ctx.Err() != nil {
			d.note(etl.ErrClosed)
			return
		}
		d.note(err)
		if err == nil {
			return
		}
		e.target.log.Warn("an etl is not ready", "etl", d.definition.Name, "version", d.definition.Version, "again_in", pause, "error", err)
		again := time.NewTimer(pause)
		select {
		case <-again.C:
		case <-d.wake:
		case <-d.ctx.Done():
		}
		again.Stop()
	}
}

// attempt prepares a runtime when it is its turn.
func (e *ETLs) attempt(d *deployed) error {
	turn := e.light
	if def := &d.definition; def.Kind != etl.KindFunction || len(def.Requirements) > 0 || def.Python != "" {
		turn = e.heavy
	}
	select {
	case turn <- struct{}{}:
		defer func() { <-turn }()
	case <-d.ctx.Done():
		return d.ctx.Err()
	}
	runtime, err := e.runtimeOf(d)
	if err != nil {
		return err
	}
	return runtime.Prepare(d.ctx)
}

// await returns the runtime once it is ready, or why it is not: ErrClosed or an *api.Error.
func (e *ETLs) await(d *deployed) (etl.Runtime, error) {
	limit := time.NewTimer(readyWait)
	defer limit.Stop()
	name := d.definition.Name
	select {
	case <-d.tried:
	case <-limit.C:
		h := e.healthOf(d)
		return nil, unavailable("etl %q is not ready on target %s yet: %s", name, e.target.id, joined(h.State, h.Detail))
	case <-e.target.Context().Done():
		return nil, e.errStopping()
	}
	since, err := d.failure()
	if err == nil {
		return d.runtime, nil
	}
	if errors.Is(err, etl.ErrClosed) {
		return nil, err
	}
	if time.Since(since) > retryDemand {
		select {
		case d.wake <- struct{}{}:
		default:
		}
	}
	return nil, etlError("target "+e.target.id, err)
}

func joined(state, detail string) string {
	if detail == "" {
		return state
	}
	return state + ": " + detail
}

// MakeReady makes all definitions of the cluster ready and returns when each was tried once. Those for which the limit
// is too short go on in the background. The error is that the definitions can't be read.
func (e *ETLs) MakeReady(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	list, err := e.definitions.List(ctx)
	if err != nil {
		return err
	}
	e.apply(list)
	for _, definition := range list {
		d := e.peek(definition.Name)
		if d == nil {
			continue
		}
		select {
		case <-d.tried:
		case <-ctx.Done():
			h := e.healthOf(d)
			e.target.log.WarnContext(ctx, "joining while an etl is not ready", "etl", definition.Name, "state", h.State, "detail", h.Detail)
		}
	}
	return nil
}
