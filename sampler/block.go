package sampler

import "sync/atomic"

// block is a run of slots, worked out.
type block struct {
	number int64
	starts [blockSlots]int64 // where the slots begin, from the block's first position on
	slices [blockSlots]int64 // the slices in them
}

// blockCache remembers blocks that were worked out. A stream goes through positions in order, so it
// meets the blocks of one window for thousands of positions. It may be used concurrently; two who miss
// the same block work it out twice.
type blockCache [1 << 8]atomic.Pointer[block]

// block returns a block of slots.
func (l *layout) block(number int64) *block {
	place := &l.cache[number%int64(len(l.cache))]
	if b := place.Load(); b != nil && b.number == number {
		return b
	}
	b := &block{number: number}
	var total int64
	first := number * l.every
	for i := range min(l.every, l.count-first) {
		b.slices[i] = l.slots.forward(first + i)
		b.starts[i] = total
		total += l.size(int(b.slices[i]/l.per), b.slices[i]%l.per)
	}
	place.Store(b)
	return b
}
