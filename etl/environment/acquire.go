package environment

import (
	"context"
	"errors"
	"time"
)

// How long a failed build is answered from memory before a caller has it tried again: ever longer.
const (
	failedFirst = 5 * time.Second
	failedLast  = 5 * time.Minute
)

// failure remembers why a build failed.
type failure struct {
	key   string
	err   error
	pause time.Duration
	until time.Time
}

// build is one build under way, and those who wait for it.
type build struct {
	done   chan struct{}
	cancel context.CancelFunc
	err    error // once done is closed

	// Under the manager's mu:
	callers  int
	nextID   int
	told     map[int]func(string)
	lastLine string
}

// Acquire lends the environment of a spec, and builds it where it is not there yet; who asks meanwhile waits for the same
// build, which goes on as long as somebody does. progress is told in a line what is being done; it may be nil and must
// not block. Errors are *BuildError, ErrNoPython, ErrClosed or the context's.
func (m *Manager) Acquire(ctx context.Context, spec Spec, progress func(string)) (*Environment, error) {
	base, err := FindVersion(ctx, m.opts.Python, spec.Python)
	if err != nil {
		return nil, err
	}
	id := identify(spec.key(), base)
	for {
		env, b, ticket, err := m.join(id, spec, base, progress)
		if env != nil || err != nil {
			return env, err
		}
		select {
		case <-b.done:
			m.leave(b, ticket)
			if b.err != nil {
				return nil, b.err
			}
		case <-ctx.Done():
			m.leave(b, ticket)
			return nil, ctx.Err()
		}
	}
}

// join finds the environment, or the build of it.
func (m *Manager) join(id string, spec Spec, base Interpreter, progress func(string)) (*Environment, *build, int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, nil, 0, ErrClosed
	}
	if e := m.ready[id]; e != nil {
		e.leases++
		e.used = time.Now()
		return &Environment{manager: m, entry: e}, nil, 0, nil
	}
	b := m.builds[id]
	if b == nil {
		if f := m.failed[id]; f != nil && time.Now().Before(f.until) {
			return nil, nil, 0, f.err
		}
		b = m.begin(id, spec, base)
	}
	b.callers++
	b.nextID++
	if progress != nil {
		b.told[b.nextID] = progress
		progress(b.lastLine)
	}
	return nil, b, b.nextID, nil
}

// leave ends a caller's wait; a build that nobody waits for ends.
func (m *Manager) leave(b *build, ticket int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(b.told, ticket)
	if b.callers--; b.callers == 0 {
		b.cancel()
	}
}

// begin starts a build. The caller holds mu.
func (m *Manager) begin(id string, spec Spec, base Interpreter) *build {
	ctx, cancel := context.WithCancel(context.Background())
	b := &build{done: make(chan struct{}), cancel: cancel, told: map[int]func(string){}, lastLine: "waiting for its turn to be built"}
	m.builds[id] = b
	m.running.Go(func() {
		defer cancel()
		e, err := m.build(ctx, id, spec, base, func(line string) { m.tell(b, line) })
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.builds, id)
		if b.err = err; err == nil {
			m.ready[id] = e
			delete(m.failed, id)
		} else if !errors.Is(err, context.Canceled) {
			m.remember(id, spec, err)
		}
		close(b.done)
	})
	return b
}

func (m *Manager) tell(b *build, line string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b.lastLine = line
	for _, progress := range b.told {
		progress(line)
	}
}

// remember keeps the reason of a failure. The caller holds mu.
func (m *Manager) remember(id string, spec Spec, err error) {
	pause := failedFirst
	if f := m.failed[id]; f != nil {
		pause = min(2*f.pause, failedLast)
	}
	m.failed[id] = &failure{key: spec.key(), err: err, pause: pause, until: time.Now().Add(pause)}
}

// Retry forgets that a spec's build failed: the next Acquire tries again at once.
func (m *Manager) Retry(spec Spec) {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := spec.key()
	for id, f := range m.failed {
		if f.key == key {
			delete(m.failed, id)
		}
	}
}
