package sampler

import "fmt"

// Blend says how the parts of a mixture come together.
type Blend struct {
	Interleave Interleave
	Seed       uint64
	// Unit is the number of positions that come from one part under PerSource, the batch size as a
	// rule: each part's draws are a multiple of it. The others take 0.
	Unit int64
}

// Turns is whose turn each position of an epoch is: the part of a Mixture that needs no snapshot. It takes
// a few words for each part.
type Turns struct {
	blend   Blend
	samples int64
	random  bijection // Random: position -> draw, counted through the parts
	starts  []int64   // Random: the first draw of each part; one more entry holds the total
	braid   braid     // Stratified, PerSource
}

// NewTurns deals an epoch's positions to parts that give these many samples.
func NewTurns(draws []int64, blend Blend, epoch uint64) (*Turns, error) {
	if err := blend.validate(draws); err != nil {
		return nil, err
	}
	t := &Turns{blend: blend}
	for _, n := range draws {
		t.samples += n
	}
	if t.samples == 0 {
		return t, nil
	}
	key := orderKey(purposeBlend, blend.Seed, epoch)
	switch blend.Interleave {
	case Stratified:
		t.braid = newBraid(draws, false, key)
		return t, nil
	case PerSource:
		units := make([]int64, len(draws))
		for i, n := range draws {
			units[i] = n / blend.Unit
		}
		// Loose: ranks take units in turn, and none shall have all those of one part.
		t.braid = newBraid(units, true, key)
		return t, nil
	case Random:
	}
	t.random = newBijection(t.samples, key)
	t.starts = make([]int64, len(draws)+1)
	for i, n := range draws {
		t.starts[i+1] = t.starts[i] + n
	}
	return t, nil
}

func (b Blend) validate(draws []int64) error {
	switch {
	case int(b.Interleave) >= len(interleaveNames):
		return fmt.Errorf("sampler: unknown interleave %d", uint8(b.Interleave))
	case len(draws) == 0 || len(draws) > MaxParts:
		return fmt.Errorf("sampler: a mixture of %d parts, 1 to %d are possible", len(draws), MaxParts)
	case b.Interleave == PerSource && (b.Unit < 1 || b.Unit > MaxBatchSize):
		return fmt.Errorf("sampler: a unit of %d positions, 1 to %d are possible", b.Unit, MaxBatchSize)
	case b.Interleave != PerSource && b.Unit != 0:
		return fmt.Errorf("sampler: a unit of %d positions, which interleave %q does not take", b.Unit, b.Interleave)
	}
	var total int64
	for i, n := range draws {
		switch {
		case n < 0 || n > MaxSamples-total:
			return fmt.Errorf("sampler: %d samples an epoch of part %d: in all, 0 to %d are possible", n, i, int64(MaxSamples))
		case b.Interleave == PerSource && n%b.Unit != 0:
			return fmt.Errorf("sampler: %d samples an epoch of part %d are no multiple of the unit, %d", n, i, b.Unit)
		}
		total += n
	}
	return nil
}

// Samples is the number of positions.
func (t *Turns) Samples() int64 { return t.samples }

// At is the part at a position, and which of its draws of the epoch stands there. It panics where pos is
// outside [0, Samples()).
func (t *Turns) At(pos int64) (part int, draw int64) {
	inRange("position", pos, t.samples)
	switch t.blend.Interleave {
	case Random:
		draw = t.random.forward(pos)
		part = lastAtMost(t.starts, 0, len(t.starts)-1, draw)
		return part, draw - t.starts[part]
	case PerSource:
		unit := pos / t.blend.Unit
		part, draw = t.braid.at(unit)
		return part, draw*t.blend.Unit + pos - unit*t.blend.Unit
	default:
		return t.braid.at(pos)
	}
}
