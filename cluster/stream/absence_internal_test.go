package stream

import (
	"sync"
	"testing"
	"time"

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

	var known knowledgeCache
	now := time.Now()
	share := func(version int64, role Role) *Share {
		return &Share{Map: version, Role: func(string, string) Role { return role }}
	}
	first := known.of(one, share(1, Holder), now)
	require.Same(t, first, known.of(one, share(1, Holder), now))
	require.NotSame(t, first, known.of(two, share(1, Holder), now))
	require.Equal(t, Holder, first.role(one, 0))
	first.absent.add(0)

	later := known.of(one, share(1, Other), now.Add(2*absenceAge))
	require.False(t, later.absent.has(0), "it may have come meanwhile")
	require.Equal(t, Holder, later.role(one, 0), "that is the map's, and the map is the same")
	moved := known.of(one, share(2, Other), now.Add(2*absenceAge))
	require.Equal(t, Other, moved.role(one, 0))
	unknown := known.of(one, share(3, Unknown), now)
	require.Equal(t, Unknown, unknown.role(one, 0))
	unknown.share = share(3, Primary)
	require.Equal(t, Primary, unknown.role(one, 0), "what was not known is asked for again")

	var orders orderCache
	plan := func(snap *sampler.Snapshot, seed, epoch uint64) sampler.Plan {
		o, err := orders.plan(snap, &wire.ReadRequest{Shuffle: "window", Seed: seed, Epoch: epoch, Rank: int(epoch) * 3, World: 99})
		require.NoError(t, err)
		return o
	}
	kept := plan(one, 1, 1)
	require.Same(t, kept, plan(one, 1, 1))
	require.NotSame(t, kept, plan(two, 1, 1))
	require.NotSame(t, kept, plan(one, 2, 1))
	require.NotSame(t, kept, plan(one, 1, 2))
	for epoch := range uint64(keepOrders) {
		plan(two, 9, epoch)
	}
	require.NotSame(t, kept, plan(one, 1, 1), "what was not used for longest makes room")
	_, err = orders.plan(one, &wire.ReadRequest{Shuffle: "window", Slices: -1})
	require.Error(t, err)
}
