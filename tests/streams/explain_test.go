package streams_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/clustertest"
	"github.com/shardstream/shardstream/loader"
	"github.com/shardstream/shardstream/tests/arena"
)

const explained = "ss://b/train-*.tar"

// realCluster has shards of different sizes on three targets behind a gateway.
func realCluster(t *testing.T) *clustertest.Cluster {
	t.Helper()
	c := clustertest.Start(t, clustertest.Options{Targets: 3, Disks: 1})
	_, err := c.Client.CreateBucket(t.Context(), "b")
	require.NoError(t, err)
	for s, n := range []int{40, 3, 17, 31, 1, 9} {
		putShard(t, c, s, n)
	}
	return c
}

func putShard(t *testing.T, c *clustertest.Cluster, shard, samples int) api.Object {
	t.Helper()
	data := makeShard(t, shard, samples, 100)
	o, err := c.Client.PutObject(t.Context(), "b", fmt.Sprintf("train-%04d.tar", shard), bytes.NewReader(data), int64(len(data)), api.PutOptions{})
	require.NoError(t, err)
	return o
}

func explain(t *testing.T, c *clustertest.Cluster, r api.ExplainRequest) api.Explanation {
	t.Helper()
	r.Sources = []string{explained}
	e, err := c.Client.Explain(t.Context(), r)
	require.NoError(t, err)
	return e
}

func TestExplainSaysWhatTheStreamYields(t *testing.T) {
	c := realCluster(t)
	const size = 8
	for _, mode := range []string{"global", "window", "shards", "none"} {
		l, err := loader.New(loader.Config{Sources: []string{explained}, BatchSize: size, Shuffle: mode, Seed: 7, Timeout: 20 * time.Second}, c.Client)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, l.Close()) })
		for _, test := range []struct {
			world int
			start int64
			drop  bool
		}{{1, 0, false}, {2, 0, true}, {3, 29, false}, {7, 0, false}} {
			for rank := range test.world {
				require.NoError(t, l.Start(loader.Run{Epoch: 5, World: test.world, Rank: rank, Position: test.start}))
				got, err := drain(t, l)
				require.NoError(t, err)
				for _, i := range []int{0, len(got) / 2, len(got) - 1} { // the last may be short, or padding
					e := explain(t, c, api.ExplainRequest{
						StreamRequest: api.StreamRequest{BatchSize: size, Shuffle: mode, Seed: 7, WorldSize: test.world, Rank: rank, Epoch: 5},
						Start:         test.start, Batch: int64(i),
					})
					agree(t, c, e, got[i])
				}
			}
		}
	}
}

// agree compares an explanation with the batch that arrived, and with where the shards really are.
func agree(t *testing.T, c *clustertest.Cluster, e api.Explanation, b arena.Batch) {
	t.Helper()
	require.Equal(t, b.Start, e.Position)
	require.Equal(t, b.Next, e.Next)
	require.Equal(t, b.Mask != nil, e.Padding)
	require.Len(t, e.Samples, len(b.Keys))
	for i, s := range e.Samples {
		require.Empty(t, s.Error)
		require.Equal(t, b.Keys[i], s.Key)
		require.Equal(t, b.Start+int64(i), s.Position)
		var shard, index int64
		_, err := fmt.Sscanf(s.Key, "s%d/%d", &shard, &index)
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintf("ss://b/train-%04d.tar", shard), s.Shard)
		require.Equal(t, index, s.Index)
		_, key, err := api.ParseAddress(s.Shard)
		require.NoError(t, err)
		at, err := c.Client.Locate(t.Context(), "b", key)
		require.NoError(t, err)
		require.Equal(t, at.Copies[0].Node, s.Target)
		require.Equal(t, at.Version, s.Version)
	}
}

func TestExplainPositionsAndRefusals(t *testing.T) {
	c := realCluster(t)
	at := func(n int64) *int64 { return &n }
	all := explain(t, c, api.ExplainRequest{StreamRequest: api.StreamRequest{BatchSize: 101, Shuffle: "global", WorldSize: 1}})
	require.Len(t, all.Samples, 101)
	some := explain(t, c, api.ExplainRequest{StreamRequest: api.StreamRequest{Shuffle: "global", WorldSize: 1, BatchSize: 1}, Position: at(40), Count: 5})
	require.Equal(t, all.Samples[40:45], some.Samples)
	require.EqualValues(t, -1, some.Batch)

	for name, r := range map[string]api.ExplainRequest{
		"a batch past the end":    {Batch: 13},
		"a batch before the rank": {Batch: -1},
		"a position past the end": {Position: at(101)},
		"positions past the end":  {Position: at(100), Count: 2},
		"a negative position":     {Position: at(-1)},
		"more than there are":     {Position: at(0), Count: 1 << 62},
		"a start past the end":    {Start: 102},
		"no snapshot id":          {Snapshot: "../../secret"},
	} {
		r.Sources = []string{explained}
		r.StreamRequest.BatchSize, r.StreamRequest.Shuffle, r.StreamRequest.WorldSize = 8, "global", 1
		_, err := c.Client.Explain(t.Context(), r)
		var ae *api.Error
		require.ErrorAs(t, err, &ae, name)
		require.Equal(t, 400, ae.Status, "%s: %v", name, err)
	}
}

func TestExplainOfDataThatHasChanged(t *testing.T) {
	c := realCluster(t)
	r := api.ExplainRequest{StreamRequest: api.StreamRequest{BatchSize: 101, Shuffle: "none", WorldSize: 1}}
	r.Sources = []string{explained}
	before, err := c.Client.OpenStream(t.Context(), r.StreamRequest) // which makes its snapshot
	require.NoError(t, err)
	was := explain(t, c, r)
	require.Equal(t, before.Snapshot, was.Snapshot)

	putShard(t, c, 2, 5) // another version of one shard
	require.NoError(t, c.Client.DeleteObject(t.Context(), "b", "train-0001.tar"))
	now := explain(t, c, api.ExplainRequest{StreamRequest: api.StreamRequest{BatchSize: 86, Shuffle: "none", WorldSize: 1}})
	require.NotEqual(t, before.Snapshot, now.Snapshot)
	require.Len(t, now.Samples, 86)

	r.Snapshot = before.Snapshot
	is := explain(t, c, r)
	require.Len(t, is.Samples, 101, "the plan of then")
	for i, s := range is.Samples {
		require.Equal(t, was.Samples[i].Shard, s.Shard)
		require.Equal(t, was.Samples[i].Index, s.Index)
		switch s.Shard {
		case "ss://b/train-0001.tar":
			require.Contains(t, s.Error, "deleted")
		case "ss://b/train-0002.tar":
			require.Contains(t, s.Error, "overwritten")
		default:
			require.Equal(t, was.Samples[i], s)
		}
	}

	r.Snapshot = "0123456789012345678901234567890123456789012345678901234567890123"
	_, err = c.Client.Explain(t.Context(), r)
	var ae *api.Error
	require.ErrorAs(t, err, &ae)
	require.Equal(t, api.CodeNoSnapshot, ae.Code)
}

func TestExplainWhileATargetIsAway(t *testing.T) {
	c := realCluster(t)
	r := api.ExplainRequest{StreamRequest: api.StreamRequest{BatchSize: 101, Shuffle: "global", WorldSize: 1}}
	r.Sources = []string{explained}
	info, err := c.Client.OpenStream(t.Context(), r.StreamRequest)
	require.NoError(t, err)
	r.Snapshot = info.Snapshot
	was := explain(t, c, r)
	away := was.Samples[0].Target
	c.Target(away).Stop()
	for i, s := range explain(t, c, r).Samples {
		if s.Target == away {
			require.Contains(t, s.Error, away)
			s.Key, s.Error = was.Samples[i].Key, ""
		}
		require.Equal(t, was.Samples[i], s)
	}
}
