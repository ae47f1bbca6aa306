package cold_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/loader"
	"github.com/shardstream/shardstream/sampler"
	"github.com/shardstream/shardstream/tests/replay"
)

// With a cache of 30 % of the data, the shards that epochs fetch are close to the fewest that any cache would.
func TestFetchesWithASmallCache(t *testing.T) {
	const room, epochs = shards * 3 / 10, 5
	b := newBed(t, 1, nil)
	_, err := b.cluster.Client.ChangeBucket(t.Context(), "data", api.BucketChange{Backend: &api.Backend{URL: "s3://data", Quota: room * b.size}})
	require.NoError(t, err)
	l := b.loader(func(c *loader.Config) { c.BatchSize, c.Prefetch = 8, 2 })
	var fetches []int
	for epoch := range uint64(epochs) {
		keys, fetched := b.epoch(l, epoch)
		require.Len(t, unique(keys), shards*perShard)
		fetches = append(fetches, int(fetched/b.size))
	}
	order := l.Stats().Order
	require.Equal(t, "window", order.Shuffle)
	require.Equal(t, shards/8, order.Window)
	info, err := b.cluster.Client.OpenStream(t.Context(), api.StreamRequest{Sources: []string{"ss://data/train-*.tar"}, BatchSize: 8, WorldSize: 1})
	require.NoError(t, err)
	require.EqualValues(t, shards, info.Shards)
	optimum, lru := replayed(t, room, epochs, order)
	t.Logf("%d shards, room for %d: fetches an epoch %v, optimum %v, LRU %v", shards, room, fetches, optimum, lru)
	// The first epoch describes the shards, too. Half of so small a cache is a window, and a shard more or less is two percent: the bench has larger figures.
	require.LessOrEqual(t, replay.Steady(fetches), 1.15*replay.Steady(optimum)+1)
}

func replayed(t testing.TB, room, epochs int, order loader.Order) (optimum, lru []int) {
	t.Helper()
	var builder sampler.Builder
	for i := range shards {
		require.NoError(t, builder.Add(sampler.Shard{Name: "data/" + shardName(i), Version: 1, Samples: perShard}))
	}
	snap, err := builder.Snapshot()
	require.NoError(t, err)
	cache := replay.Cache{Room: room, Epochs: epochs, Order: func(epoch uint64) (*sampler.Order, error) {
		return sampler.NewOrder(snap, sampler.Shuffle{Mode: sampler.Window, Seed: 7, Slices: order.Slices, Window: order.Window}, epoch)
	}}
	optimum, err = cache.Optimum()
	require.NoError(t, err)
	lru, err = cache.LRU()
	require.NoError(t, err)
	return optimum, lru
}
