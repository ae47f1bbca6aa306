package api

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"
)

// errStalled ends a transfer that made no progress for the client's Timeout.
var errStalled = errors.New("the transfer made no progress")

// guard ends a request that stands still. It counts only the time in which the network is to move
// bytes, not that in which the caller is busy.
type guard struct {
	limit  time.Duration
	cancel context.CancelCauseFunc

	mu      sync.Mutex
	timer   *time.Timer
	stopped bool
}

func newGuard(ctx context.Context, limit time.Duration) (context.Context, *guard) {
	ctx, cancel := context.WithCancelCause(ctx)
	g := &guard{limit: limit, cancel: cancel}
	return ctx, g
}

// begin starts the clock for one step of the network; end stops it.
func (g *guard) begin() {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.stopped:
	case g.timer == nil:
		g.timer = time.AfterFunc(g.limit, func() { g.cancel(errStalled) })
	default:
		g.timer.Reset(g.limit)
	}
}

func (g *guard) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.timer != nil {
		g.timer.Stop()
	}
}

// stop ends the guard and what it guards.
func (g *guard) stop() {
	g.end()
	g.mu.Lock()
	g.stopped = true
	g.mu.Unlock()
	g.cancel(nil)
}

// writing guards a body that is sent: the network's step lasts from one read of the source to the
// next. After the last one the limit for the answer applies instead.
func (g *guard) writing(r io.Reader) io.Reader { return &guardedSource{guard: g, source: r} }

type guardedSource struct {
	guard  *guard
	source io.Reader
}

func (s *guardedSource) Read(p []byte) (int, error) {
	s.guard.end()
	n, err := s.source.Read(p)
	if err == nil {
		s.guard.begin()
	}
	return n, err
}
