package gateway

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/backend"
	"github.com/shardstream/shardstream/sampler"
)

// What is not known of a listing is described in the order in which the epoch goes through its shards, whatever is known
// already and whatever else the listing has.
func TestWhatAnEpochNeedsFirstIsDescribedFirst(t *testing.T) {
	const shards, epoch = 60, 3
	req := &api.StreamRequest{Shuffle: "shards", Seed: 5, Epoch: epoch, Ahead: true}
	batch := &batchOf{whole: true}
	var snap sampler.Builder
	for i := range shards {
		name := fmt.Sprintf("%03d.tar", i)
		if i%3 == 0 {
			batch.known(&api.Object{Name: name, Archive: "tar"})
		} else {
			batch.unknown(&backend.Entry{Name: name}, true)
		}
		if i%4 == 0 {
			batch.known(&api.Object{Name: name + ".txt"})
			batch.unknown(&backend.Entry{Name: name + ".txu"}, false)
		}
		require.NoError(t, snap.Add(sampler.Shard{Name: "b/" + name, Version: 1, Samples: 10}))
	}
	s, err := snap.Snapshot()
	require.NoError(t, err)
	order, err := sampler.NewOrder(s, sampler.Shuffle{Mode: sampler.Shards, Seed: 5}, epoch)
	require.NoError(t, err)
	var needed []string
	for v := range sampler.Visits(order, 0) {
		if v.Shard%3 != 0 {
			needed = append(needed, fmt.Sprintf("%03d.tar", v.Shard))
		}
	}
	named := func(numbers []int) (names []string) {
		for _, i := range numbers {
			names = append(names, batch.entries[i].Name)
		}
		return names
	}
	require.Equal(t, needed, named(batch.byNeed(firstUseOf(req))))
	req.Ahead = false
	require.Equal(t, slices.Sorted(slices.Values(needed)), named(batch.byNeed(firstUseOf(req))), "it isn't read now")
	req.Ahead, batch.whole = true, false
	require.Equal(t, slices.Sorted(slices.Values(needed)), named(batch.byNeed(firstUseOf(req))), "there are more shards than these")
	require.Empty(t, (&batchOf{whole: true}).byNeed(firstUseOf(req)))
}
