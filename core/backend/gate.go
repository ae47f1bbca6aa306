package backend

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// gate admits the requests to one backend: so many at a time, in the order in which they came, and none while the
// backend has asked to be left alone. Each time that it asks, half as many are admitted afterwards; each success makes
// that a little more again.
type gate struct {
	most        int
	base, limit time.Duration // of a pause that the backend has not named; limit caps those that it has

	mu      sync.Mutex
	allowed float64 // at a time, 1..most
	active  int
	queue   []chan struct{}
	until   time.Time // no request before
	strikes int       // pauses since the last success
}

func newGate(most int, base, limit time.Duration) *gate {
	return &gate{most: most, allowed: float64(most), base: base, limit: limit}
}

// errFull is for who has waited for others' requests as long as it may.
var errFull = errors.New("as many requests as it is sent at a time are under way, and none has ended")

// pausedError is for who can't wait as long as the backend wants to be left alone.
type pausedError struct{ left time.Duration }

func (e *pausedError) Error() string { return "it has asked to be left alone" }

// enter waits until a request may be made, which leave ends. It gives up at the deadline, or at once where the pause is
// longer.
func (g *gate) enter(ctx context.Context, deadline time.Time) error {
	for {
		if err := g.awaitPause(ctx, deadline); err != nil {
			return err
		}
		if err := g.awaitTurn(ctx, deadline); err != nil {
			return err
		}
		g.mu.Lock()
		paused := time.Now().Before(g.until) // since it began to wait for its turn
		g.mu.Unlock()
		if !paused {
			return nil
		}
		g.leave()
	}
}

func (g *gate) awaitPause(ctx context.Context, deadline time.Time) error {
	for {
		g.mu.Lock()
		until := g.until
		g.mu.Unlock()
		left := time.Until(until)
		if left <= 0 {
			return context.Cause(ctx)
		}
		if until.After(deadline) {
			return &pausedError{left}
		}
		if !sleep(ctx, left) {
			return context.Cause(ctx)
		}
	}
}

func (g *gate) awaitTurn(ctx context.Context, deadline time.Time) error {
	g.mu.Lock()
	if len(g.queue) == 0 && g.active < int(g.allowed) {
		g.active++
		g.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	g.queue = append(g.queue, turn)
	g.mu.Unlock()
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
		g.forget(turn)
		return context.Cause(ctx)
	case <-timer.C:
		g.forget(turn)
		return errFull
	}
}

// forget takes who gave up out of the queue, or gives back a turn that it got meanwhile.
func (g *gate) forget(turn chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if i := slices.Index(g.queue, turn); i >= 0 {
		g.queue = slices.Delete(g.queue, i, i+1)
		return
	}
	g.active--
	g.admit()
}

// leave ends what enter began.
func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.active--
	g.admit()
}

// admit lets in who waits; g.mu is held.
func (g *gate) admit() {
	for len(g.queue) > 0 && g.active < int(g.allowed) {
		close(g.queue[0])
		g.queue = g.queue[1:]
		g.active++
	}
}

// busy begins a pause for all: as long as the backend asks for, or longer each time where it does not say.
func (g *gate) busy(after time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	if !now.Before(g.until) { // not one of many that were under way when the pause began
		g.strikes++
		g.allowed = max(1, g.allowed/2)
	}
	pause := min(after, g.limit)
	if pause <= 0 {
		pause = backOff(g.base, g.limit, g.strikes)
		pause = pause/2 + rand.N(pause/2+1)
	}
	if until := now.Add(pause); until.After(g.until) {
		g.until = until
	}
}

// succeeded notes that the backend did what was asked.
func (g *gate) succeeded() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.strikes = 0
	g.allowed = min(float64(g.most), g.allowed+1/g.allowed)
	g.admit()
}

// backOff doubles with each attempt, from base up to limit.
func backOff(base, limit time.Duration, attempt int) time.Duration {
	d := base
	for range min(attempt, 40) - 1 {
		if d >= limit/2 {
			return limit
		}
		d *= 2
	}
	return min(d, limit)
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
