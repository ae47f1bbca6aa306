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
		sum := sha256.Sum256(data[:len(data)-sha256.Size])
		require.Equal(t, snap.ID(), hex.EncodeToString(sum[:]), "the id is the hash of the encoding")
		back, err := sampler.UnmarshalSnapshot(data)
		require.NoError(t, err)
		require.Equal(t, snap.ID(), back.ID())
		require.Equal(t, len(shards), back.NumShards())
		for i, shard := range shards {
			require.Equal(t, shard, back.Shard(i))
		}
	})
}

func TestUnmarshalRefusesEveryDamage(t *testing.T) {
	data, err := equalShards(t, 3, 200).MarshalBinary()
	require.NoError(t, err)
	for i := range data {
		_, err := sampler.UnmarshalSnapshot(data[:i])
		require.ErrorIs(t, err, sampler.ErrSnapshot, "cut to %d bytes", i)
		for bit := range 8 {
			bad := append([]byte{}, data...)
			bad[i] ^= 1 << bit
			_, err := sampler.UnmarshalSnapshot(bad)
			require.ErrorIs(t, err, sampler.ErrSnapshot, "bit %d of byte %d flipped", bit, i)
		}
	}
	_, err = sampler.UnmarshalSnapshot(append(data, 0))
	require.ErrorIs(t, err, sampler.ErrSnapshot)
}

// A right checksum over a wrong body: what someone hostile would send.
func TestUnmarshalRefusesForgeries(t *testing.T) {
	for name, c := range map[string]struct{ body, want string }{
		"nothing":              {"", "no snapshot header"},
		"other magic":          {"SSNQ\x01\x00", "no snapshot header"},
		"newer format":         {"SSNP\x02\x00", "format 2, this software reads format 1"},
		"count beyond data":    {"SSNP\x01\xff\xff\xff\xff\x07\x01a\x00\x00", "shards announced"},
		"count over 64 bits":   {"SSNP\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", "beyond 64 bits"},
		"endless count":        {"SSNP\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "beyond 64 bits"},
		"long form of a count": {"SSNP\x01\x81\x00\x01a\x00\x00", "canonical"},
		"long form of samples": {"SSNP\x01\x01\x01a\x00\x80\x00", "canonical"},
		"name beyond data":     {"SSNP\x01\x01\x7fa\x00\x00", "cut short"},
		"no version":           {"SSNP\x01\x01\x03abc", "cut short"},
		"empty name":           {"SSNP\x01\x02\x00\x00\x00\x02ab\x00\x00", "0 bytes"},
		"too many samples":     {"SSNP\x01\x01\x01a\x00\xff\xff\xff\xff\xff\xff\xff\x7f", "samples"},
		"too many in all":      {"SSNP\x01\x02\x01a\x00\x01\x01b\x00\x80\x80\x80\x80\x80\x80\x80\x02", "more than"},
		"bytes left over":      {"SSNP\x01\x01\x01a\x00\x00\x00", "after the last shard"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := sampler.UnmarshalSnapshot(seal([]byte(c.body)))
			require.ErrorIs(t, err, sampler.ErrSnapshot)
			require.ErrorContains(t, err, c.want)
		})
	}
}

// seal appends the checksum that makes a body plausible.
func seal(body []byte) []byte {
	sum := sha256.Sum256(body)
	return append(body[:len(body):len(body)], sum[:]...)
}

// Whatever decodes, encodes to the same bytes and can be planned over.
func FuzzUnmarshalSnapshot(f *testing.F) {
	for _, shards := range [][]sampler.Shard{nil, {{Name: "b/0", Samples: 3}}, {{Name: "b/0"}, {Name: "b/1", Version: 1 << 63, Samples: 1 << 40}}} {
		snap, err := sampler.NewSnapshot(shards)
		require.NoError(f, err)
		data, err := snap.MarshalBinary()
		require.NoError(f, err)
		f.Add(data[:len(data)-sha256.Size])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		_, _ = sampler.UnmarshalSnapshot(body)
		data := seal(body) // else no input would get past the checksum
		snap, err := sampler.UnmarshalSnapshot(data)
		if err != nil {
			require.ErrorIs(t, err, sampler.ErrSnapshot)
			return
		}
		again, err := snap.MarshalBinary()
		require.NoError(t, err)
		require.Equal(t, data, again)
		for _, mode := range modes {
			o := order(t, snap, sampler.Shuffle{Mode: mode}, 0)
			if n := o.Samples(); n > 0 {
				require.Equal(t, n-1, o.Position(o.Sample(n-1)))
			}
		}
	})
}
