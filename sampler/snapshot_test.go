package sampler_test

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/shardstream/shardstream/sampler"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestSnapshotLocatesSamples(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		snap := drawSnapshot(t)
		sample := int64(0)
		for i := range snap.NumShards() {
			require.Equal(t, sample, snap.First(i))
			for index := range snap.Shard(i).Samples {
				gotShard, gotIndex := snap.Locate(sample)
				require.Equal(t, i, gotShard)
				require.Equal(t, index, gotIndex)
				sample++
			}
		}
		require.Equal(t, snap.Samples(), sample)
		require.Panics(t, func() { snap.Locate(sample) })
		require.Panics(t, func() { snap.Locate(-1) })
	})
}

func TestSnapshotKeepsItsOwnCopy(t *testing.T) {
	shards := []sampler.Shard{{Name: "b/0", Samples: 1}}
	snap := snapshot(t, shards)
	shards[0].Name = "b/changed"
	require.Equal(t, "b/0", snap.Shard(0).Name)
}

func TestSnapshotRefusals(t *testing.T) {
	for want, shards := range map[string][]sampler.Shard{
		"name of shard 1 has 0 bytes": {{Name: "b/0"}, {}},
		"has 4097 bytes":              {{Name: strings.Repeat("x", 4097)}},
		`"b/0" has a negative`:        {{Name: "b/0", Samples: -1}},
		`up to shard "b/1"`:           {{Name: "b/0", Samples: 1}, {Name: "b/1", Samples: sampler.MaxSamples}},
	} {
		_, err := sampler.NewSnapshot(shards)
		require.ErrorContains(t, err, want)
	}
	snap := snapshot(t, []sampler.Shard{{Name: strings.Repeat("x", 4096), Samples: sampler.MaxSamples}})
	require.Equal(t, int64(sampler.MaxSamples), snap.Samples())
}

func TestSnapshotIDNamesTheContent(t *testing.T) {
	base := []sampler.Shard{{Name: "b/0", Version: 1, Samples: 5}, {Name: "b/1", Version: 1, Samples: 5}}
	ids := map[string]string{}
	for what, change := range map[string]func(s []sampler.Shard) []sampler.Shard{
		"as it is":  func(s []sampler.Shard) []sampler.Shard { return s },
		"version":   func(s []sampler.Shard) []sampler.Shard { s[1].Version = 2; return s },
		"samples":   func(s []sampler.Shard) []sampler.Shard { s[1].Samples = 6; return s },
		"name":      func(s []sampler.Shard) []sampler.Shard { s[1].Name = "b/2"; return s },
		"order":     func(s []sampler.Shard) []sampler.Shard { s[0], s[1] = s[1], s[0]; return s },
		"one fewer": func(s []sampler.Shard) []sampler.Shard { return s[:1] },
		"none":      func(s []sampler.Shard) []sampler.Shard { return nil },
	} {
		id := snapshot(t, change(append([]sampler.Shard{}, base...))).ID()
		require.Regexp(t, "^[0-9a-f]{64}$", id)
		require.Empty(t, ids[id], "%q has the id of %q", what, ids[id])
		ids[id] = what
	}
	require.Equal(t, snapshot(t, base).ID(), snapshot(t, base).ID())
}

func TestSnapshotRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		shards := rapid.SliceOf(rapid.Custom(func(t *rapid.T) sampler.Shard {
			return sampler.Shard{
				Name:    rapid.StringN(1, 40, 4096).Draw(t, "name"),
				Version: rapid.Uint64().Draw(t, "version"),
				Samples: rapid.Int64Range(0, 1<<40).Draw(t, "samples"),
			}
		})).Draw(t, "shards")
		snap, err := sampler.NewSnapshot(shards)
		require.NoError(t, err)
		data, err := snap.MarshalBinary()
		require.NoError(t, err)
		sum := sha256.Sum256(snap.Root().Data())
		require.Equal(t, snap.ID(), hex.EncodeToString(sum[:]), "the id is the hash of the root")
		back, err := sampler.UnmarshalSnapshot(data)
		require.NoError(t, err)
		require.Equal(t, snap.ID(), back.ID())
		require.Equal(t, len(shards), back.NumShards())
		for i, shard := range shards {
			require.Equal(t, shard, back.Shard(i))
		}
	})
}
