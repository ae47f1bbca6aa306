package streams_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"net"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/loader"
	"github.com/shardstream/shardstream/sampler"
	"github.com/shardstream/shardstream/tests/arena"
)

// blend makes the cluster's shards the parts of a mixture, dealt out as they stand: a part that has fewer
// draws than samples, one that repeats, and the rest.
func (c *cluster) blend(interleave string, unit int64, shuffles ...string) *cluster {
	c.t.Helper()
	c.mixture = &api.MixtureInfo{Interleave: interleave, Unit: unit}
	shard := 0
	for i, p := range []struct{ shards, draws int64 }{{2, 48}, {1, 72}, {int64(c.snap.NumShards()) - 3, 96}} {
		part := api.MixturePart{Shards: p.shards, Draws: p.draws, Shuffle: "global"}
		if len(shuffles) > 0 {
			part.Shuffle = shuffles[i]
		}
		for range p.shards {
			part.Samples += c.snap.Shard(shard).Samples
			shard++
		}
		c.mixture.Parts = append(c.mixture.Parts, part)
	}
	return c
}

// mixtureOf is the plan by the sampler alone.
func (c *cluster) mixturePlan(epoch uint64) *sampler.Mixture {
	c.t.Helper()
	interleave, err := sampler.ParseInterleave(c.mixture.Interleave)
	require.NoError(c.t, err)
	var parts []sampler.Part
	for i, p := range c.mixture.Parts {
		mode, err := sampler.ParseMode(p.Shuffle)
		require.NoError(c.t, err)
		parts = append(parts, sampler.Part{Shards: int(p.Shards), Draws: p.Draws, Shuffle: sampler.Shuffle{Mode: mode, Seed: sampler.PartSeed(1, i)}})
	}
	plan, err := sampler.NewMixture(c.snap, parts, sampler.Blend{Interleave: interleave, Unit: c.mixture.Unit, Seed: 1}, epoch)
	require.NoError(c.t, err)
	return plan
}

func (c *cluster) plannedMixture(epoch uint64) (keys []string) {
	plan := c.mixturePlan(epoch)
	for pos := range plan.Samples() {
		shard, i := c.snap.Locate(plan.Draw(pos).Sample)
		keys = append(keys, keyOf(shard, int(i)))
	}
	return keys
}

// mixed is a loader's description of a mixture of three sources; the numbers are the harness's.
func mixed(cfg *loader.Config) {
	cfg.Sources, cfg.Shuffle, cfg.BatchSize = nil, "", 8
	cfg.Mixture = &loader.Mixture{Sources: make([]api.MixtureSource, 3)}
}

func TestMixtureArrivesInPlannedOrderWithItsBytes(t *testing.T) {
	for _, m := range []struct {
		interleave string
		unit       int64
		shuffles   []string
	}{
		{"random", 0, nil},
		{"stratified", 0, []string{"window", "none", "shards"}},
		{"per_source", 8, []string{"none", "global", "window"}},
	} {
		t.Run(m.interleave, func(t *testing.T) {
			c := newCluster(t, 3).fill(6, 33, 2_000).blend(m.interleave, m.unit, m.shuffles...)
			l := open(t, c, mixed)
			for epoch := range uint64(3) {
				got := run(t, l, loader.Run{Epoch: epoch})
				require.Equal(t, c.plannedMixture(epoch), keysOf(got))
				c.checkBytes(t, got, 2_000)
			}
		})
	}
}

func TestRanksAndWorkersShareOneMixture(t *testing.T) {
	c := newCluster(t, 2).fill(6, 33, 200).blend("stratified", 0)
	want := c.plannedMixture(3)
	for _, world := range []int{1, 2, 3, 7} {
		for _, workers := range []int{1, 2} {
			t.Run(fmt.Sprintf("%dx%d", world, workers), func(t *testing.T) {
				byStart := map[int64][]string{}
				for rank := range world {
					for worker := range workers {
						for _, b := range run(t, open(t, c, mixed), loader.Run{Epoch: 3, Rank: rank, World: world, Worker: worker, Workers: workers}) {
							if k := keysOf([]arena.Batch{b}); len(k) > 0 {
								byStart[b.Start] = k
							}
						}
					}
				}
				var got []string
				for len(got) < len(want) {
					require.Contains(t, byStart, int64(len(got)))
					got = append(got, byStart[int64(len(got))]...)
				}
				require.Equal(t, want, got)
			})
		}
	}
}

func TestMixtureResumesAtEveryCheckpoint(t *testing.T) {
	c := newCluster(t, 2).fill(6, 33, 300).blend("random", 0)
	first := run(t, open(t, c, mixed), loader.Run{Epoch: 1})
	require.Len(t, first, 27)
	for i, b := range first {
		rest := run(t, open(t, c, mixed), loader.Run{Epoch: 1, Position: b.Next, Snapshot: c.snap.ID()})
		require.Equal(t, first[i+1:], renumber(rest, i+1), "bit for bit after batch %d", i)
	}
	var shared []string
	for rank := range 3 {
		shared = append(shared, keysOf(run(t, open(t, c, mixed), loader.Run{Epoch: 1, Position: first[4].Next, Rank: rank, World: 3}))...)
	}
	require.ElementsMatch(t, c.plannedMixture(1)[first[4].Next:], shared)
}

func TestCutConnectionsChangeNoMixture(t *testing.T) {
	c := newCluster(t, 3).fill(6, 33, 3_000).blend("stratified", 0)
	var cuts atomic.Int64
	for i, tg := range c.targets {
		budget := int64(10_000 * (i + 1))
		tg.setWrap(func(nc net.Conn) net.Conn { return &cutter{Conn: nc, left: budget + 20_000*cuts.Add(1)} })
	}
	l := open(t, c, mixed)
	got := run(t, l, loader.Run{})
	require.Equal(t, c.plannedMixture(0), keysOf(got))
	c.checkBytes(t, got, 3_000)
	require.Greater(t, l.Stats().Retries, int64(3))
}

// Each part goes through its own function, or none; columns that a part lacks are missing in its samples.
func TestEachPartOfAMixtureHasItsTransformation(t *testing.T) {
	c := newCluster(t, 2).fill(6, 33, 300).blend("stratified", 0)
	c.deployAs("count", `
def transform(sample):
    return {"cls": sample["cls"], "bytes": len(sample["jpg"])}
`)
	c.deployAs("noise", `
import random
def transform(sample):
    return {"cls": sample["cls"], "noise": random.random()}
`)
	c.mixture.Parts[1].ETL, c.mixture.Parts[2].ETL = "noise", "count"
	got := run(t, open(t, c, mixed), loader.Run{Epoch: 2})
	require.Equal(t, c.plannedMixture(2), keysOf(got))
	plan := c.mixturePlan(2)
	noise := map[sampler.Draw]string{}
	drawn := map[string]sampler.Draw{}
	for _, b := range got {
		require.Len(t, b.Columns["cls"].Ragged, len(b.Keys))
		for i := range b.Keys {
			d := plan.Draw(b.Start + int64(i))
			require.EqualValues(t, d.Part, b.Sources[i])
			require.NotEmpty(t, b.Columns["cls"].Ragged[i])
			for field, part := range map[string]int{"jpg": 0, "noise": 1, "bytes": 2} {
				require.Equal(t, d.Part == part, b.Columns[field].Ragged != nil && b.Columns[field].Ragged[i] != nil, "%s of part %d", field, d.Part)
			}
			if d.Part == 1 {
				value := string(b.Columns["noise"].Ragged[i])
				require.NotContains(t, drawn, value, "a sample that comes again is augmented anew")
				noise[d], drawn[value] = value, d
			}
		}
	}
	require.Len(t, noise, 72)
	for _, b := range run(t, open(t, c, mixed), loader.Run{Epoch: 2, Position: got[10].Next}) {
		for i := range b.Keys {
			if d := plan.Draw(b.Start + int64(i)); d.Part == 1 {
				require.Equal(t, noise[d], string(b.Columns["noise"].Ragged[i]), "and alike after a resume")
			}
		}
	}
}

// Numbers of one source beside bytes of another in one field can't be one column; the error says which.
func TestFieldsOfAMixtureMustAgreeOnTheirType(t *testing.T) {
	c := newCluster(t, 2).fill(6, 33, 300).blend("stratified", 0)
	c.deployAs("f", `def transform(sample): return {"cls": int(sample["cls"])}`)
	c.mixture.Parts[0].ETL = "f"
	l := open(t, c, mixed)
	require.NoError(t, l.Start(loader.Run{}))
	_, err := drain(t, l)
	require.ErrorContains(t, err, `field "cls"`)
	require.ErrorContains(t, err, "int64")
}

// The sources' numbers go with the samples, also past one that is left out.
func TestSourcesOfAMixtureAreNumbered(t *testing.T) {
	c := newCluster(t, 2).fill(6, 33, 300).blend("random", 0)
	c.deployAs("f", `
def transform(sample):
    if int(sample["cls"]) % 3 == 0:
        raise ValueError("a third")
    return {"cls": sample["cls"]}
`)
	for i := range c.mixture.Parts {
		c.mixture.Parts[i].ETL = "f"
	}
	l := open(t, c, func(cfg *loader.Config) { mixed(cfg); cfg.OnError = loader.Skip })
	seen := 0
	for _, b := range run(t, l, loader.Run{}) {
		require.Len(t, b.Sources, len(b.Keys))
		for i, key := range b.Keys {
			var shard int
			_, err := fmt.Sscanf(key, "s%d/", &shard)
			require.NoError(t, err)
			require.EqualValues(t, min(max(0, shard-1), 2), b.Sources[i], key)
			seen++
		}
	}
	require.Less(t, seen, 216-30)
}

// Sources that have different members, in one batch.
func TestFieldsOfAMixtureMayDiffer(t *testing.T) {
	c := newCluster(t, 2)
	for s, field := range []string{"txt", "txt", "json", "json"} {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		for i := range 20 {
			body := fmt.Sprint(s, i)
			require.NoError(t, w.WriteHeader(&tar.Header{Name: keyOf(s, i) + "." + field, Mode: 0o644, Size: int64(len(body))}))
			_, _ = w.Write([]byte(body))
		}
		require.NoError(t, w.Close())
		c.put(fmt.Sprintf("%s-%d.tar", field, s), buf.Bytes())
	}
	c.seal()
	c.blend("stratified", 0)
	c.mixture.Parts = []api.MixturePart{{Shards: 2, Draws: 40, Shuffle: "global"}, {Shards: 2, Draws: 40, Shuffle: "global"}}
	two := func(cfg *loader.Config) { mixed(cfg); cfg.Mixture.Sources = cfg.Mixture.Sources[:2] }
	for _, b := range run(t, open(t, c, two), loader.Run{}) {
		require.Len(t, b.Columns, 2)
		texts := 0
		for i := range b.Keys {
			require.NotEqual(t, b.Columns["txt"].Ragged[i] == nil, b.Columns["json"].Ragged[i] == nil)
			if b.Columns["txt"].Ragged[i] != nil {
				texts++
			}
		}
		require.Equal(t, 4, texts, "half of every batch")
	}
}

func TestBadMixturesAreRefused(t *testing.T) {
	c := newCluster(t, 1).fill(6, 33, 100)
	for want, edit := range map[string]func(*api.MixtureInfo){
		"unknown interleave":      func(m *api.MixtureInfo) { m.Interleave = "blended" },
		"unknown shuffle":         func(m *api.MixtureInfo) { m.Parts[2].Shuffle = "blended" },
		"the snapshot":            func(m *api.MixtureInfo) { m.Parts[2].Shards++ },
		"undoes shuffle":          func(m *api.MixtureInfo) { m.Parts[2].Shuffle = "none" },
		"no etl":                  func(m *api.MixtureInfo) { m.Parts[2].ETL = "absent" },
		"of an older version":     func(m *api.MixtureInfo) { m.Parts = m.Parts[:2] },
		"a unit of 262145":        func(m *api.MixtureInfo) { m.Interleave, m.Unit = "per_source", 1<<18+1 },
		"samples an epoch of par": func(m *api.MixtureInfo) { m.Parts[0].Draws, m.Parts[1].Draws = 72, -24 },
	} {
		c.blend("random", 0)
		edit(c.mixture)
		l := open(t, c, mixed)
		require.NoError(t, l.Start(loader.Run{}))
		_, err := next(t, l)
		require.ErrorContains(t, err, want)
	}
	_, err := loader.New(loader.Config{BatchSize: 1, Mixture: &loader.Mixture{}, Shuffle: "global"}, c)
	require.ErrorContains(t, err, "takes the place")
}
