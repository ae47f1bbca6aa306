package sampler_test

import (
	"cmp"
	"fmt"
	"slices"
	"testing"

	"github.com/shardstream/shardstream/sampler"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// needs is, by walking an epoch, at which positions each shard is needed.
func needs(p sampler.Plan) map[int][]int64 {
	out := map[int][]int64{}
	for pos := range p.Samples() {
		shard, _ := p.Snapshot().Locate(p.Draw(pos).Sample)
		out[shard] = append(out[shard], pos)
	}
	return out
}

// Visits are what a walk over every sample finds: each visit holds as many of its shard's samples as it is there for, no need
// lies outside of a visit, and they come in the order in which they begin.
func TestVisitsEqualAWalkOverTheEpoch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		snap := drawSnapshot(t)
		shuffle := drawShuffle(t)
		o, err := sampler.NewOrder(snap, shuffle, rapid.Uint64Range(0, 3).Draw(t, "epoch"))
		require.NoError(t, err)
		after := rapid.Int64Range(0, max(o.Samples(), 1)).Draw(t, "after")
		visits := slices.Collect(sampler.Visits(o, after))
		require.True(t, slices.IsSortedFunc(visits, func(a, b sampler.Visit) int { return int(a.From - b.From) }))
		byShard := map[int][]sampler.Visit{}
		for _, v := range visits {
			require.Greater(t, v.To, after)
			require.Greater(t, v.To, v.From)
			byShard[v.Shard] = append(byShard[v.Shard], v)
		}
		need := needs(o)
		for shard := range snap.NumShards() {
			checkVisits(t, byShard[shard], need[shard], after)
			next, ok := o.NextVisit(shard, after)
			require.Equal(t, len(byShard[shard]) > 0, ok)
			if ok {
				require.Equal(t, byShard[shard][0], next)
			}
		}
	})
}

func checkVisits(t *rapid.T, visits []sampler.Visit, need []int64, after int64) {
	for _, pos := range need {
		if pos >= after {
			require.True(t, slices.ContainsFunc(visits, func(v sampler.Visit) bool { return v.From <= pos && pos < v.To }),
				"position %d is in none of %v", pos, visits)
		}
	}
	for _, v := range visits {
		require.True(t, slices.ContainsFunc(need, func(pos int64) bool { return v.From <= pos && pos < v.To }),
			"no sample of the shard is needed within %v", v)
	}
}

// Without windows a visit begins and ends with its shard's first and last sample.
func TestVisitsAreExactWithoutWindows(t *testing.T) {
	snap := equalShards(t, 40, 25)
	for _, mode := range []sampler.Mode{sampler.Shards, sampler.None} {
		o := order(t, snap, sampler.Shuffle{Mode: mode, Seed: 5}, 2)
		need := needs(o)
		count := 0
		for v := range sampler.Visits(o, 0) {
			require.Equal(t, need[v.Shard][0], v.From)
			require.Equal(t, need[v.Shard][len(need[v.Shard])-1]+1, v.To)
			count++
		}
		require.Equal(t, 40, count)
	}
}

// In a mixture, each position is a visit.
func TestVisitsOfAMixture(t *testing.T) {
	snap := equalShards(t, 6, 10)
	parts := []sampler.Part{
		{Shards: 4, Draws: 30, Shuffle: sampler.Shuffle{Mode: sampler.Window, Seed: 1}},
		{Shards: 2, Draws: 45, Shuffle: sampler.Shuffle{Mode: sampler.Global, Seed: 2}},
	}
	m, err := sampler.NewMixture(snap, parts, sampler.Blend{Interleave: sampler.Stratified, Seed: 9}, 1)
	require.NoError(t, err)
	require.True(t, sampler.Jumps(m))
	pos := int64(7)
	for v := range sampler.Visits(m, pos) {
		shard, _ := snap.Locate(m.Draw(pos).Sample)
		require.Equal(t, sampler.Visit{Shard: shard, From: pos, To: pos + 1}, v)
		pos++
	}
	require.Equal(t, m.Samples(), pos)
}

// The course of an epoch over many large shards takes steps for shards, not for samples.
func TestVisitsOfLargeShards(t *testing.T) {
	snap := equalShards(t, 2_000, 1<<38)
	o := order(t, snap, sampler.Shuffle{Mode: sampler.Window, Slices: 1, Window: 16, Seed: 3}, 0)
	seen := map[int]bool{}
	for v := range sampler.Visits(o, 0) {
		require.False(t, seen[v.Shard])
		seen[v.Shard] = true
		next, ok := o.NextVisit(v.Shard, 0)
		require.True(t, ok)
		require.Equal(t, v, next)
	}
	require.Len(t, seen, 2_000)
}

// Where no slice is empty, shards begin in the order of their turns, but for those of one window, which begin together.
func TestTurnsAreTheOrderInWhichShardsBegin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		counts := rapid.SliceOfN(rapid.Int64Range(16, 60), 0, 24).Draw(t, "counts")
		var b sampler.Builder
		for i, n := range counts {
			require.NoError(t, b.Add(sampler.Shard{Name: fmt.Sprintf("b/%d.tar", i), Version: 1, Samples: n}))
		}
		snap, err := b.Snapshot()
		require.NoError(t, err)
		shuffle, epoch := drawShuffle(t), rapid.Uint64Range(0, 3).Draw(t, "epoch")
		if shuffle.Mode == sampler.Global {
			shuffle.Mode = sampler.Window
		}
		o, err := sampler.NewOrder(snap, shuffle, epoch)
		require.NoError(t, err)
		turn := shuffle.Turns(len(counts), epoch)
		first := make([]int64, len(counts))
		shards := make([]int, len(counts))
		for shard := range counts {
			v, ok := o.NextVisit(shard, 0)
			require.True(t, ok)
			first[shard], shards[shard] = v.From, shard
		}
		slices.SortFunc(shards, func(a, b int) int { return cmp.Compare(turn(a), turn(b)) })
		require.True(t, slices.IsSortedFunc(shards, func(a, b int) int { return cmp.Compare(first[a], first[b]) }))
	})
}
