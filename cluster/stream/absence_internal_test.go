package stream

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/core/wire"
	"github.com/shardstream/shardstream/sampler"
)

func TestNumberSet(t *testing.T) {
	const n = 3*chunkBits + 5
	s := newNumberSet(n)
	var group sync.WaitGroup
	for first := range 4 {
		group.Go(func() {
			for i := first; i < n; i += 7 {
				s.add(i)
			}
		})
	}
	group.Wait()
	for i := range n {
		require.Equal(t, i%7 < 4, s.has(i), i)
	}
	require.Zero(t, testing.AllocsPerRun(100, func() { s.has(n - 1); s.add(0) }))
}

func TestStreamsShareWhatIsWorkedOutOnce(t *testing.T) {
	one, err := sampler.NewSnapshot([]sampler.Shard{{Name: "b/0", Samples: 9}})
	require.NoError(t, err)
	two, err := sampler.NewSnapshot([]sampler.Shard{{Name: "b/0", Samples: 8}})
	require.NoError(t, err)

	var absent absenceCache
	require.Same(t, absent.of(one), absent.of(one))
	require.NotSame(t, absent.of(one), absent.of(two))
	old := absent.of(one)
	absent.sets[one] = absence{set: old} // as it is after a while
	require.NotSame(t, old, absent.of(one))

	var orders orderCache
	plan := func(snap *sampler.Snapshot, seed, epoch uint64) sampler.Plan {
		o, err := orders.plan(snap, &wire.ReadRequest{Shuffle: "window", Seed: seed, Epoch: epoch, Rank: int(epoch) * 3, World: 99})
		require.NoError(t, err)
		return o
	}
	first := plan(one, 1, 1)
	require.Same(t, first, plan(one, 1, 1))
	require.NotSame(t, first, plan(two, 1, 1))
	require.NotSame(t, first, plan(one, 2, 1))
	require.NotSame(t, first, plan(one, 1, 2))
	for epoch := range uint64(keepOrders) {
		plan(two, 9, epoch)
	}
	require.NotSame(t, first, plan(one, 1, 1), "what was not used for longest makes room")
	_, err = orders.plan(one, &wire.ReadRequest{Shuffle: "window", Slices: -1})
	require.Error(t, err)
}
