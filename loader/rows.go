package loader

import (
	"slices"

	"github.com/shardstream/shardstream/core/wire"
)

// arrange decides which place each row of a complete batch shows, and which rows are samples: without
// padding the places that were filled, close together; with it each place in its own row, and in rows
// without a sample a repetition of the one before (the first one, where there is none before). It reports
// whether the batch has a sample at all.
func (b *batch) arrange() bool {
	b.rows, b.mask = b.rows[:0], b.mask[:0]
	first := slices.Index(b.state, placeFilled)
	if first < 0 {
		return false
	}
	// A rank that is left without a sample repeats one that is another's.
	isSample := byte(1)
	if b.spec.Pad > 0 {
		isSample = 0
	}
	shown := first
	for row := range b.size {
		filled := row < b.n && b.state[row] == placeFilled
		switch {
		case filled:
			shown = row
			b.show(row, isSample)
		case b.pad:
			b.show(shown, 0)
		}
	}
	if !b.pad && isSample == 1 {
		b.mask = b.mask[:0]
	}
	return true
}

func (b *batch) show(place int, mask byte) {
	b.rows = append(b.rows, place)
	b.mask = append(b.mask, mask)
}

// samples is the number of rows that are samples of this rank's.
func (b *batch) samples() int64 {
	if b.spec.Pad > 0 {
		return 0
	}
	return int64(b.n - len(b.failures))
}

// form is what the columns of a batch look like, values apart.
type form []column

// remember keeps the form of a batch with samples for those that come to have none.
func (f *form) remember(b *batch) {
	b.mu.Lock()
	defer b.mu.Unlock()
	*f = (*f)[:0]
	for i := range b.cols[:b.ncols] {
		c := b.cols[i]
		c.strayed = false
		c.ragged, c.entries = !wire.IsArray(c.dtype) || !c.dense(b.rows), nil
		*f = append(*f, c)
	}
}

// blank makes a batch of which no sample is left one of padding alone: columns as other batches have them,
// of zeros, of empty strings, of empty arrays where shapes differ.
func (b *batch) blank(f form) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cols = append(b.cols[:0], f...)
	b.ncols = len(f)
	for i := range b.cols {
		c := &b.cols[i]
		c.entries = make([]entry, b.n)
		e := &c.entries[0] // which all rows show
		if c.ragged {
			if e.ndim = c.ndim; wire.IsArray(c.dtype) && c.ndim == 0 {
				e.size = -1 // numbers that only some samples have
			}
			continue
		}
		base, err := b.slot.alloc(c.itemSize * int64(b.size))
		if err != nil {
			return err
		}
		c.base, e.size = base, c.itemSize
		clear(b.slot.mem[base : base+c.itemSize*int64(b.size)])
	}
	for range b.size {
		b.show(0, 0)
	}
	return nil
}
