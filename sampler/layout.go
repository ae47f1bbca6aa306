package sampler

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// layout lays the slices of all shards out in a permuted order of slots, and windows over the slots.
// Slice number c is slice c % per of shard c / per. Slices differ in length, by any amount between
// shards, and may be empty. blocks holds where each block of slots begins: a block is one slot as long
// as there are few, and some slots that are worked out when they are needed where there are many.
type layout struct {
	of     run
	per    int64     // slices in a shard
	window int64     // slots in a window
	count  int64     // slots
	slots  bijection // slot -> slice number
	every  int64     // slots in a block
	blocks starts    // of the blocks, by position
	cache  *blockCache
	mixed  bool     // samples are permuted within their window
	keys   schedule // of all windows
	tweak  uint64   // tells their permutations apart
}

const (
	// maxSingle is the number of slots up to which each is a block of its own.
	maxSingle = 1 << 20
	// blockSlots is the length of a block beyond: a default window is one block.
	blockSlots = DefaultWindow
)

// lay lays the slices out. A layout is filled in where it is kept: mixtures have many small ones.
func (l *layout) lay(of run, per, window int, key uint64) {
	n := int64(of.shards) * int64(per)
	*l = layout{of: of, per: int64(per), window: int64(window), count: n, slots: newBijection(n, key), every: 1}
	if n > maxSingle {
		l.every, l.cache = blockSlots, new(blockCache)
	}
	sums := make([]int64, (n+l.every-1)/l.every+1)
	l.measure(sums[:len(sums)-1])
	var total int64
	for i, size := range sums {
		sums[i] = total
		total += size
	}
	l.blocks = newStarts(sums)
}

// measure sums the samples of each block up, on all processors where there are many. It goes through the
// shards as they lie and drops each slice into its block: the other way round, every slice would be
// looked up somewhere else in the snapshot.
func (l *layout) measure(sums []int64) {
	if l.every == 1 {
		l.measureShards(sums, 0, l.of.shards)
		return
	}
	share := l.of.shards/runtime.GOMAXPROCS(0) + 1
	var done sync.WaitGroup
	for from := 0; from < l.of.shards; from += share {
		done.Go(func() { l.measureShards(sums, from, min(from+share, l.of.shards)) })
	}
	done.Wait()
}

func (l *layout) measureShards(sums []int64, from, to int) {
	for shard := from; shard < to; shard++ {
		n := l.of.count(shard)
		for part := range l.per {
			slot := l.slots.inverse(int64(shard)*l.per + part)
			atomic.AddInt64(&sums[slot/l.every], l.begin(n, part+1)-l.begin(n, part))
		}
	}
}

func (l *layout) mixWindows(key uint64) {
	l.mixed, l.keys, l.tweak = true, newSchedule(key), hash(key)
}

// at finds the sample at a position that exists.
func (l *layout) at(pos int64) (shard int, index int64) {
	slot, first := l.find(pos)
	if l.mixed {
		from, n := l.windowOf(slot)
		pos = from + l.keys.forward(newShape(n), l.windowTweak(slot), pos-from)
		slot, first = l.find(pos)
	}
	shard, part := l.sliceAt(slot)
	return shard, l.begin(l.of.count(shard), part) + pos - first
}

// position is the inverse of at.
func (l *layout) position(shard int, index int64) int64 {
	n := l.of.count(shard)
	part := ((index+1)*l.per - 1) / n // the part with begin(part) <= index < begin(part+1)
	slot := l.slots.inverse(int64(shard)*l.per + part)
	pos := l.start(slot) + index - l.begin(n, part)
	if l.mixed {
		from, n := l.windowOf(slot)
		pos = from + l.keys.inverse(newShape(n), l.windowTweak(slot), pos-from)
	}
	return pos
}

// slice works out what lies in a slot.
func (l *layout) slice(slot int64) (shard int, part int64) {
	c := l.slots.forward(slot)
	return int(c / l.per), c % l.per
}

// sliceAt is slice, out of the slot's block where blocks are kept.
func (l *layout) sliceAt(slot int64) (shard int, part int64) {
	if l.every == 1 {
		return l.slice(slot)
	}
	c := l.block(slot / l.every).slices[slot%l.every]
	return int(c / l.per), c % l.per
}

// begin is the index, in a shard of n samples, of the first sample of a part.
func (l *layout) begin(n, part int64) int64 { return n * part / l.per }

func (l *layout) size(shard int, part int64) int64 {
	n := l.of.count(shard)
	return l.begin(n, part+1) - l.begin(n, part)
}

// find is the slot over a position, and the position at which the slot begins.
func (l *layout) find(pos int64) (slot, first int64) {
	b := int64(l.blocks.find(pos))
	first = l.blocks.list[b]
	if l.every == 1 {
		return b, first
	}
	inside := &l.block(b).starts
	i := lastAtMost(inside[:], 0, int(min(l.every, l.count-b*l.every)), pos-first)
	return b*l.every + int64(i), first + inside[i]
}

// start is the position at which a slot begins.
func (l *layout) start(slot int64) int64 {
	b, i := slot/l.every, slot%l.every
	first := l.blocks.list[b]
	if i == 0 {
		return first
	}
	return first + l.block(b).starts[i]
}

// windowOf is where the window around a slot begins, and its length in positions.
func (l *layout) windowOf(slot int64) (from, n int64) {
	lo := slot - slot%l.window
	end := l.blocks.total()
	if hi := lo + l.window; hi < l.count {
		end = l.start(hi)
	}
	from = l.start(lo)
	return from, end - from
}

// windowTweak is a function of the window's first slot.
func (l *layout) windowTweak(slot int64) uint64 {
	return mix(l.tweak + uint64(slot-slot%l.window)*golden)
}
