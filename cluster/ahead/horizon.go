package ahead

import (
	"iter"
	"slices"

	"github.com/shardstream/shardstream/sampler"
)

// reach is how many positions of an order that jumps from shard to shard are walked ahead: some ten milliseconds of work.
const reach = 1 << 16

// horizon is a stretch of an order that jumps, walked. What is needed behind it is needed later than all within, which is as
// much as eviction has to know. Positions behind the end of the epoch are those of the next one.
type horizon struct {
	from  place
	to    int64
	end   int64 // of the epoch, or to
	index *index
	first []sampler.Visit // of each shard, in order
	uses  map[int32][]int64
}

// walk makes the horizon of a track from a place on.
func walk(from place, plans [2]sampler.Plan, ix *index) *horizon {
	h := &horizon{from: from, index: ix, uses: map[int32][]int64{}}
	samples := plans[0].Samples()
	for h.to = from.pos; h.to < from.pos+reach; h.to++ {
		plan, pos := plans[0], h.to
		if pos >= samples {
			if plan, pos = plans[1], pos-samples; pos >= plan.Samples() {
				break
			}
		}
		shard, _ := ix.snap.Locate(plan.Draw(pos).Sample)
		if !ix.has(shard) {
			continue
		}
		seen := h.uses[int32(shard)]
		if seen == nil && h.to < samples {
			h.first = append(h.first, sampler.Visit{Shard: shard, From: h.to, To: h.to + 1})
		}
		h.uses[int32(shard)] = append(seen, h.to)
	}
	h.end = min(h.to, samples)
	return h
}

// covers says whether the horizon is good for a place yet.
func (h *horizon) covers(at place) bool {
	return at.epoch == h.from.epoch && at.pos >= h.from.pos && at.pos-h.from.pos <= reach/4
}

func (h *horizon) visits(after int64) iter.Seq[sampler.Visit] {
	return func(yield func(sampler.Visit) bool) {
		for _, first := range h.first {
			if v, ok := h.next(first.Shard, after); ok && v.From < h.end && !yield(v) {
				return
			}
		}
	}
}

func (h *horizon) next(shard int, after int64) (sampler.Visit, bool) {
	uses := h.uses[int32(shard)]
	if i, _ := slices.BinarySearch(uses, after); i < len(uses) {
		return sampler.Visit{Shard: shard, From: uses[i], To: uses[i] + 1}, true
	}
	return sampler.Visit{Shard: shard, From: h.to, To: h.to + 1}, true
}
