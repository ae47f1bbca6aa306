package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/shardstream/shardstream/etl"
	"github.com/shardstream/shardstream/etl/calls"
	"github.com/shardstream/shardstream/etl/engine"
)

const (
	backoffFirst  = 100 * time.Millisecond
	backoffMax    = 30 * time.Second
	backoffServed = 2 * time.Second  // at most, after a container that has served: callers wait meanwhile
	livedWell     = time.Minute      // a container that lived so long is replaced without a pause
	patienceDead  = 2 * time.Second  // that a broken connection is waited with for the end of its container
	patienceGone  = 10 * time.Second // likewise where nobody listens any more: its end is certain, engines are slow
	retireAfter   = 5 * time.Minute  // that calls may go on with a container which was replaced
)

// keeper keeps one container running: it starts it when it is first wanted, replaces it when it dies, with pauses that
// grow, and removes it in the end.
type keeper struct {
	def  etl.Definition
	opts Options
	book *calls.Book
	log  *slog.Logger
	out  *etl.Log

	ctx    context.Context //nolint:containedctx // of the goroutine that keeps
	cancel context.CancelFunc
	joined sync.WaitGroup
	once   sync.Once

	mu       sync.Mutex
	state    etl.Health
	fault    *etl.UserError // in StateFailed
	current  *instance      // in StateReady
	changed  chan struct{}  // closed with the next change of state
	wanted   bool
	restarts chan chan error // asks for a new container
}

// instance is one container and the way to the server in it.
type instance struct {
	*endpoint
	container *engine.Container
	remove    func() // all that it took, the container included
	giveUp    chan struct{}
	given     sync.Once
	suspected bool // guarded by the keeper's mu
}

// ended says whether its container has: the keeper learns of it in a moment.
func (i *instance) ended() bool {
	select {
	case <-i.container.Exited():
		return true
	default:
		return false
	}
}

// abandon has the keeper replace the container although it has not ended.
func (i *instance) abandon() { i.given.Do(func() { close(i.giveUp) }) }

func newKeeper(def etl.Definition, opts Options, book *calls.Book) *keeper {
	k := &keeper{
		def: def, opts: opts, book: book, log: opts.Logger.With("etl", def.Name), out: etl.NewLog(opts.LogBytes),
		state:   etl.Health{State: etl.StateNew, Since: time.Now(), Isolation: "container"},
		changed: make(chan struct{}), restarts: make(chan chan error),
	}
	k.ctx, k.cancel = context.WithCancel(context.Background())
	return k
}

// set changes the state. Callers of acquire look again.
func (k *keeper) set(change func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	before := k.state.State
	change()
	if k.state.State != before {
		k.state.Since = time.Now()
	}
	close(k.changed)
	k.changed = make(chan struct{})
}

func (k *keeper) acquire(ctx context.Context) (*endpoint, error) {
	for {
		k.mu.Lock()
		if k.ctx.Err() != nil {
			k.mu.Unlock()
			return nil, etl.ErrClosed
		}
		if !k.wanted {
			k.wanted = true
			k.joined.Go(k.run)
		}
		switch {
		case k.current != nil && !k.current.ended():
			e := k.current.endpoint
			e.use()
			k.mu.Unlock()
			return e, nil
		case k.current == nil && k.state.State == etl.StateFailed:
			fault := k.fault
			k.mu.Unlock()
			return nil, fault
		}
		changed := k.changed
		k.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// run keeps a container until the keeper is closed.
func (k *keeper) run() {
	pause := backoffFirst
	var asked chan error // who waits for a restart
	for k.ctx.Err() == nil {
		began := time.Now()
		i, fault := k.start(k.ctx)
		if asked != nil {
			asked <- asFault(fault) // buffered
			asked = nil
		}
		served, longest := fault == nil, backoffMax
		if served {
			if fault, asked = k.attend(i); asked != nil || k.ctx.Err() != nil {
				continue
			}
			k.book.Restart()
			longest = backoffServed
			if time.Since(began) >= livedWell {
				pause = backoffFirst
			}
		}
		if k.ctx.Err() != nil {
			return
		}
		pause = min(pause, longest)
		k.log.Warn("a container of an etl failed", "error", fault.Summary, "again_in", pause)
		k.fail(fault, served)
		select {
		case <-time.After(pause):
			pause *= 2
		case asked = <-k.restarts:
			pause = backoffFirst
		case <-k.ctx.Done():
		}
	}
}

func asFault(fault *etl.UserError) error {
	if fault == nil {
		return nil // and no nil pointer in an error
	}
	return fault
}

// fail tells callers why there is no container. Of one that has served, what it died of was somebody's request: the others
// wait for the next one.
func (k *keeper) fail(fault *etl.UserError, served bool) {
	k.set(func() {
		k.state.State, k.state.Detail = etl.StateStarting, fault.Summary
		if !served {
			k.state.State, k.fault = etl.StateFailed, fault
		}
	})
}

// attend waits while a container serves: until it ends or is given up, which is a fault, until another is asked for, or
// until the keeper is closed.
func (k *keeper) attend(i *instance) (fault *etl.UserError, asked chan error) {
	k.set(func() { k.state.State, k.state.Detail, k.current = etl.StateReady, "", i })
	select {
	case <-i.container.Exited():
		fault = k.died(i.container.Exit())
	case <-i.giveUp:
		fault = &etl.UserError{ETL: k.def.Name, Summary: "the server in the container answers neither requests nor GET /health"}
	case asked = <-k.restarts:
	case <-k.ctx.Done():
	}
	k.set(func() { k.current, k.state.State, k.state.Detail = nil, etl.StateStarting, "" })
	if asked == nil || k.def.Port != 0 && k.def.Network == etl.NetworkHost {
		i.remove() // also where the next one needs its port
		return fault, asked
	}
	k.joined.Go(func() { k.retire(i) })
	return nil, asked
}

// retire lets the calls under way finish with a container that was replaced.
func (k *keeper) retire(i *instance) {
	select {
	case <-i.drained():
	case <-time.After(retireAfter):
	case <-k.ctx.Done():
	}
	i.remove()
}

// died is the fault of a container that has ended.
func (k *keeper) died(exit engine.Exit) *etl.UserError {
	fault := &etl.UserError{ETL: k.def.Name, Summary: exit.String(), Traceback: k.lastWords()}
	if exit.Killed() {
		fault.Summary += fmt.Sprintf("; its limit is %d MiB", k.def.Limits.Memory>>20)
	}
	return fault
}

// lastWords are the last lines of the container's log.
func (k *keeper) lastWords() string {
	lines := strings.Split(strings.TrimSpace(k.out.String()), "\n")
	if len(lines) > 10 {
		lines = lines[len(lines)-10:]
	}
	return strings.Join(lines, "\n")
}

func (k *keeper) explain(e *endpoint, err error) *etl.UserError {
	i := k.instanceOf(e)
	if i == nil {
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.state.Detail == "" {
			return nil
		}
		return &etl.UserError{ETL: k.def.Name, Summary: k.state.Detail, Traceback: k.lastWords()}
	}
	patience, gone := patienceDead, isDial(err)
	if gone {
		patience = patienceGone
	}
	select {
	case <-i.container.Exited():
		return k.died(i.container.Exit())
	case <-time.After(patience):
	}
	if gone {
		i.abandon()
	}
	return nil
}

// instanceOf finds the container behind an endpoint, nil if it was replaced.
func (k *keeper) instanceOf(e *endpoint) *instance {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.current != nil && k.current.endpoint == e {
		return k.current
	}
	return nil
}

// suspect has a container that does not answer replaced, if it is not well otherwise either.
func (k *keeper) suspect(e *endpoint) {
	k.mu.Lock()
	defer k.mu.Unlock()
	i := k.current
	if i == nil || i.endpoint != e || i.suspected || k.ctx.Err() != nil {
		return
	}
	i.suspected = true
	k.joined.Go(func() {
		if e.check(k.ctx) != nil {
			i.abandon()
			return
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		i.suspected = false // well, so the next suspicion is looked into too
	})
}

func (k *keeper) health() etl.Health {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.state
}

func (k *keeper) logs() string { return k.out.String() }

func (k *keeper) running() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.current == nil {
		return 0
	}
	return 1
}

// restart asks for a new container and waits for it.
func (k *keeper) restart(ctx context.Context) error {
	k.mu.Lock()
	idle := !k.wanted
	k.mu.Unlock()
	if idle {
		return nil // the first one is new
	}
	asked := make(chan error, 1)
	select {
	case k.restarts <- asked:
	case <-k.ctx.Done():
		return etl.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-asked:
		return err
	case <-k.ctx.Done():
		return etl.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (k *keeper) close() error {
	k.once.Do(func() {
		k.mu.Lock()
		k.cancel()
		k.mu.Unlock()
		k.set(func() {})
		k.joined.Wait()
	})
	return nil
}

// unavailable makes the fault of a container that could not be started.
func (k *keeper) unavailable(err error) *etl.UserError {
	var user *etl.UserError
	if errors.As(err, &user) {
		return user
	}
	return &etl.UserError{ETL: k.def.Name, Summary: err.Error()}
}
