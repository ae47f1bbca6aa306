package streams_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/clustertest"
	"github.com/shardstream/shardstream/loader"
	"github.com/shardstream/shardstream/tests/arena"
)

// TestErasureCodedShardsOutliveATarget: a target stops in mid-epoch for good. What it had whole is put together from
// slices by the others, before the cluster has given it up and after.
func TestErasureCodedShardsOutliveATarget(t *testing.T) {
	const shards, samples, mean = 8, 40, 12_000
	c := clustertest.Start(t, clustertest.Options{Targets: 4, Disks: 1})
	_, err := c.Client.CreateBucketWith(t.Context(), "b", api.BucketChange{EC: &api.EC{Data: 2, Parity: 1}})
	require.NoError(t, err)
	for i := range shards {
		data := makeShard(t, i, samples, mean)
		_, err := c.Client.PutObject(t.Context(), "b", fmt.Sprintf("train-%04d.tar", i), bytes.NewReader(data), int64(len(data)), api.PutOptions{})
		require.NoError(t, err)
	}
	read := func(at func(batch int)) (got []arena.Batch) {
		l, err := loader.New(loader.Config{
			Sources: []string{"ss://b/train-*.tar"}, BatchSize: 16, Shuffle: "global", Seed: 1, Prefetch: 1, Timeout: 20 * time.Second,
		}, c.Client)
		require.NoError(t, err)
		defer func() { require.NoError(t, l.Close()) }()
		require.NoError(t, l.Start(loader.Run{}))
		for {
			at(len(got))
			b, err := next(t, l)
			if errors.Is(err, loader.ErrEnd) {
				return got
			}
			require.NoError(t, err)
			got = append(got, b)
		}
	}
	want := read(func(int) {})
	require.Len(t, keysOf(want), shards*samples)
	require.Equal(t, want, read(func(batch int) {
		if batch == 3 {
			c.Targets[2].Stop()
		}
	}))
	c.Await("the target is given up", func() bool {
		m, err := c.Client.RefreshMap(context.Background())
		if err != nil {
			return false
		}
		n, _ := m.Map.Node(c.Targets[2].ID)
		return n.Away
	})
	require.Equal(t, want, read(func(int) {}))
}
