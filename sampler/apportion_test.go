package sampler_test

import (
	"math"
	"testing"

	"github.com/shardstream/shardstream/sampler"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestApportion(t *testing.T) {
	for _, c := range []struct {
		weights []float64
		n       int64
		want    []int64
	}{
		{[]float64{0.7, 0.3}, 10, []int64{7, 3}},
		{[]float64{1, 1, 1}, 10, []int64{4, 3, 3}},
		{[]float64{1, 1, 1}, 11, []int64{4, 4, 3}},
		{[]float64{0, 2}, 5, []int64{0, 5}},
		{[]float64{1e300, 1e-300}, 7, []int64{7, 0}},
		{[]float64{3}, 0, []int64{0}},
		{[]float64{1, 2}, 1 << 50, []int64{(1 << 50) / 3, (1<<50)*2/3 + 1}},
	} {
		got, err := sampler.Apportion(c.weights, c.n)
		require.NoError(t, err)
		require.Equal(t, c.want, got, "%v of %d", c.weights, c.n)
	}
	for _, bad := range [][]float64{{}, {0}, {-1}, {math.NaN()}, {math.Inf(1)}} {
		_, err := sampler.Apportion(bad, 1)
		require.Error(t, err, "%v", bad)
	}
}

func TestApportionIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		weights := rapid.SliceOfN(rapid.Float64Range(0.001, 1e6), 1, 30).Draw(t, "weights")
		n := rapid.Int64Range(0, sampler.MaxSamples).Draw(t, "n")
		shares, err := sampler.Apportion(weights, n)
		require.NoError(t, err)
		var sum int64
		var total float64
		for _, w := range weights {
			total += w
		}
		for i, s := range shares {
			sum += s
			require.InDelta(t, weights[i]/total*float64(n), float64(s), 1+1e-9*float64(n))
		}
		require.Equal(t, n, sum)
	})
}
