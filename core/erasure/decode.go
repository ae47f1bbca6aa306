package erasure

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
)

// Reader gives out a slice from some offset on.
type Reader interface {
	// Next returns the next n bytes, all verified, or an error. They stay as they are until the next call.
	Next(n int) ([]byte, error)
	Close() error
}

// Source is where an object's slices are read.
type Source struct {
	// Open begins to read a slice at an offset. It may be called from several goroutines at a time.
	Open func(ctx context.Context, slice int, offset int64) (Reader, error)
	// Order lists the slices that there are, those first that are to be read rather than others. Data slices need
	// no computation.
	Order []int
}

// Decode makes an object of that size again and writes it to dst, and some of its slices to rebuilt, which has a
// writer for each slice that is wanted and nil for the others. Either may be nil. Where a slice fails while it is
// read, another takes its place; ErrTooFew where there is none. What was written is of no use after an error.
func (c *Code) Decode(ctx context.Context, size int64, from Source, dst io.Writer, rebuilt []io.Writer) error {
	if rebuilt != nil && len(rebuilt) != c.Slices() {
		return fmt.Errorf("erasure code %d+%d: %d writers for %d slices", c.data, c.parity, len(rebuilt), c.Slices())
	}
	for n, i := range from.Order {
		if i < 0 || i >= c.Slices() || slices.Contains(from.Order[:n], i) {
			return fmt.Errorf("erasure code %d+%d: slice %d is none, or is given twice", c.data, c.parity, i)
		}
	}
	if size == 0 {
		return nil
	}
	d := &decoder{code: c, from: from, dst: dst, rebuilt: rebuilt, left: size, readers: make([]Reader, c.Slices())}
	defer d.close()
	d.plan()
	for full := size / c.stripeSize(); full > 0; {
		n := int(min(full, int64(c.units)))
		if err := d.batch(ctx, n, UnitSize); err != nil {
			return err
		}
		full -= int64(n)
	}
	if unit := int(c.lastUnit(size)); unit > 0 {
		return d.batch(ctx, 1, unit)
	}
	return nil
}

type decoder struct {
	code    *Code
	from    Source
	dst     io.Writer
	rebuilt []io.Writer

	readers  []Reader // those in use, at most Data
	next     int      // in from.Order
	offset   int64    // in the slices
	left     int64    // of the object
	failures []error

	shards   [][]byte
	wanted   []bool // slices that have to be there, read or computed
	computed []*[]byte
}

// plan says which slices are wanted.
func (d *decoder) plan() {
	n := d.code.Slices()
	d.shards, d.wanted, d.computed = make([][]byte, n), make([]bool, n), make([]*[]byte, n)
	for i := range n {
		d.wanted[i] = i < d.code.data && d.dst != nil || d.rebuilt != nil && d.rebuilt[i] != nil
	}
}

func (d *decoder) close() {
	for _, r := range d.readers {
		if r != nil {
			_ = r.Close() // only read
		}
	}
	for _, p := range d.computed {
		if p != nil {
			memory.put(p)
		}
	}
}

// batch reads, computes and writes some stripes.
func (d *decoder) batch(ctx context.Context, stripes, unit int) error {
	if err := d.read(ctx, stripes*unit); err != nil {
		return err
	}
	if err := d.compute(stripes * unit); err != nil {
		return err
	}
	d.offset += int64(stripes * unit)
	for i, w := range d.rebuilt {
		if w == nil {
			continue
		}
		if _, err := w.Write(d.shards[i]); err != nil {
			return fmt.Errorf("write slice %d: %w", i, err)
		}
	}
	if d.dst == nil {
		return nil
	}
	for s := range stripes {
		for i := 0; i < d.code.data && d.left > 0; i++ {
			p := d.shards[i][s*unit : (s+1)*unit]
			p = p[:min(int64(len(p)), d.left)]
			if _, err := d.dst.Write(p); err != nil {
				return err
			}
			d.left -= int64(len(p))
		}
	}
	return nil
}

// read gets the next n bytes of Data slices, and goes over to others where some fail.
func (d *decoder) read(ctx context.Context, n int) error {
	clear(d.shards)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		have := d.readSome(n)
		if have == d.code.data {
			return nil
		}
		if !d.open(ctx, d.code.data-have) {
			return fmt.Errorf("%w: %d of %d: %w", ErrTooFew, have, d.code.data, errors.Join(d.failures...))
		}
	}
}

// readSome reads from all readers whose part is not there yet, at once, and counts the parts that are there.
func (d *decoder) readSome(n int) int {
	var wg sync.WaitGroup
	errs := make([]error, len(d.readers))
	for i, r := range d.readers {
		if r == nil || d.shards[i] != nil {
			continue
		}
		wg.Go(func() {
			p, err := r.Next(n)
			if err == nil && len(p) != n {
				err = io.ErrUnexpectedEOF
			}
			if errs[i] = err; err == nil {
				d.shards[i] = p[:n:n]
			}
		})
	}
	wg.Wait()
	have := 0
	for i, err := range errs {
		if err != nil {
			d.failed(i, err)
		}
		if d.shards[i] != nil {
			have++
		}
	}
	return have
}

func (d *decoder) failed(slice int, err error) {
	d.failures = append(d.failures, fmt.Errorf("slice %d: %w", slice, err))
	if r := d.readers[slice]; r != nil {
		_ = r.Close() // it has failed
		d.readers[slice] = nil
	}
}

// open opens n more slices at the present offset, as far as there are any; false where none was.
func (d *decoder) open(ctx context.Context, n int) bool {
	opened := false
	for n > 0 && d.next < len(d.from.Order) {
		batch := d.from.Order[d.next:min(d.next+n, len(d.from.Order))]
		d.next += len(batch)
		var wg sync.WaitGroup
		readers, errs := make([]Reader, len(batch)), make([]error, len(batch))
		for k, i := range batch {
			wg.Go(func() { readers[k], errs[k] = d.from.Open(ctx, i, d.offset) })
		}
		wg.Wait()
		for k, i := range batch {
			if errs[k] != nil {
				d.failed(i, errs[k])
				continue
			}
			d.readers[i], opened = readers[k], true
			n--
		}
	}
	return opened
}

// compute makes those shards that are wanted and were not read.
func (d *decoder) compute(n int) error {
	lacking := false
	required := make([]bool, len(d.shards))
	for i, wanted := range d.wanted {
		if !wanted || d.shards[i] != nil {
			continue
		}
		if d.computed[i] == nil {
			d.computed[i] = memory.get(d.code.units * UnitSize)
		}
		required[i], lacking = true, true
		d.shards[i] = (*d.computed[i])[:0]
	}
	if !lacking {
		return nil
	}
	if err := d.code.batch.ReconstructSome(d.shards, required); err != nil {
		return fmt.Errorf("erasure code %d+%d: %w", d.code.data, d.code.parity, err)
	}
	for i := range required {
		if required[i] && len(d.shards[i]) != n {
			return fmt.Errorf("erasure code %d+%d: slice %d was not computed", d.code.data, d.code.parity, i)
		}
	}
	return nil
}
