package sampler_test

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/shardstream/shardstream/sampler"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// equalShards is a snapshot of n shards with the same number of samples each.
func equalShards(t testing.TB, n int, samples int64) *sampler.Snapshot {
	t.Helper()
	shards := make([]sampler.Shard, n)
	for i := range shards {
		shards[i] = sampler.Shard{Name: fmt.Sprintf("bench/train-%04d.tar", i), Version: uint64(i + 1), Samples: samples}
	}
	return snapshot(t, shards)
}

func snapshot(t testing.TB, shards []sampler.Shard) *sampler.Snapshot {
	t.Helper()
	s, err := sampler.NewSnapshot(shards)
	require.NoError(t, err)
	return s
}

func order(t testing.TB, s *sampler.Snapshot, shuffle sampler.Shuffle, epoch uint64) *sampler.Order {
	t.Helper()
	o, err := sampler.NewOrder(s, shuffle, epoch)
	require.NoError(t, err)
	return o
}

// sequence is a whole epoch, by sample number.
func sequence(o *sampler.Order) []int64 {
	seq := make([]int64, o.Samples())
	for p := range seq {
		seq[p] = o.Sample(int64(p))
	}
	return seq
}

func drawSnapshot(t *rapid.T) *sampler.Snapshot {
	counts := rapid.SliceOfN(rapid.OneOf(
		rapid.Just(int64(0)), rapid.Int64Range(0, 3), rapid.Int64Range(0, 60),
	), 0, 24).Draw(t, "counts")
	shards := make([]sampler.Shard, len(counts))
	for i, n := range counts {
		shards[i] = sampler.Shard{Name: fmt.Sprintf("b/%d.tar", i), Version: uint64(i), Samples: n}
	}
	s, err := sampler.NewSnapshot(shards)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func drawShuffle(t *rapid.T) sampler.Shuffle {
	return sampler.Shuffle{
		Mode:   rapid.SampledFrom(modes).Draw(t, "mode"),
		Seed:   rapid.Uint64().Draw(t, "seed"),
		Slices: rapid.IntRange(0, 9).Draw(t, "slices"),
		Window: rapid.IntRange(0, 12).Draw(t, "window"),
	}
}

var modes = []sampler.Mode{sampler.Global, sampler.Window, sampler.Shards, sampler.None}

func TestOrderIsAPermutationWithAnInverse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		snap, shuffle := drawSnapshot(t), drawShuffle(t)
		o, err := sampler.NewOrder(snap, shuffle, rapid.Uint64().Draw(t, "epoch"))
		if err != nil {
			t.Fatal(err)
		}
		seen := make([]bool, snap.Samples())
		for pos := range snap.Samples() {
			sample := o.Sample(pos)
			if sample < 0 || sample >= snap.Samples() || seen[sample] {
				t.Fatalf("position %d has sample %d: out of range or a second time", pos, sample)
			}
			seen[sample] = true
			if back := o.Position(sample); back != pos {
				t.Fatalf("position %d has sample %d, whose position is %d", pos, sample, back)
			}
			shard, index := o.At(pos)
			if got := snap.First(shard) + index; got != sample || index < 0 || index >= snap.Shard(shard).Samples {
				t.Fatalf("position %d: sample %d, but At says %d of shard %d", pos, sample, index, shard)
			}
		}
	})
}

// Large, uneven domains can't be walked; the inverse on random positions is what can be checked.
func TestOrderInvertsOnLargeSnapshots(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		counts := rapid.SliceOfN(rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Range(1, 1<<46)), 1, 15).Draw(t, "counts")
		shards := make([]sampler.Shard, len(counts), len(counts)+1)
		for i, n := range counts {
			shards[i] = sampler.Shard{Name: "b/s", Samples: n}
		}
		snap, err := sampler.NewSnapshot(append(shards, sampler.Shard{Name: "b/last", Samples: 1}))
		if err != nil {
			t.Fatal(err)
		}
		o, err := sampler.NewOrder(snap, drawShuffle(t), 1)
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			pos := rapid.Int64Range(0, snap.Samples()-1).Draw(t, "pos")
			if back := o.Position(o.Sample(pos)); back != pos {
				t.Fatalf("position %d came back as %d", pos, back)
			}
		}
	})
}

func TestOrderOfNextToNothing(t *testing.T) {
	none := []sampler.Shard{}
	empty := []sampler.Shard{{Name: "b/0"}, {Name: "b/1"}}
	one := []sampler.Shard{{Name: "b/0"}, {Name: "b/1", Samples: 1}, {Name: "b/2"}}
	for _, mode := range modes {
		t.Run(mode.String(), func(t *testing.T) {
			for _, shards := range [][]sampler.Shard{none, empty} {
				o := order(t, snapshot(t, shards), sampler.Shuffle{Mode: mode}, 0)
				require.Zero(t, o.Samples())
				require.Panics(t, func() { o.Sample(0) })
				require.Panics(t, func() { o.At(0) })
				require.Panics(t, func() { o.Position(0) })
			}
			o := order(t, snapshot(t, one), sampler.Shuffle{Mode: mode}, 0)
			require.Equal(t, int64(0), o.Sample(0))
			require.Equal(t, int64(0), o.Position(0))
			shard, index := o.At(0)
			require.Equal(t, 1, shard)
			require.Equal(t, int64(0), index)
			for _, outside := range []int64{-1, 1, 1 << 62} {
				require.Panics(t, func() { o.Sample(outside) })
				require.Panics(t, func() { o.At(outside) })
				require.Panics(t, func() { o.Position(outside) })
			}
		})
	}
}

func TestOrderRefusesBadShuffles(t *testing.T) {
	snap := equalShards(t, 1, 1)
	_, err := sampler.NewOrder(nil, sampler.Shuffle{}, 0)
	require.ErrorContains(t, err, "snapshot")
	for want, shuffle := range map[string]sampler.Shuffle{
		"mode":                {Mode: 4},
		"-1 slices":           {Mode: sampler.Window, Slices: -1},
		"1025 slices":         {Mode: sampler.Window, Slices: 1025},
		"window of -1 slices": {Mode: sampler.Window, Window: -1},
		"1048577 slices":      {Mode: sampler.Window, Window: 1<<20 + 1},
	} {
		_, err := sampler.NewOrder(snap, shuffle, 0)
		require.ErrorContains(t, err, want)
	}
}

func TestModeNames(t *testing.T) {
	for _, mode := range modes {
		got, err := sampler.ParseMode(mode.String())
		require.NoError(t, err)
		require.Equal(t, mode, got)
	}
	for _, bad := range []string{"", "Global", "random", "Mode(4)"} {
		_, err := sampler.ParseMode(bad)
		require.ErrorContains(t, err, "unknown shuffle")
	}
	require.Equal(t, "Mode(9)", sampler.Mode(9).String())
}

func TestShardsKeepsEachShardWhole(t *testing.T) {
	shards := []sampler.Shard{{Name: "b/0", Samples: 3}, {Name: "b/1"}, {Name: "b/2", Samples: 5}, {Name: "b/3", Samples: 1}, {Name: "b/4", Samples: 4}}
	snap := snapshot(t, shards)
	firsts := map[int]bool{}
	for epoch := range uint64(64) {
		o := order(t, snap, sampler.Shuffle{Mode: sampler.Shards}, epoch)
		for pos := int64(0); pos < o.Samples(); {
			shard, _ := o.At(pos)
			if pos == 0 {
				firsts[shard] = true
			}
			for want := range snap.Shard(shard).Samples {
				got, index := o.At(pos)
				require.Equal(t, shard, got, "epoch %d, position %d", epoch, pos)
				require.Equal(t, want, index, "epoch %d, position %d", epoch, pos)
				pos++
			}
		}
	}
	require.Len(t, firsts, 4, "each shard with samples comes first in some epoch")
}

// The windowed mode promises its reader that only a window's slices are open at a time.
func TestWindowBoundsOpenSlices(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		snap := drawSnapshot(t)
		slices, window := rapid.IntRange(1, 6).Draw(t, "slices"), rapid.IntRange(1, 10).Draw(t, "window")
		o, err := sampler.NewOrder(snap, sampler.Shuffle{Mode: sampler.Window, Slices: slices, Window: window}, 0)
		if err != nil {
			t.Fatal(err)
		}
		type slice struct {
			shard int
			part  int64
		}
		at := func(pos int64) slice {
			shard, index := o.At(pos)
			n, part := snap.Shard(shard).Samples, int64(0)
			for n*(part+1)/int64(slices) <= index {
				part++
			}
			return slice{shard, part}
		}
		last := map[slice]int64{}
		for pos := range o.Samples() {
			last[at(pos)] = pos
		}
		open := map[slice]bool{}
		for pos := range o.Samples() {
			sl := at(pos)
			open[sl] = true
			if len(open) > window {
				t.Fatalf("%d slices open at position %d, the window is %d", len(open), pos, window)
			}
			if last[sl] == pos {
				delete(open, sl)
			}
		}
	})
}

func TestOrdersDifferByEpochSeedAndMode(t *testing.T) {
	const n = 16 * 640
	snap := equalShards(t, 16, n/16)
	for _, mode := range []sampler.Mode{sampler.Global, sampler.Window} {
		base := sequence(order(t, snap, sampler.Shuffle{Mode: mode}, 0))
		require.Equal(t, base, sequence(order(t, snap, sampler.Shuffle{Mode: mode}, 0)), "the same again")
		for _, other := range []struct{ seed, epoch uint64 }{
			{0, 1}, {0, 2}, {1, 0}, {1, 1}, {2, 0}, {1 << 63, 0}, {0, 1 << 63}, {^uint64(0), 0}, {0, ^uint64(0)},
		} {
			seq := sequence(order(t, snap, sampler.Shuffle{Mode: mode, Seed: other.seed}, other.epoch))
			same := 0
			for pos := range seq {
				if seq[pos] == base[pos] {
					same++
				}
			}
			require.Less(t, same, 10, "%v, %+v: common positions, of which unrelated orders have about 1", mode, other)
			require.Less(t, abs(correlation(base, seq)), 5/sqrt(n), "%v, %+v", mode, other)
		}
	}
	shards := map[string]bool{}
	for epoch := range uint64(50) {
		shards[fmt.Sprint(sequence(order(t, snap, sampler.Shuffle{Mode: sampler.Shards}, epoch)))] = true
	}
	require.Len(t, shards, 50)
	require.Equal(t,
		sequence(order(t, snap, sampler.Shuffle{Mode: sampler.None, Seed: 1}, 2)),
		sequence(order(t, snap, sampler.Shuffle{Mode: sampler.None, Seed: 3}, 4)))
}

func TestGlobalNeedsNoMemoryPerSample(t *testing.T) {
	small, large := equalShards(t, 1000, 1), equalShards(t, 1000, 1e9) // 10^12 samples
	require.Equal(t, int64(1e12), large.Samples())
	shuffle := sampler.Shuffle{Mode: sampler.Global}
	require.Equal(t, orderBytes(t, small, shuffle), orderBytes(t, large, shuffle))
	require.Less(t, orderBytes(t, large, shuffle), uint64(1<<10))
}

func TestWindowNeedsNoMemoryPerSample(t *testing.T) {
	small, large := equalShards(t, 1000, 4), equalShards(t, 1000, 1e9)
	for _, mode := range []sampler.Mode{sampler.Window, sampler.Shards} {
		shuffle := sampler.Shuffle{Mode: mode}
		require.Equal(t, orderBytes(t, small, shuffle), orderBytes(t, large, shuffle))
		require.Less(t, orderBytes(t, large, shuffle), uint64(1000*4*12+10<<10))
	}
}

func TestLookupsAllocateNothing(t *testing.T) {
	snap := equalShards(t, 1000, 1e9)
	for _, mode := range modes {
		o, pos := order(t, snap, sampler.Shuffle{Mode: mode}, 0), int64(0)
		require.Zero(t, testing.AllocsPerRun(1000, func() {
			pos = (pos + 999_999_937) % o.Samples()
			shard, index := o.At(pos)
			if o.Position(o.Sample(pos)) != pos || shard < 0 || index < 0 {
				t.Error("inverse is wrong")
			}
		}), mode.String())
	}
}

// orderBytes is what making an order allocates: the least of a few tries, as other goroutines count too.
func orderBytes(t *testing.T, snap *sampler.Snapshot, shuffle sampler.Shuffle) uint64 {
	t.Helper()
	least := ^uint64(0)
	for range 20 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		o, err := sampler.NewOrder(snap, shuffle, 0)
		runtime.ReadMemStats(&after)
		require.NoError(t, err)
		runtime.KeepAlive(o)
		least = min(least, after.TotalAlloc-before.TotalAlloc)
	}
	return least
}
