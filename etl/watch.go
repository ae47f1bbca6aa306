package etl

import (
	"errors"
	"net"
	"os"
	"time"
)

var (
	errGivenUp  = errors.New("given up")
	errTimedOut = errors.New("timed out")
)

// watch decides, while a worker is silent, whether to go on waiting for it.
type watch struct {
	p       *process
	c       *chunk
	timeout time.Duration
	closed  <-chan struct{}
	n       int // calls that are waited for; 0: an object in pieces, for as long as there is progress
	begun   time.Time

	since    time.Time // of the last sign of progress
	seq      uint64    // in hand then
	reads    uint64    // arrivals by then
	unwanted time.Time // when the caller was first seen gone
	gaveUp   error
}

// watch begins to watch a chunk of one call.
func (p *process) watch(c *chunk, timeout time.Duration, closed <-chan struct{}) *watch {
	now := time.Now()
	return &watch{p: p, c: c, timeout: timeout, closed: closed, n: 1, begun: now, since: now}
}

// most is how long it all may take.
func (w *watch) most() time.Duration {
	if w.n == 0 {
		return 365 * 24 * time.Hour
	}
	return time.Duration(w.n)*w.timeout + chunkSlack
}

// every is how often check is asked.
func (w *watch) every() time.Duration {
	return min(max(w.timeout/10, 5*time.Millisecond), 100*time.Millisecond)
}

// await waits until all was sent, for as long as check allows.
func (w *watch) await(written <-chan struct{}) error {
	select {
	case <-written:
		return nil
	default:
	}
	tick := time.NewTicker(w.every())
	defer tick.Stop()
	for {
		select {
		case <-written:
			return nil
		case <-tick.C:
			if call := w.c.object; call != nil && call.waits.Load() {
				continue // for this side: its end would change nothing
			}
			if err := w.check(); err != nil {
				return err
			}
		}
	}
}

func (w *watch) check() error {
	now := time.Now()
	select {
	case <-w.closed:
		w.gaveUp = ErrClosed
		return errGivenUp
	default:
	}
	if err := w.c.ctx.Err(); err != nil {
		if w.unwanted.IsZero() {
			w.unwanted = now
		}
		if now.Sub(w.unwanted) >= cancelGrace {
			w.gaveUp = err
			return errGivenUp
		}
	}
	if seq := w.p.inHand(); seq != w.seq || w.reads != w.p.tick.reads || w.c.object.progressed() {
		w.since, w.seq, w.reads = now, seq, w.p.tick.reads
	}
	// The second bound is for a function that feigns progress.
	if now.Sub(w.since) >= w.timeout || now.Sub(w.begun) >= w.most() {
		return errTimedOut
	}
	return nil
}

// tickReader reads from a worker and, while nothing comes, asks at intervals whether to go on waiting.
type tickReader struct {
	conn  *net.UnixConn
	every time.Duration
	check func() error
	reads uint64 // grows with each arrival
}

func (t *tickReader) Read(b []byte) (int, error) {
	for {
		n, err := t.conn.Read(b)
		if n > 0 {
			t.reads++
			return n, nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		if err := t.check(); err != nil {
			return 0, err
		}
		if err := t.watch(t.every, t.check); err != nil {
			return 0, err
		}
	}
}

// watch begins to ask check at the given intervals.
func (t *tickReader) watch(every time.Duration, check func() error) error {
	t.every, t.check = every, check
	return t.conn.SetReadDeadline(time.Now().Add(every))
}
