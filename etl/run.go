package etl

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// cancelGrace is how long a worker may go on with a chunk that nobody wants any more before it is killed:
	// a restart costs more than the rest of most chunks.
	cancelGrace = 500 * time.Millisecond
	// chunkSlack is added to the sum of a chunk's time limits for the bound on the whole of it.
	chunkSlack = 10 * time.Second
	// sendAtOnce is what a socket takes from its sender without a reader on the other side.
	sendAtOnce = 48 << 10
)

// lost says why a process could not finish what it was given.
type lost struct {
	blame   int    // index in the chunk of the sample that was in hand, -1 for none
	summary string // what happened, for the blamed sample
	tail    string // last words of the process
	timeout bool
	err     error // the caller's context or the pool ended: nobody is to blame
}

// begin prepares for the requests of a chunk: the arena is free, as all earlier ones have been answered.
func (p *process) begin(c *chunk, args Args) error {
	p.writer.reset()
	if string(args) == p.args {
		return nil
	}
	p.args = string(args)
	return p.writer.control(requestArgs, 0, 0, args)
}

// run sends the samples todo (indexes, rising) of a chunk to the worker and fills in its answers. It returns
// what was not answered; if that is not all, the process is no longer usable and lost says why.
func (p *process) run(c *chunk, todo []int, timeout time.Duration, closed <-chan struct{}) ([]int, *lost) {
	base := p.seq
	p.seq += uint64(len(todo))
	w := p.watch(c, timeout, closed)
	w.n = len(todo)
	rest := todo
	ended, err := p.exchange(w, c.inline(todo),
		func(stop *atomic.Bool) error { return p.send(c, todo, base, stop) },
		func() (err error) { rest, err = p.receive(c, todo, base); return err })
	if err == nil {
		return nil, nil
	}
	l := p.diagnose(err, ended, w)
	if seq := p.inHand(); l.err == nil && seq > base && seq <= base+uint64(len(todo)) {
		// Blame it only if its answer is not here: the worker may die between an answer and the next sample.
		if index := todo[seq-base-1]; len(rest) > 0 && index >= rest[0] {
			l.blame = index
		}
	}
	return rest, l
}

// exchange sends requests, of which about so many bytes go over the socket, and reads the answers. If it fails, the
// process was killed; ended says how it had ended before, if it had.
func (p *process) exchange(w *watch, size int64, send func(stop *atomic.Bool) error, receive func() error) (ended string, err error) {
	defer func() { p.arena.trim(p.writer.used) }()
	limit := w.most()
	if size <= sendAtOnce {
		limit = min(limit, chunkSlack) // nothing asks meanwhile whether the chunk is still wanted
	}
	if err = p.tick.watch(w.every(), w.check); err == nil {
		err = p.conn.SetWriteDeadline(time.Now().Add(limit)) // a worker that does not read is found out
	}
	if err != nil {
		return p.ended(), err
	}
	var stop atomic.Bool
	var unsent error
	written := make(chan struct{})
	sending := func() {
		defer close(written)
		unsent = send(&stop)
	}
	if size <= sendAtOnce {
		sending()
	} else { // beside receive, so that neither side waits with full buffers
		go sending()
	}
	if err = receive(); err == nil {
		stop.Store(true)
		if err = w.await(written); err == nil { // it may have answered what it never read
			if err = unsent; err == nil {
				return "", nil
			}
		}
	}
	if !errors.Is(err, errGivenUp) && !errors.Is(err, errTimedOut) && !errors.Is(err, errFrame) {
		ended = p.ended() // before it is killed, which would hide how
	}
	stop.Store(true)
	p.kill()
	_ = p.conn.SetWriteDeadline(time.Now()) // the writer may be blocked on a worker that no longer reads
	<-written
	return ended, err
}

// inline is about how many bytes of a chunk's samples go over the socket.
func (c *chunk) inline(todo []int) int64 {
	size := int64(len(c.args))
	var shared int64
	for _, index := range todo {
		in := &c.in[index]
		meta, _ := measure(in)
		size += requestHead + meta + int64(len(in.Key))
		for i := range in.Fields {
			n := int64(len(in.Fields[i].Value.Data))
			if n < sharedFrom || shared+n+arenaStep > arenaHalf {
				size += n
			} else {
				shared += n + arenaStep
			}
		}
	}
	return size
}

// send writes the samples.
func (p *process) send(c *chunk, todo []int, base uint64, stop *atomic.Bool) error {
	if err := p.begin(c, c.args); err != nil {
		return err
	}
	for i, index := range todo {
		if stop.Load() {
			return nil
		}
		var flags uint8
		if i == 0 {
			flags = flagFirst
		}
		if i == len(todo)-1 {
			flags |= flagFlush
			if c.kind == requestBatch {
				flags |= flagLast
			}
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
		in, out := &c.in[index], &c.out[index]
		res, err := p.frames.next(0, in.echo)
		if err != nil {
			return todo[i:], err
		}
		if res.seq != base+uint64(i)+1 || (res.kind != resultSample && res.kind != resultError) {
			return todo[i:], frameError("answer %d of kind %d where %d was due", res.seq, res.kind, base+uint64(i)+1)
		}
		*out = Result{Sample: Sample{Key: in.Key, Seed: in.Seed}}
		if res.kind == resultError {
			c.refused(&res, p.etl)
			out.Err = &UserError{ETL: p.etl, Key: in.Key, Summary: res.summary, Traceback: res.traceback}
			continue
		}
		if res.key != "" {
			out.Key = res.key
		}
		if out.Fields = res.fields; c.held.Add(out.Size()) > p.mostHeld {
			c.held.Add(-out.Size())
			out.Fields = nil
			out.Err = &UserError{ETL: p.etl, Key: in.Key, Summary: fmt.Sprintf(
				"the results of the samples that are transformed at once have more than %d bytes together; return less, or choose a smaller batch_size", p.mostHeld)}
		}
	}
	return nil, nil
}

// refused takes note that the arguments of a chunk do not fit the function: no sample of it can succeed.
func (c *chunk) refused(res *result, name string) {
	if res.flags&flagArgs != 0 {
		c.fault = &UserError{ETL: name, Summary: res.summary}
	}
}

// echo finds one of a sample's own blobs.
func (s *Sample) echo(sample, field int) (Value, bool) {
	if sample != 0 || field >= len(s.Fields) {
		return Value{}, false
	}
	return s.Fields[field].Value, true
}

// diagnose finds out why a chunk was not finished. Called once the process can be given up.
func (p *process) diagnose(err error, ended string, w *watch) *lost {
	l := &lost{blame: -1}
	switch {
	case errors.Is(err, errGivenUp):
		l.err = w.gaveUp
		return l
	case errors.Is(err, errTimedOut):
		l.timeout = true
		l.summary = fmt.Sprintf("timed out after %s", seconds(w.timeout))
		return l
	case errors.Is(err, errFrame):
		l.summary = err.Error()
	default: // the end of the stream, a broken pipe or a reset
		l.summary = ended
	}
	l.tail = strings.TrimSpace(p.tail.String())
	return l
}

// seconds prints a limit as people write it: 30 s, 0.2 s.
func seconds(d time.Duration) string {
	return fmt.Sprintf("%g s", d.Seconds())
}
