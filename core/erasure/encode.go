package erasure

import (
	"errors"
	"fmt"
	"io"
	"runtime"

	"golang.org/x/sync/errgroup"
)

// ErrTooFew says that there are not enough slices: to make an object from, or to call it stored.
var ErrTooFew = errors.New("too few slices")

// Encoder cuts what is written to it into slices. It keeps nothing of what it is given, and holds less than a
// stripe of it. Close ends the object; an Encoder that is not closed has written slices that are of no use.
type Encoder struct {
	code   *Code
	slices []io.Writer
	failed []error
	need   int

	size    int64
	pending *[]byte // the beginning of a stripe
	held    int     // bytes in it
	parity  *[]byte // of one batch
	shards  [][]byte
	closed  bool
}

// Encoder begins an object. Its slices go to the writers in turn, so one that blocks holds up all; nil stands for a
// slice that is not wanted. A writer that fails is left out from then on, as long as need slices are left.
func (c *Code) Encoder(slices []io.Writer, need int) (*Encoder, error) {
	if len(slices) != c.Slices() {
		return nil, fmt.Errorf("erasure code %d+%d: %d writers for %d slices", c.data, c.parity, len(slices), c.Slices())
	}
	return &Encoder{
		code: c, slices: append([]io.Writer(nil), slices...), failed: make([]error, len(slices)), need: need,
		pending: memory.get(c.data * UnitSize), parity: memory.get(c.parity * c.units * UnitSize),
	}, nil
}

// Size is the number of bytes that were written.
func (e *Encoder) Size() int64 { return e.size }

// Failed says for each slice what its writer failed with.
func (e *Encoder) Failed() []error { return e.failed }

// Write encodes p. Full stripes are encoded as they lie in p.
func (e *Encoder) Write(p []byte) (n int, err error) {
	if e.closed {
		return 0, io.ErrClosedPipe
	}
	n = len(p)
	e.size += int64(n)
	stripe := e.code.data * UnitSize
	if e.held > 0 {
		m := copy((*e.pending)[e.held:], p)
		e.held, p = e.held+m, p[m:]
		if e.held < stripe {
			return n, nil
		}
		e.held = 0
		if err := e.encode(*e.pending, UnitSize); err != nil {
			return 0, err
		}
	}
	for len(p) >= stripe {
		m := min(len(p)/stripe, e.code.units) * stripe
		if err := e.encode(p[:m], UnitSize); err != nil {
			return 0, err
		}
		p = p[m:]
	}
	e.held = copy(*e.pending, p)
	return n, nil
}

// Close encodes the last stripe and gives the buffers back. Closing twice does nothing.
func (e *Encoder) Close() error {
	if e.closed {
		return nil
	}
	var err error
	if e.held > 0 {
		unit := int(e.code.lastUnit(e.size))
		last := (*e.pending)[:unit*e.code.data]
		clear(last[e.held:])
		err = e.encode(last, unit)
	}
	e.release()
	return err
}

// Abort gives the buffers back; nothing more is written.
func (e *Encoder) Abort() { e.release() }

func (e *Encoder) release() {
	if !e.closed {
		e.closed = true
		memory.put(e.pending)
		memory.put(e.parity)
	}
}

// encode takes whole stripes and writes their units.
func (e *Encoder) encode(p []byte, unit int) error {
	c := e.code
	stripes := len(p) / (unit * c.data)
	if err := e.code.parityOf(p, *e.parity, unit, stripes, &e.shards); err != nil {
		return err
	}
	for i := range c.data {
		for s := range stripes {
			at := (s*c.data + i) * unit
			e.write(i, p[at:at+unit])
		}
	}
	for i := range c.parity {
		at := i * stripes * unit
		e.write(c.data+i, (*e.parity)[at:at+stripes*unit])
	}
	return e.enough()
}

// sharedStripes is how many stripes are worth another processor.
const sharedStripes = 4

// parityOf computes the parity of stripes that lie in p; each parity slice's units lie one after another in parity.
func (c *Code) parityOf(p, parity []byte, unit, stripes int, scratch *[][]byte) error {
	workers := min(runtime.GOMAXPROCS(0), stripes/sharedStripes)
	if workers <= 1 {
		return c.parityOfSome(p, parity, unit, stripes, 0, stripes, scratch)
	}
	var g errgroup.Group
	for w := range workers {
		g.Go(func() error {
			var shards [][]byte
			return c.parityOfSome(p, parity, unit, stripes, w*stripes/workers, (w+1)*stripes/workers, &shards)
		})
	}
	return g.Wait()
}

func (c *Code) parityOfSome(p, parity []byte, unit, stripes, from, to int, scratch *[][]byte) error {
	for s := from; s < to; s++ {
		shards := (*scratch)[:0]
		for i := range c.data {
			at := (s*c.data + i) * unit
			shards = append(shards, p[at:at+unit:at+unit])
		}
		for i := range c.parity {
			at := (i*stripes + s) * unit
			shards = append(shards, parity[at:at+unit:at+unit])
		}
		*scratch = shards
		if err := c.stripe.Encode(shards); err != nil {
			return fmt.Errorf("erasure code %d+%d: %w", c.data, c.parity, err)
		}
	}
	return nil
}

func (e *Encoder) write(slice int, p []byte) {
	if e.slices[slice] == nil {
		return
	}
	if _, err := e.slices[slice].Write(p); err != nil {
		e.slices[slice], e.failed[slice] = nil, err
	}
}

// enough fails once fewer slices are left than are needed.
func (e *Encoder) enough() error {
	left := 0
	var errs []error
	for i, w := range e.slices {
		if w != nil {
			left++
		}
		if err := e.failed[i]; err != nil {
			errs = append(errs, fmt.Errorf("slice %d: %w", i, err))
		}
	}
	if len(errs) > 0 && left < e.need {
		return fmt.Errorf("%w: %d of %d needed: %w", ErrTooFew, left, e.need, errors.Join(errs...))
	}
	return nil
}
