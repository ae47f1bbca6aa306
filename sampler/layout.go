package sampler

// layout lays the slices of all shards out in a permuted order of slots, and windows over the slots.
// Slice number c is slice c % per of shard c / per. Slices differ in length, by any amount between
// shards, and may be empty; starts holds where each slot begins, so a lookup is a binary search.
type layout struct {
	per    int64     // slices in a shard
	window int64     // slots in a window
	slots  bijection // slot -> slice number
	starts []int64   // position at which a slot begins; one more entry holds the total
	mixed  bool      // samples are permuted within their window
	keys   schedule  // of all windows
	tweak  uint64    // tells their permutations apart
}

func newLayout(s *Snapshot, per, window int, key uint64) layout {
	n := len(s.shards) * per
	l := layout{
		per:    int64(per),
		window: int64(window),
		slots:  newBijection(int64(n), key),
		starts: make([]int64, n+1),
	}
	var total int64
	for slot := range n {
		l.starts[slot] = total
		shard, part := l.slice(int64(slot))
		total += l.begin(s, shard, part+1) - l.begin(s, shard, part)
	}
	l.starts[n] = total
	return l
}

func (l *layout) mixWindows(key uint64) {
	l.mixed, l.keys, l.tweak = true, newSchedule(key), hash(key)
}

// at finds the sample at a position that exists.
func (l *layout) at(s *Snapshot, pos int64) (shard int, index int64) {
	lo, hi := l.windowAt(pos)
	if l.mixed {
		first := l.starts[lo]
		pos = first + l.keys.forward(newShape(l.starts[hi]-first), l.windowTweak(lo), pos-first)
	}
	slot := lastAtMost(l.starts, lo, hi, pos)
	shard, part := l.slice(int64(slot))
	return shard, l.begin(s, shard, part) + pos - l.starts[slot]
}

// position is the inverse of at.
func (l *layout) position(s *Snapshot, shard int, index int64) int64 {
	part := ((index+1)*l.per - 1) / s.shards[shard].Samples // the part with begin(part) <= index < begin(part+1)
	slot := l.slots.inverse(int64(shard)*l.per + part)
	pos := l.starts[slot] + index - l.begin(s, shard, part)
	if l.mixed {
		lo := int(slot - slot%l.window)
		first, end := l.starts[lo], l.starts[l.windowEnd(lo)]
		pos = first + l.keys.inverse(newShape(end-first), l.windowTweak(lo), pos-first)
	}
	return pos
}

// slice is what lies in a slot.
func (l *layout) slice(slot int64) (shard int, part int64) {
	c := l.slots.forward(slot)
	return int(c / l.per), c % l.per
}

// begin is the index, in its shard, of the first sample of a part.
func (l *layout) begin(s *Snapshot, shard int, part int64) int64 {
	return s.shards[shard].Samples * part / l.per
}

// windowAt finds the window over a position, as a range of slots.
func (l *layout) windowAt(pos int64) (lo, hi int) {
	k := int(l.window)
	w, end := 0, (len(l.starts)-2)/k+1 // windows; there is a slot, as there is a position
	for end-w > 1 {
		if mid := int(uint(w+end) >> 1); l.starts[mid*k] <= pos {
			w = mid
		} else {
			end = mid
		}
	}
	return w * k, l.windowEnd(w * k)
}

// windowEnd is the slot after a window's last.
func (l *layout) windowEnd(lo int) int {
	return min(lo+int(l.window), len(l.starts)-1)
}

func (l *layout) windowTweak(lo int) uint64 {
	return mix(l.tweak + uint64(lo)*golden)
}
