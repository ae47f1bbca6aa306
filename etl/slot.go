package etl

import (
	"context"
	"log/slog"
	"time"
)

const (
	// A process that dies is replaced at once; if that goes on with nothing done in between, ever later.
	backoffFirst = 50 * time.Millisecond
	backoffLast  = time.Second
	// brokenFor is how long a definition that does not load is answered with its error before it is tried again.
	brokenFor = 2 * time.Second
	// maxStalls is how often a sample is tried again after deaths between samples: it may well have caused them.
	maxStalls = 3
	// inspectEvery is how often a worker that answers is looked at from outside, which costs more than a small chunk.
	inspectEvery = 100 * time.Millisecond
)

// slot is the place of one worker process: it starts it on demand, feeds it and replaces it. One goroutine owns it.
type slot struct {
	pool   *Pool
	log    *slog.Logger
	proc   *process
	deaths int // since a chunk was last finished

	inspected time.Time // when the process last was
	unseen    bool      // it has worked since
}

func (s *slot) run() {
	defer s.retire()
	var broken error // why the last start failed
	again := false   // a process was lost, and with it the word that it is wanted
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		if s.proc != nil {
			ended := s.pool.spawn.condition.ended(s.proc.generation)
			var due <-chan time.Time
			if s.unseen {
				pause.Reset(inspectEvery)
				due = pause.C
			}
			select {
			case <-ended:
				s.retire()
				again = true
				continue
			default:
			}
			select {
			case <-ended: // seen above
			case c := <-s.pool.queue:
				s.serve(c)
				again = true
			case <-due:
				s.inspect()
				again = true
			case <-s.pool.ctx.Done():
				return
			}
			continue
		}
		if broken != nil {
			s.refuse(broken)
			again = true
		}
		if !again || s.pool.counts.waiting.Load() == 0 {
			select {
			case <-s.pool.demand:
			case <-s.pool.ctx.Done():
			}
		}
		if s.pool.ctx.Err() != nil {
			return
		}
		again = false
		broken = s.start(s.pool.ctx)
	}
}

// refuse answers chunks with the reason why there is no process, unless other slots have one.
func (s *slot) refuse(broken error) {
	retry := time.NewTimer(brokenFor)
	defer retry.Stop()
	recheck := time.NewTicker(50 * time.Millisecond)
	defer recheck.Stop()
	for {
		queue := s.pool.queue
		if s.pool.alive.Load() > 0 {
			queue = nil
		}
		select {
		case c := <-queue:
			c.finish(broken)
		case <-recheck.C:
		case <-retry.C:
			return
		case <-s.pool.ctx.Done():
			return
		}
	}
}

// start brings the process up, or returns why not. After deaths it pauses first.
func (s *slot) start(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.pool.ctx, cancel)()
	if s.deaths > 1 {
		pause := time.NewTimer(min(backoffFirst<<min(s.deaths-2, 10), backoffLast))
		defer pause.Stop()
		select {
		case <-pause.C:
		case <-ctx.Done():
		}
	}
	s.pool.alive.Add(1)
	proc, err := s.pool.spawn.start(ctx)
	if err != nil {
		s.pool.alive.Add(-1)
		if s.pool.ctx.Err() != nil {
			return ErrClosed
		}
		if ctx.Err() == nil {
			s.log.Warn("etl worker did not start", "error", err)
		}
		return err
	}
	s.proc = proc
	s.pool.running.Add(1)
	s.pool.spawn.condition.end(proc.generation, nil)
	s.log.Debug("etl worker started", "pid", proc.pid)
	return nil
}

// retire ends the process.
func (s *slot) retire() {
	if s.proc == nil {
		return
	}
	s.pool.spawn.close(s.proc)
	s.proc = nil
	s.pool.running.Add(-1)
	s.pool.alive.Add(-1)
}

// serve works on a chunk until each of its samples has an answer, on as many processes as that takes.
func (s *slot) serve(c *chunk) {
	begun := time.Now()
	var err error
	switch c.kind {
	case requestObject:
		err = s.serveObject(c)
	case requestBatch:
		err = s.serveBatch(c)
	default:
		err = s.serveSamples(c)
	}
	if s.unseen = true; time.Since(s.inspected) >= inspectEvery {
		s.inspect()
	}
	if err == nil || c.object != nil {
		s.pool.observe(c, time.Since(begun), c.deaths == 0)
	}
	c.finish(err)
}

// inspect replaces a worker that has answered and yet must not go on.
func (s *slot) inspect() {
	s.inspected, s.unseen = time.Now(), false
	if s.proc == nil {
		return
	}
	if reason := s.proc.overrun(); reason != "" {
		s.log.Warn("etl worker replaced", "reason", reason)
		s.pool.counts.restarts.Add(1)
		s.retire()
	}
}

func (s *slot) serveSamples(c *chunk) error {
	todo := s.admit(c)
	stalls := 0
	for len(todo) > 0 {
		if s.proc == nil {
			if err := s.start(c.ctx); err != nil {
				return err
			}
		}
		now, later := todo, []int(nil)
		if stalls > 0 { // one at a time, to find out which it is
			now, later = todo[:1], todo[1:]
		}
		rest, l := s.proc.run(c, now, s.pool.def.Timeout, s.pool.ctx.Done())
		if c.fault != nil {
			if l != nil {
				s.retire()
			}
			return c.fault
		}
		if l == nil {
			s.deaths = 0
			todo = later
			continue
		}
		s.retire()
		if l.err != nil {
			return l.err
		}
		c.deaths++
		s.mourn(l)
		if len(rest) < len(now) {
			s.deaths = 1
		}
		if l.blame < 0 && len(rest) > 0 {
			if stalls++; len(now) == 1 && stalls > maxStalls {
				l.blame, stalls = rest[0], 1
			}
		}
		todo = append(s.blame(c, l, rest), later...)
	}
	return nil
}

// admit answers the samples that no frame can carry and returns the indexes of the others.
func (s *slot) admit(c *chunk) []int {
	todo := make([]int, 0, len(c.in))
	for i := range c.in {
		in := &c.in[i]
		if err := fits(in, s.pool.spawn.opts.MaxSample); err != nil {
			c.out[i] = Result{Sample: Sample{Key: in.Key, Seed: in.Seed}, Err: err}
			continue
		}
		todo = append(todo, i)
	}
	return todo
}

// mourn counts and logs the death of a process.
func (s *slot) mourn(l *lost) {
	s.deaths++
	s.pool.counts.restarts.Add(1)
	if l.timeout {
		s.pool.counts.timeouts.Add(1)
	}
	s.log.Warn("etl worker replaced", "reason", l.summary)
}

// blame answers the sample that was in hand when its process died and returns the others that are left.
func (s *slot) blame(c *chunk, l *lost, rest []int) []int {
	left := rest[:0:0]
	for _, index := range rest {
		if index != l.blame {
			left = append(left, index)
			continue
		}
		in := &c.in[index]
		c.out[index] = Result{
			Sample: Sample{Key: in.Key, Seed: in.Seed},
			Err:    &UserError{ETL: s.pool.def.Name, Key: in.Key, Summary: l.summary, Traceback: l.tail},
		}
	}
	return left
}
