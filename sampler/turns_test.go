package sampler_test

import (
	"fmt"
	"testing"

	"github.com/shardstream/shardstream/sampler"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// Shares of every stretch of positions: less than 1 off with two parts, less than 4 with any number; of units
// from one part each, twice that.
func TestSharesOfEveryStretch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		blend := rapid.SampledFrom([]sampler.Blend{{Interleave: sampler.Stratified}, {Interleave: sampler.PerSource, Unit: 1}}).Draw(t, "blend")
		blend.Seed = rapid.Uint64().Draw(t, "seed")
		draws := rapid.SliceOfN(rapid.OneOf(rapid.Int64Range(0, 3), rapid.Int64Range(0, 50), rapid.Int64Range(1, 2000)), 2, 24).Draw(t, "draws")
		sizes := make([]int64, len(draws))
		for i := range sizes {
			sizes[i] = 7
		}
		m := mix(t, blend, sizes, draws)
		plan := m.plan(t, rapid.Uint64().Draw(t, "epoch"))
		bound := 4.0
		if len(draws) == 2 {
			bound = 1
		}
		if blend.Interleave == sampler.PerSource {
			bound *= 2
		}
		low, high, counts := make([]float64, len(draws)), make([]float64, len(draws)), make([]float64, len(draws))
		for pos := range plan.Samples() {
			counts[plan.Draw(pos).Part]++
			for i, n := range draws {
				off := counts[i] - float64(pos+1)*float64(n)/float64(plan.Samples())
				low[i], high[i] = min(low[i], off), max(high[i], off)
				if high[i]-low[i] >= bound+1e-9 {
					t.Fatalf("a stretch that ends at position %d has %.2f too many or few of part %d (%v)", pos, high[i]-low[i], i, draws)
				}
			}
		}
	})
}

func TestPerSourceUnitsComeFromOnePart(t *testing.T) {
	m := mix(t, sampler.Blend{Interleave: sampler.PerSource, Unit: 8}, []int64{100, 30}, []int64{96, 32})
	plan := m.plan(t, 2)
	counts := map[int]int{}
	for pos := int64(0); pos < plan.Samples(); pos += 8 {
		part := plan.Draw(pos).Part
		counts[part]++
		for at := pos; at < pos+8; at++ {
			require.Equal(t, part, plan.Draw(at).Part)
		}
	}
	require.Equal(t, map[int]int{0: 12, 1: 4}, counts)
}

// Ranks take units in turn: whatever their number, each gets its share of each part.
func TestUnitsAreInStepWithNothing(t *testing.T) {
	const units, unit = 20_000, 4
	for _, draws := range [][]int64{{units / 2, units / 2}, {units / 4, units * 3 / 4}, {units / 2, units / 4, units / 4}} {
		sizes := make([]int64, len(draws))
		for i := range draws {
			sizes[i] = 9
			draws[i] *= unit
		}
		plan := mix(t, sampler.Blend{Interleave: sampler.PerSource, Unit: unit}, sizes, draws).plan(t, 0)
		for _, world := range []int64{2, 3, 4, 8} {
			for rank := range world {
				taken, first := 0.0, 0.0
				for u := rank; u < units; u += world {
					if taken++; plan.Draw(u*unit).Part == 0 {
						first++
					}
				}
				share := float64(draws[0]) / unit / units
				require.InDelta(t, share, first/taken, 5*sqrt(share*(1-share)/taken), "rank %d of %d", rank, world)
			}
		}
	}
}

// The part at any one position is each with the probability of its share, over seeds and over epochs; the
// samples of a part too, whichever position is looked at.
func TestMixturePositionsAreFair(t *testing.T) {
	sizes, draws := []int64{4, 3, 6}, []int64{8, 3, 5}
	for _, v := range []sampler.Interleave{sampler.Random, sampler.Stratified, sampler.PerSource} {
		for _, by := range []string{"seed", "epoch"} {
			for _, pos := range []int64{0, 7, 15} {
				counts := map[string]int{}
				const tries = 16 * 500
				for i := range uint64(tries) {
					blend := sampler.Blend{Interleave: v}
					epoch := i
					if by == "seed" {
						blend.Seed, epoch = i, 0
					}
					if v == sampler.PerSource {
						blend.Unit = 1
					}
					d := mix(t, blend, sizes, draws).plan(t, epoch).Draw(pos)
					// Cells of equal weight: a part with 8 of 16 draws and 4 samples counts twice a sample.
					cell := fmt.Sprintf("part %d", d.Part)
					counts[cell]++
				}
				chi := 0.0
				for part, n := range draws {
					want := float64(n) / 16 * tries
					got := float64(counts[fmt.Sprintf("part %d", part)])
					chi += (got - want) * (got - want) / want
				}
				require.Less(t, chi, 25.0, "%v by %s at %d: %v", v, by, pos, counts)
			}
		}
	}
}

// Batches of a random mixture have the composition that independent draws without replacement would have.
func TestRandomMixtureHasTheSpreadOfADraw(t *testing.T) {
	const batch = 100
	m := mix(t, sampler.Blend{Seed: 5}, []int64{30_000, 70_000}, []int64{30_000, 70_000})
	plan := m.plan(t, 0)
	var sum, squares float64
	batches := plan.Samples() / batch
	for b := range batches {
		count := 0.0
		for pos := b * batch; pos < (b+1)*batch; pos++ {
			if plan.Draw(pos).Part == 0 {
				count++
			}
		}
		sum, squares = sum+count, squares+count*count
	}
	mean := sum / float64(batches)
	require.InDelta(t, 30, mean, 1e-9)
	require.InDelta(t, sqrt(batch*0.3*0.7), sqrt(squares/float64(batches)-mean*mean), 0.35)
}

func TestInterleaveNames(t *testing.T) {
	for _, v := range []sampler.Interleave{sampler.Random, sampler.Stratified, sampler.PerSource} {
		got, err := sampler.ParseInterleave(v.String())
		require.NoError(t, err)
		require.Equal(t, v, got)
	}
	_, err := sampler.ParseInterleave("mixed")
	require.ErrorContains(t, err, `unknown interleave "mixed"`)
	require.Equal(t, "Interleave(9)", sampler.Interleave(9).String())
}
