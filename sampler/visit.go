package sampler

import "iter"

// Visit is a stretch of an epoch's positions, [From, To), in which samples of one shard stand: all of those of a slice under
// Window, of the shard under Shards and None, and a single one where the order jumps from shard to shard.
type Visit struct {
	Shard    int
	From, To int64
}

// Visits yields the visits of an epoch that end after a position, in the order in which they begin: the course of what a
// reader needs from there on. A shard comes as often as it has slices. Under Window, Shards and None it takes a step for a
// slice, whatever number of samples it has; in a mixture, and under Global, each position is a visit.
func Visits(p Plan, after int64) iter.Seq[Visit] {
	if o, ok := p.(*Order); ok && o.mode != Global {
		return o.visits(after)
	}
	return func(yield func(Visit) bool) {
		for pos := after; pos < p.Samples(); pos++ {
			shard, _ := p.Snapshot().Locate(p.Draw(pos).Sample)
			if !yield(Visit{Shard: shard, From: pos, To: pos + 1}) {
				return
			}
		}
	}
}

// Turns says when each of so many shards comes first in an epoch, as far as that does not depend on their samples: a shard of
// a lower turn does not come later, but for the windows' sake. Under Global every shard comes at once; their turns are their
// numbers there, as under None.
func (s Shuffle) Turns(shards int, epoch uint64) func(shard int) int64 {
	s = s.withDefaults()
	per := int64(1)
	switch s.Mode {
	case Window:
		per = int64(s.Slices)
	case Shards:
	default:
		return func(shard int) int64 { return int64(shard) }
	}
	slots := newBijection(int64(shards)*per, orderKey(purposeSlices, s.Seed, epoch))
	return func(shard int) int64 {
		inRange("shard", int64(shard), int64(shards))
		first := slots.inverse(int64(shard) * per)
		for part := int64(1); part < per; part++ {
			first = min(first, slots.inverse(int64(shard)*per+part))
		}
		return first
	}
}

// Jumps says that an order goes from shard to shard with every sample, so that its visits are positions.
func Jumps(p Plan) bool {
	o, ok := p.(*Order)
	return !ok || o.mode == Global
}

func (o *Order) visits(after int64) iter.Seq[Visit] {
	return func(yield func(Visit) bool) {
		if after >= o.Samples() {
			return
		}
		if o.mode == None {
			shard, _ := o.of.locate(after)
			for ; shard < o.of.shards; shard++ {
				from := o.of.start(shard)
				if to := from + o.of.count(shard); to > from && !yield(Visit{shard, from, to}) {
					return
				}
			}
			return
		}
		slot, _ := o.slices.find(after)
		for slot -= slot % o.slices.window; slot < o.slices.count; slot += o.slices.window {
			if !o.slices.visitWindow(slot, yield) {
				return
			}
		}
	}
}

// visitWindow yields the slices of the window that begins with a slot.
func (l *layout) visitWindow(first int64, yield func(Visit) bool) bool {
	from, n := l.windowOf(first)
	for slot := first; slot < min(first+l.window, l.count); slot++ {
		shard, part := l.sliceAt(slot)
		if l.size(shard, part) > 0 && !yield(Visit{shard, from, from + n}) {
			return false
		}
	}
	return true
}

// NextVisit is the first visit to a shard that ends after a position; false where there is none. It takes a step for each
// slice of the shard; under Global, for each sample.
func (o *Order) NextVisit(shard int, after int64) (next Visit, ok bool) {
	inRange("shard", int64(shard), int64(o.of.shards))
	n := o.of.count(shard)
	take := func(from, to int64) {
		if to > after && (!ok || from < next.From) {
			next, ok = Visit{shard, from, to}, true
		}
	}
	switch o.mode {
	case None:
		if n > 0 {
			take(o.of.start(shard), o.of.start(shard)+n)
		}
	case Global:
		for i := range n {
			pos := o.Position(o.of.start(shard) + i)
			take(pos, pos+1)
		}
	default:
		for part := range o.slices.per {
			if o.slices.size(shard, part) == 0 {
				continue
			}
			from, size := o.slices.windowOf(o.slices.slots.inverse(int64(shard)*o.slices.per + part))
			take(from, from+size)
		}
	}
	return next, ok
}
