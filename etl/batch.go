package etl

import (
	"fmt"
	"sync/atomic"
	"time"
)

const (
	maxBatchSamples = 256      // given to a batch function in one call
	maxBatchBytes   = 64 << 20 // of these, unless one sample alone has more
	maxBatchOutput  = 1 << 30  // bytes of the columns of one call
	// splitInto is how many parts a call is tried again in that killed its process or timed out. More parts cost
	// more calls, fewer parts more time limits in a row until the guilty sample is found.
	splitInto = 16
)

// batch gives the samples todo to a batch function in one call. Of its answer, raised is a fault of the call as a whole,
// final one that fewer samples would meet too; after lost the process is no longer usable.
func (p *process) batch(c *chunk, todo []int, timeout time.Duration, closed <-chan struct{}) (raised *UserError, final bool, l *lost) {
	base := p.seq
	p.seq += uint64(len(todo))
	w := p.watch(c, timeout, closed)
	var res result
	ended, err := p.exchange(w, c.inline(todo),
		func(stop *atomic.Bool) error { return p.send(c, todo, base, stop) },
		func() (err error) {
			res, err = p.frames.next(len(todo), c.echo(todo))
			if err == nil && (res.seq != p.seq || (res.kind != resultColumns && res.kind != resultError)) {
				err = frameError("answer %d of kind %d where %d was due", res.seq, res.kind, p.seq)
			}
			if err == nil && res.kind == resultColumns {
				err = c.split(todo, res.columns)
			}
			return err
		})
	switch {
	case err != nil:
		l = p.diagnose(err, ended, w)
		if p.inHand() == p.seq {
			l.blame = todo[0]
		}
		return nil, false, l
	case res.kind == resultError:
		c.refused(&res, p.etl)
		return &UserError{ETL: p.etl, Summary: res.summary, Traceback: res.traceback}, res.flags&flagFinal != 0, nil
	}
	return nil, false, nil
}

// echo finds the blobs of the samples that make up one call.
func (c *chunk) echo(todo []int) echo {
	return func(sample, field int) (Value, bool) {
		if sample >= len(todo) {
			return Value{}, false
		}
		return c.in[todo[sample]].echo(0, field)
	}
}

// split makes a result for each sample of the columns' rows, which are views on them.
func (c *chunk) split(todo []int, columns []column) error {
	fields := make([]Field, 0, len(todo)*len(columns))
	for i, index := range todo {
		in, out := &c.in[index], &c.out[index]
		*out = Result{Sample: Sample{Key: in.Key, Seed: in.Seed}}
		first := len(fields)
		for k := range columns {
			value := columns[k].row(i)
			if columns[k].name != "__key__" {
				fields = append(fields, Field{Name: columns[k].name, Value: value})
				continue
			}
			if key := string(value.Data); key != "" && validKey(key) {
				out.Key = key
				continue
			}
			return frameError("key %q", clip(string(value.Data), 80))
		}
		out.Fields = fields[first:len(fields):len(fields)]
	}
	return nil
}

// row is a sample's value.
func (c *column) row(i int) Value {
	if c.rows != nil {
		return c.rows[i]
	}
	v := Value{DType: c.dense.DType}
	if len(c.dense.Shape) > 1 {
		v.Shape = c.dense.Shape[1:]
	}
	size := len(c.dense.Data) / int(c.dense.Shape[0])
	v.Data = c.dense.Data[i*size : (i+1)*size : (i+1)*size]
	return v
}

// serveBatch works on a chunk of a batch function. A call that raises is made again with each of its samples alone, so
// that only those fail that make it raise; one that kills its process or takes too long in a few parts, and these in
// turn. So a chunk of n samples takes at most about 2 n calls.
func (s *slot) serveBatch(c *chunk) error {
	groups := [][]int{s.admit(c)}
	stalls := 0
	for len(groups) > 0 {
		group := groups[0]
		if len(group) == 0 {
			groups = groups[1:]
			continue
		}
		if err := s.ready(c); err != nil {
			return err
		}
		raised, final, l := s.proc.batch(c, group, s.pool.def.Timeout, s.pool.ctx.Done())
		switch {
		case l == nil && raised == nil:
			s.deaths, groups = 0, groups[1:]
		case c.fault != nil:
			return c.fault
		case raised != nil:
			s.deaths, groups = 0, append(divide(c, group, raised, final, len(group)), groups[1:]...)
		default:
			s.retire()
			if l.err != nil {
				return l.err
			}
			c.deaths++
			s.mourn(l)
			if l.blame < 0 && stalls < maxStalls { // it died before the call: that may happen to anybody
				stalls++
				continue
			}
			raised = &UserError{ETL: s.pool.def.Name, Summary: l.summary, Traceback: l.tail}
			groups = append(divide(c, group, raised, false, splitInto), groups[1:]...)
		}
	}
	return nil
}

// divide cuts a group whose call has failed into parts to be tried, or answers its samples with the fault.
func divide(c *chunk, group []int, fault *UserError, final bool, parts int) [][]int {
	if len(group) > 1 && !final {
		size := (len(group) + parts - 1) / parts
		var cut [][]int
		for at := 0; at < len(group); at += size {
			cut = append(cut, group[at:min(at+size, len(group))])
		}
		return cut
	}
	for _, index := range group {
		in := &c.in[index]
		own := *fault
		own.Key = in.Key
		c.out[index] = Result{Sample: Sample{Key: in.Key, Seed: in.Seed}, Err: &own}
	}
	return nil
}

// ready brings up a process to work on a chunk that is still wanted.
func (s *slot) ready(c *chunk) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	if s.proc != nil {
		return nil
	}
	return s.start(c.ctx)
}

// wrongLevel is the error for what the definition's level can't take.
func (p *Pool) wrongLevel(takes, not string) error {
	return fmt.Errorf("%w: etl %q works on %s, not on %s", ErrLevel, p.def.Name, takes, not)
}
