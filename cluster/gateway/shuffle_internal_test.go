package gateway

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
)

func TestShuffleOfColdSources(t *testing.T) {
	const mb = 1 << 20
	for _, c := range []struct {
		name           string
		quotas         []int64
		shard, shards  int64
		shuffle        string
		slices, window int
	}{
		{"no backend", nil, 100 * mb, 1000, "global", 0, 0},
		{"what fits into two gigabytes", []int64{0}, 100 * mb, 1000, "window", 1, 20},
		{"half of the least quota", []int64{0, 2000 * mb}, 100 * mb, 1000, "window", 1, 10},
		{"no more than an eighth", []int64{0}, 100 * mb, 80, "window", 1, 10},
		{"large shards", []int64{0}, 5000 * mb, 1000, "window", 1, 4},
		{"small shards", []int64{0}, mb, 100_000, "window", 1, 64},
		{"few shards", []int64{0}, 100 * mb, 3, "window", 1, 4},
		{"objects of no size", []int64{0}, 0, 1000, "window", 1, 64},
	} {
		t.Run(c.name, func(t *testing.T) {
			cold := coldBuckets{}
			for i, quota := range c.quotas {
				cold[string(rune('a'+i))] = &api.Bucket{Backend: &api.Backend{Quota: quota}}
			}
			shuffle, slices, window := cold.shuffle(c.shard*c.shards, c.shards)
			require.Equal(t, []any{c.shuffle, c.slices, c.window}, []any{shuffle, slices, window})
		})
	}
}
