package etl

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// cancelGrace is how long a worker may go on with a chunk that nobody wants any more before it is killed:
	// a restart costs more than the rest of most chunks.
	cancelGrace = 500 * time.Millisecond
	// chunkSlack is added to the sum of a chunk's time limits for the bound on the whole of it.
	chunkSlack = 10 * time.Second
)

// chunk is a run of samples that one worker takes at a time.
type chunk struct {
	ctx    context.Context
	kind   uint8
	in     []Sample
	out    []Result
	finish func(error) // called once; afterwards in and out belong to the caller again
}

// lost says why a process could not finish a chunk.
type lost struct {
	blame   int    // index in the chunk of the sample that was in hand, -1 for none
	summary string // what happened, for the blamed sample
	tail    string // last words of the process
	timeout bool
	err     error // the caller's context or the pool ended: nobody is to blame
}

// run sends the samples todo (indexes, rising) of a chunk to the worker and fills in its answers. It returns
// what was not answered; if that is not all, the process is no longer usable and lost says why.
func (p *process) run(c *chunk, todo []int, timeout time.Duration, closed <-chan struct{}) ([]int, *lost) {
	base := p.seq
	p.seq += uint64(len(todo))
	w := &watch{p: p, c: c, timeout: timeout, closed: closed, begun: time.Now(), n: len(todo)}
	w.since = w.begun
	if err := p.tick.watch(min(max(timeout/10, 5*time.Millisecond), 100*time.Millisecond), w.check); err != nil {
		return todo, p.diagnose(err, p.ended(), w, todo, todo, base)
	}

	var stop atomic.Bool
	var writing sync.WaitGroup
	var unsent error
	writing.Go(func() { unsent = p.send(c, todo, base, &stop) })
	rest, err := p.receive(c, todo, base)
	if err == nil {
		writing.Wait()
		if err = unsent; err == nil {
			return nil, nil
		}
	}
	var ended string
	if !errors.Is(err, errGivenUp) && !errors.Is(err, errTimedOut) && !errors.Is(err, errFrame) {
		ended = p.ended() // before it is killed, which would hide how
	}
	stop.Store(true)
	p.kill()
	_ = p.conn.SetWriteDeadline(time.Now()) // the writer may be blocked on a worker that no longer reads
	writing.Wait()
	return rest, p.diagnose(err, ended, w, rest, todo, base)
}

// send writes the samples. It runs beside receive, so that neither side waits with full buffers.
func (p *process) send(c *chunk, todo []int, base uint64, stop *atomic.Bool) error {
	for i, index := range todo {
		if stop.Load() {
			return nil
		}
		var flags uint8
		if i == len(todo)-1 {
			flags = flagFlush
		}
		if err := p.writer.request(c.kind, flags, base+uint64(i)+1, &c.in[index]); err != nil {
			return err
		}
	}
	return p.writer.flush()
}

// receive reads the answers and returns the indexes that have none.
func (p *process) receive(c *chunk, todo []int, base uint64) ([]int, error) {
	for i, index := range todo {
		res, err := p.frames.next()
		if err != nil {
			return todo[i:], err
		}
		if res.seq != base+uint64(i)+1 || res.kind < resultSample {
			return todo[i:], frameError("answer %d of kind %d where %d was due", res.seq, res.kind, base+uint64(i)+1)
		}
		in, out := &c.in[index], &c.out[index]
		*out = Result{Sample: Sample{Key: in.Key, Seed: in.Seed}}
		if res.kind == resultError {
			out.Err = &UserError{ETL: p.etl, Key: in.Key, Summary: res.summary, Traceback: res.traceback}
			continue
		}
		if res.key != "" {
			out.Key = res.key
		}
		out.Fields = res.fields
	}
	return nil, nil
}

// diagnose finds out why a chunk was not finished. Called once the process can be given up.
func (p *process) diagnose(err error, ended string, w *watch, rest, todo []int, base uint64) *lost {
	l := &lost{blame: -1}
	if errors.Is(err, errGivenUp) {
		l.err = w.gaveUp
		return l
	}
	if seq := p.inHand(); seq > base && seq <= base+uint64(len(todo)) {
		// Blame it only if its answer is not here: the worker may die between an answer and the next sample.
		if index := todo[seq-base-1]; len(rest) > 0 && index >= rest[0] {
			l.blame = index
		}
	}
	switch {
	case errors.Is(err, errTimedOut):
		l.timeout = true
		l.summary = fmt.Sprintf("timed out after %s", seconds(w.timeout))
	case errors.Is(err, errFrame):
		l.summary = err.Error()
	default: // the end of the stream, a broken pipe or a reset
		l.summary = ended
	}
	if !l.timeout {
		l.tail = strings.TrimSpace(p.tail.String())
	}
	return l
}

// seconds prints a limit as people write it: 30 s, 0.2 s.
func seconds(d time.Duration) string {
	return fmt.Sprintf("%g s", d.Seconds())
}

var errGivenUp = errors.New("given up")

// watch decides, while a worker is silent, whether to go on waiting for it.
type watch struct {
	p       *process
	c       *chunk
	timeout time.Duration
	closed  <-chan struct{}
	n       int
	begun   time.Time

	since    time.Time // of the last sign of progress
	seq      uint64    // in hand then
	reads    uint64    // arrivals by then
	unwanted time.Time // when the caller was first seen gone
	gaveUp   error
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
	if seq := w.p.inHand(); seq != w.seq || w.reads != w.p.tick.reads {
		w.since, w.seq, w.reads = now, seq, w.p.tick.reads
	}
	// The second bound is for a function that feigns progress.
	if now.Sub(w.since) >= w.timeout || now.Sub(w.begun) >= time.Duration(w.n)*w.timeout+chunkSlack {
		return errTimedOut
	}
	return nil
}

var errTimedOut = errors.New("timed out")

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
