package sampler_test

import (
	"fmt"
	"math"
	"runtime"
	"testing"

	"github.com/shardstream/shardstream/sampler"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// mixed is a snapshot with the parts of a mixture of it.
type mixed struct {
	snap  *sampler.Snapshot
	parts []sampler.Part
	sizes []int64 // samples of the parts
	first []int64 // number of each part's first sample
	blend sampler.Blend
}

func (m *mixed) plan(t require.TestingT, epoch uint64) *sampler.Mixture {
	plan, err := sampler.NewMixture(m.snap, m.parts, m.blend, epoch)
	require.NoError(t, err)
	return plan
}

// mix makes parts of two shards each of these sizes.
func mix(t require.TestingT, blend sampler.Blend, sizes, draws []int64, modes ...sampler.Mode) *mixed {
	m := &mixed{sizes: sizes, blend: blend}
	var shards []sampler.Shard
	var total int64
	for i, n := range sizes {
		m.first = append(m.first, total)
		total += n
		shards = append(shards,
			sampler.Shard{Name: fmt.Sprintf("b/%d-0.tar", i), Samples: n / 2},
			sampler.Shard{Name: fmt.Sprintf("b/%d-1.tar", i), Samples: n - n/2})
		p := sampler.Part{Shards: 2, Draws: draws[i], Shuffle: sampler.Shuffle{Seed: sampler.PartSeed(blend.Seed, i)}}
		if len(modes) > 0 {
			p.Shuffle.Mode = modes[i%len(modes)]
		}
		m.parts = append(m.parts, p)
	}
	var err error
	m.snap, err = sampler.NewSnapshot(shards)
	require.NoError(t, err)
	return m
}

func drawMixture(t *rapid.T) *mixed {
	blend := sampler.Blend{
		Interleave: rapid.SampledFrom([]sampler.Interleave{sampler.Random, sampler.Stratified, sampler.PerSource}).Draw(t, "interleave"),
		Seed:       rapid.Uint64().Draw(t, "seed"),
	}
	unit := int64(1)
	if blend.Interleave == sampler.PerSource {
		unit = rapid.Int64Range(1, 9).Draw(t, "unit")
		blend.Unit = unit
	}
	parts := rapid.IntRange(1, 6).Draw(t, "parts")
	sizes, draws, modes := make([]int64, parts), make([]int64, parts), make([]sampler.Mode, parts)
	for i := range parts {
		sizes[i] = rapid.Int64Range(1, 40).Draw(t, "size")
		draws[i] = rapid.Int64Range(0, 90).Draw(t, "draws") / unit * unit
		if blend.Interleave != sampler.Random {
			modes[i] = rapid.SampledFrom([]sampler.Mode{sampler.Global, sampler.Window, sampler.Shards, sampler.None}).Draw(t, "mode")
		}
	}
	return mix(t, blend, sizes, draws, modes...)
}

// The model: what each part gives is the concatenation of the orders of its passes, made from its shards alone.
func (m *mixed) passOf(t require.TestingT, part int, pass uint64) []int64 {
	sub, err := sampler.NewSnapshot([]sampler.Shard{m.snap.Shard(2 * part), m.snap.Shard(2*part + 1)})
	require.NoError(t, err)
	o, err := sampler.NewOrder(sub, m.parts[part].Shuffle, pass)
	require.NoError(t, err)
	seq := make([]int64, o.Samples())
	for i := range seq {
		seq[i] = m.first[part] + o.Sample(int64(i))
	}
	return seq
}

func TestMixtureDealsEachPartsPassesInTurn(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := drawMixture(t)
		epoch := rapid.Uint64Range(0, 5).Draw(t, "epoch")
		plan := m.plan(t, epoch)
		got := make([][]sampler.Draw, len(m.parts))
		for pos := range plan.Samples() {
			d := plan.Draw(pos)
			got[d.Part] = append(got[d.Part], d)
		}
		for i, p := range m.parts {
			if int64(len(got[i])) != p.Draws {
				t.Fatalf("part %d gave %d samples instead of %d", i, len(got[i]), p.Draws)
			}
			want := map[sampler.Draw]int{}
			var sequence []sampler.Draw
			for k := range p.Draws {
				overall := int64(epoch)*p.Draws + k
				pass := uint64(overall / m.sizes[i])
				d := sampler.Draw{Sample: m.passOf(t, i, pass)[overall%m.sizes[i]], Part: i, Pass: pass}
				want[d]++
				sequence = append(sequence, d)
			}
			if m.blend.Interleave != sampler.Random { // these keep the order of each part
				require.Equal(t, sequence, got[i])
				continue
			}
			for _, d := range got[i] {
				want[d]--
			}
			for d, n := range want {
				if n != 0 {
					t.Fatalf("part %d: %+v came %d times too few", i, d, n)
				}
			}
		}
	})
}

// What an epoch leaves out comes before anything comes again.
func TestMixtureGoesOnWhereTheLastEpochStopped(t *testing.T) {
	m := mix(t, sampler.Blend{Seed: 3}, []int64{10, 20}, []int64{4, 25})
	for part, n := range m.sizes {
		counts := map[int64]int{}
		draws := 0
		for epoch := uint64(0); draws < 1000; epoch++ {
			plan := m.plan(t, epoch)
			for pos := range plan.Samples() {
				if d := plan.Draw(pos); d.Part == part {
					counts[d.Sample]++
					draws++
				}
			}
			least, most := math.MaxInt, 0
			for s := range n {
				c := counts[m.first[part]+s]
				least, most = min(least, c), max(most, c)
			}
			require.LessOrEqual(t, most-least, 1, "part %d after epoch %d", part, epoch)
		}
	}
}

// Two parts of one size are not permuted alike, nor are the epochs.
func TestPartsAndEpochsOfAMixtureAreUnrelated(t *testing.T) {
	const n = 4000
	m := mix(t, sampler.Blend{Interleave: sampler.Stratified}, []int64{n, n}, []int64{n, n})
	perPart := func(epoch uint64) (seqs [2][]int64) {
		plan := m.plan(t, epoch)
		for pos := range plan.Samples() {
			d := plan.Draw(pos)
			seqs[d.Part] = append(seqs[d.Part], d.Sample-m.first[d.Part])
		}
		return seqs
	}
	a, b := perPart(0), perPart(1)
	bound := 5 / sqrt(n)
	require.Less(t, abs(correlation(a[0], a[1])), bound)
	require.Less(t, abs(correlation(a[0], b[0])), bound)
	require.Less(t, abs(correlation(a[1], b[1])), bound)
}

func TestMixtureOfHugeParts(t *testing.T) {
	const huge = 1 << 49
	for _, v := range []sampler.Interleave{sampler.Random, sampler.Stratified} {
		m := mix(t, sampler.Blend{Interleave: v, Seed: 1}, []int64{huge - 1, 3}, []int64{huge, huge})
		for _, epoch := range []uint64{0, 1 << 62, math.MaxUint64} {
			plan := m.plan(t, epoch)
			require.Equal(t, int64(2*huge), plan.Samples())
			for pos := int64(0); pos < plan.Samples(); pos += plan.Samples() / 1000 {
				d := plan.Draw(pos)
				require.GreaterOrEqual(t, d.Sample, m.first[d.Part])
				require.Less(t, d.Sample, m.first[d.Part]+m.sizes[d.Part])
			}
		}
	}
	parts := make([]int64, sampler.MaxParts)
	for i := range parts {
		parts[i] = int64(1 + i*i)
	}
	plan := mix(t, sampler.Blend{Interleave: sampler.Stratified}, parts, parts).plan(t, 0)
	seen := make([]int64, len(parts))
	for pos := range int64(100_000) {
		seen[plan.Draw(pos).Part]++
	}
	require.InDelta(t, 100_000*float64(parts[999])/float64(plan.Samples()), float64(seen[999]), 4)
}

// The orders of many passes are bounded too, and keys are not kept for each.
func TestMixtureMemoryIsBounded(t *testing.T) {
	bytes := func(blend sampler.Blend, draws int64, mode sampler.Mode) uint64 {
		m := mix(t, blend, []int64{1, 4}, []int64{draws, draws}, mode)
		least := ^uint64(0)
		for range 5 {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			plan := m.plan(t, 1)
			runtime.ReadMemStats(&after)
			runtime.KeepAlive(plan)
			least = min(least, after.TotalAlloc-before.TotalAlloc)
		}
		return least
	}
	require.Less(t, bytes(sampler.Blend{}, 1<<40, sampler.Global), uint64(10<<10))
	require.Less(t, bytes(sampler.Blend{Interleave: sampler.Stratified}, 150_000, sampler.Shards), uint64(140<<20))
	m := mix(t, sampler.Blend{Interleave: sampler.Stratified}, []int64{1, 4}, []int64{300_000, 300_000}, sampler.Shards)
	_, err := sampler.NewMixture(m.snap, m.parts, m.blend, 0)
	require.ErrorContains(t, err, "take more memory than an order may")
}

func TestMixtureLookupsAllocateNothing(t *testing.T) {
	for _, v := range []sampler.Interleave{sampler.Random, sampler.Stratified, sampler.PerSource} {
		blend := sampler.Blend{Interleave: v}
		if v == sampler.PerSource {
			blend.Unit = 64
		}
		plan := mix(t, blend, []int64{1e9, 1000}, []int64{64e6, 64e4}).plan(t, 9) // the second in many passes
		pos := int64(0)
		require.Zero(t, testing.AllocsPerRun(1000, func() {
			pos = (pos + 999_983) % plan.Samples()
			plan.Draw(pos)
		}), v.String())
	}
}

func TestMixtureRefuses(t *testing.T) {
	snap := equalShards(t, 4, 10)
	two := func(edit func(a, b *sampler.Part)) []sampler.Part {
		parts := []sampler.Part{{Shards: 2, Draws: 8}, {Shards: 2, Draws: 8}}
		edit(&parts[0], &parts[1])
		return parts
	}
	same := func(_, _ *sampler.Part) {}
	for _, c := range []struct {
		want  string
		parts []sampler.Part
		blend sampler.Blend
	}{
		{"1 to 1000 are possible", nil, sampler.Blend{}},
		{"1001 parts", make([]sampler.Part, 1001), sampler.Blend{}},
		{"unknown interleave 3", two(same), sampler.Blend{Interleave: 3}},
		{"a unit of 0 positions", two(same), sampler.Blend{Interleave: sampler.PerSource}},
		{"a unit of 262145 positions", two(same), sampler.Blend{Interleave: sampler.PerSource, Unit: sampler.MaxBatchSize + 1}},
		{"does not take", two(same), sampler.Blend{Unit: 8}},
		{"no multiple of the unit, 5", two(same), sampler.Blend{Interleave: sampler.PerSource, Unit: 5}},
		{"of part 1: in all", two(func(_, b *sampler.Part) { b.Draws = -1 }), sampler.Blend{}},
		{"of part 1: in all", two(func(a, b *sampler.Part) { a.Draws, b.Draws = 1, sampler.MaxSamples }), sampler.Blend{}},
		{"part 1 has 3 shards", two(func(_, b *sampler.Part) { b.Shards = 3 }), sampler.Blend{}},
		{"part 0 has -1 shards", two(func(a, _ *sampler.Part) { a.Shards = -1 }), sampler.Blend{}},
		{"the parts have 3 shards, the snapshot 4", two(func(_, b *sampler.Part) { b.Shards = 1 }), sampler.Blend{}},
		{"has none", two(func(a, b *sampler.Part) { a.Shards, b.Shards = 0, 4 }), sampler.Blend{}},
		{`undoes shuffle "window" of part 1`, two(func(_, b *sampler.Part) { b.Shuffle.Mode = sampler.Window }), sampler.Blend{}},
		{"part 0: sampler: -1 slices", two(func(a, _ *sampler.Part) { a.Shuffle.Slices = -1 }), sampler.Blend{}},
		{"passes an epoch", two(func(a, _ *sampler.Part) { a.Shuffle.Mode, a.Draws = sampler.Shards, 20<<24 }), sampler.Blend{Interleave: sampler.Stratified}},
	} {
		_, err := sampler.NewMixture(snap, c.parts, c.blend, 0)
		require.ErrorContains(t, err, c.want)
	}
	_, err := sampler.NewMixture(nil, two(same), sampler.Blend{}, 0)
	require.ErrorContains(t, err, "snapshot")
	none, err := sampler.NewMixture(snap, two(func(a, b *sampler.Part) { a.Draws, b.Draws = 0, 0 }), sampler.Blend{}, 0)
	require.NoError(t, err)
	require.Panics(t, func() { none.Draw(0) })
}
