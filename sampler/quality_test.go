package sampler_test

import (
	"fmt"
	"math"
	"testing"

	"github.com/shardstream/shardstream/sampler"
	"github.com/stretchr/testify/require"
)

// Shuffling that is bad in ways that a permutation test can't see: orders that come up too often,
// neighbours that stay neighbours, batches of one class. All seeds are fixed, so a verdict is too.

func sqrt(x float64) float64 { return math.Sqrt(x) }
func abs(x float64) float64  { return math.Abs(x) }

func correlation(a, b []int64) float64 {
	var ma, mb float64
	for i := range a {
		ma, mb = ma+float64(a[i]), mb+float64(b[i])
	}
	ma, mb = ma/float64(len(a)), mb/float64(len(b))
	var ab, aa, bb float64
	for i := range a {
		x, y := float64(a[i])-ma, float64(b[i])-mb
		ab, aa, bb = ab+x*y, aa+x*x, bb+y*y
	}
	return ab / sqrt(aa*bb)
}

// requireUniform is a chi-square test at about 5 standard deviations.
func requireUniform(t *testing.T, counts map[string]int, cells, draws int, what string) {
	t.Helper()
	want := float64(draws) / float64(cells)
	chi := float64(cells-len(counts)) * want
	for _, n := range counts {
		chi += (float64(n) - want) * (float64(n) - want) / want
	}
	df := float64(cells - 1)
	require.Less(t, chi, df+5*sqrt(2*df)+10, "%s: chi-square over %d cells", what, cells)
}

// Every permutation of up to 5 samples is as likely as any other, over seeds and over epochs.
func TestSmallOrdersAreUniform(t *testing.T) {
	for n := int64(2); n <= 5; n++ {
		cells := 1
		for i := 2; i <= int(n); i++ {
			cells *= i
		}
		draws := 400 * cells
		for _, by := range []string{"seed", "epoch"} {
			for _, layout := range []string{"one shard", "one sample a shard"} {
				snap := equalShards(t, 1, n)
				mode := sampler.Global
				if layout != "one shard" {
					snap, mode = equalShards(t, int(n), 1), sampler.Shards
				}
				counts := map[string]int{}
				for i := range uint64(draws) {
					seed, epoch := i, uint64(0)
					if by == "epoch" {
						seed, epoch = 0, i
					}
					counts[fmt.Sprint(sequence(order(t, snap, sampler.Shuffle{Mode: mode, Seed: seed}, epoch)))]++
				}
				requireUniform(t, counts, cells, draws, fmt.Sprintf("%d samples by %s, %s", n, by, layout))
			}
		}
	}
}

// Where two samples come to lie is uniform over all ordered pairs of places, also where they sit in
// one row or one column of the grid that the network works on.
func TestPairsAreUniform(t *testing.T) {
	for _, n := range []int64{6, 7, 8, 9, 13, 16, 17, 25, 31} {
		snap := equalShards(t, 1, n)
		side := int64(math.Ceil(sqrt(float64(n))))
		pairs := [][2]int64{{0, 1}, {0, side}, {n - 2, n - 1}, {0, n - 1}, {1, side}}
		cells, draws := int(n*(n-1)), int(n*(n-1))*60
		for _, pair := range pairs {
			counts := map[string]int{}
			for i := range uint64(draws) {
				o := order(t, snap, sampler.Shuffle{Seed: i}, 3)
				counts[fmt.Sprint(o.Sample(pair[0]), o.Sample(pair[1]))]++
			}
			requireUniform(t, counts, cells, draws, fmt.Sprintf("%d samples, positions %v", n, pair))
		}
	}
}

// The windowed mode draws an independent order for every window: where the first sample of two
// windows lies within its window is uniform over pairs.
func TestWindowsAreIndependent(t *testing.T) {
	const n, draws = 12, 12 * 12 * 60
	snap := equalShards(t, 2, n)
	counts := map[string]int{}
	for i := range uint64(draws) {
		o := order(t, snap, sampler.Shuffle{Mode: sampler.Window, Slices: 1, Window: 1}, i)
		_, a := o.At(0)
		_, b := o.At(n)
		counts[fmt.Sprint(a, b)]++
	}
	requireUniform(t, counts, n*n, draws, "first of two windows")
}

func TestNeighboursAreUncorrelated(t *testing.T) {
	for _, n := range []int64{1000, 4095, 4096, 4097, 65_536, 99_991, 262_144} {
		for epoch := range uint64(4) {
			seq := sequence(order(t, equalShards(t, 1, n), sampler.Shuffle{}, epoch))
			bound := 5 / sqrt(float64(n))
			for _, lag := range []int{1, 2, int(sqrt(float64(n))), int(sqrt(float64(n))) + 1, 256} {
				c := correlation(seq[:len(seq)-lag], seq[lag:])
				require.Less(t, abs(c), bound, "%d samples, epoch %d, lag %d", n, epoch, lag)
			}
			ident := make([]int64, n)
			for i := range ident {
				ident[i] = int64(i)
			}
			require.Less(t, abs(correlation(seq, ident)), bound, "%d samples, epoch %d, with no shuffle", n, epoch)
		}
	}
}

func TestSameShardPairsInABatch(t *testing.T) {
	const shards, batch = 16, 256
	snap := equalShards(t, shards, 602)
	for _, mode := range []sampler.Mode{sampler.Global, sampler.Window} { // the default window spans 16 shards
		for epoch := range uint64(5) {
			o := order(t, snap, sampler.Shuffle{Mode: mode, Seed: 7}, epoch)
			var same, pairs float64
			for first := int64(0); first+batch <= o.Samples(); first += batch {
				var counts [shards]float64
				for pos := first; pos < first+batch; pos++ {
					shard, _ := o.At(pos)
					counts[shard]++
				}
				for _, c := range counts {
					same += c * (c - 1) / 2
				}
				pairs += batch * (batch - 1) / 2
			}
			require.InDelta(t, 0.0625, same/pairs, 0.007, "%v, epoch %d", mode, epoch)
		}
	}
}

// On data stored class by class, the worst case, batches see as many classes, and have means as
// close together, as independent draws would; windows come as near as their width allows.
func TestMixingOfSortedData(t *testing.T) {
	const shards, perShard, batch, classes = 400, 320, 256, 200
	snap := equalShards(t, shards, perShard)
	n := snap.Samples()
	iidDistinct := classes * (1 - math.Pow(1-1.0/classes, batch)) // expected classes in a batch
	iidSpread := sqrt((classes*classes - 1) / 12.0 / batch)       // standard deviation of a batch's mean class
	for _, c := range []struct {
		shuffle          sampler.Shuffle
		distinct, spread float64 // at least, at most; as fractions of the above
	}{
		{sampler.Shuffle{Mode: sampler.Global}, 0.99, 1.1},
		{sampler.Shuffle{Mode: sampler.Window, Slices: 4, Window: 256}, 0.75, 1.8},
		{sampler.Shuffle{Mode: sampler.Window, Slices: 4, Window: 64}, 0.35, 3},
	} {
		o := order(t, snap, c.shuffle, 1)
		var distinct, sum, squares float64
		batches := n / batch
		for b := range batches {
			seen, mean := map[int64]bool{}, 0.0
			for pos := b * batch; pos < (b+1)*batch; pos++ {
				class := o.Sample(pos) * classes / n
				seen[class] = true
				mean += float64(class) / batch
			}
			distinct += float64(len(seen)) / float64(batches)
			sum, squares = sum+mean, squares+mean*mean
		}
		sum /= float64(batches)
		spread := sqrt(squares/float64(batches) - sum*sum)
		t.Logf("%v/%d: %.1f of %.1f classes a batch, spread of means %.2f of %.2f", c.shuffle.Mode, c.shuffle.Window, distinct, iidDistinct, spread, iidSpread)
		require.Greater(t, distinct/iidDistinct, c.distinct)
		require.Less(t, spread/iidSpread, c.spread)
	}
}
