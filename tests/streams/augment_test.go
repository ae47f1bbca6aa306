package streams_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/etl"
	"github.com/shardstream/shardstream/loader"
)

// Functions that draw random numbers, the same in effect: with the generators that are seeded for each sample, and from
// each sample's own seed.
var augmentations = map[string]etl.Definition{
	etl.LevelSample: {Source: `
import random
def transform(sample, noise=8):
    assert random.Random(sample["__seed__"]).random() == random.random()
    return {"cls": sample["cls"], "noise": random.randbytes(noise)}
`},
	etl.LevelBatch: {Level: etl.LevelBatch, Source: `
import random
def transform(samples, noise=8):
    generators = [random.Random(s["__seed__"]) for s in samples]
    for g in generators:
        g.random()
    return {"cls": [s["cls"] for s in samples], "noise": [g.randbytes(noise) for g in generators]}
`},
}

func (c *cluster) deployDefinition(name string, def etl.Definition) {
	c.t.Helper()
	for _, tg := range c.targets {
		def.Name, def.Workers = name, 2
		p, err := etl.NewPool(def, etl.Options{Dir: c.t.TempDir()})
		require.NoError(c.t, err)
		c.t.Cleanup(func() { require.NoError(c.t, p.Close()) })
		tg.pools.byName.Store(name, p)
	}
}

// drawn gathers what was drawn for each sample.
func drawn(t *testing.T, c *cluster, into map[string]string, edit func(*loader.Config), r loader.Run) {
	t.Helper()
	for _, b := range run(t, open(t, c, edit), r) {
		noise := b.Columns["noise"]
		for i, key := range b.Keys {
			value := string(noise.Ragged[i])
			require.NotEmpty(t, value)
			if old, ok := into[key]; ok {
				require.Equal(t, old, value, key)
			}
			into[key] = value
		}
	}
}

// TestAugmentationIsTheSamples: what a function draws for a sample follows from seed, epoch and sample alone, byte for
// byte: not from the number of targets, the ranks, the batch size, a resume, or the level that it works on.
func TestAugmentationIsTheSamples(t *testing.T) {
	want := map[uint64]map[string]string{}
	for _, targets := range []int{1, 2, 4} {
		c := newCluster(t, targets).fill(4, 24, 200)
		for level, def := range augmentations {
			c.deployDefinition(level, def)
			got := map[uint64]map[string]string{0: {}, 3: {}}
			for epoch, values := range got {
				for _, world := range []int{1, 3} {
					for rank := range world {
						drawn(t, c, values, func(cfg *loader.Config) { cfg.ETL, cfg.BatchSize = level, 8*world }, loader.Run{Epoch: epoch, World: world, Rank: rank})
					}
				}
				require.Len(t, values, 96)
			}
			for epoch := range got {
				if want[epoch] == nil {
					want[epoch] = got[epoch]
				}
				require.Equal(t, want[epoch], got[epoch], "%d targets, level %s", targets, level)
			}
			// Two ranks begin, three go on: together they have all samples, each as ever.
			resumed, position := map[string]string{}, int64(0)
			for rank := range 2 {
				l := open(t, c, func(cfg *loader.Config) { cfg.ETL, cfg.BatchSize = level, 8 })
				require.NoError(t, l.Start(loader.Run{Epoch: 3, World: 2, Rank: rank}))
				for range 2 {
					b, err := next(t, l)
					require.NoError(t, err)
					for i, key := range b.Keys {
						resumed[key] = string(b.Columns["noise"].Ragged[i])
					}
					position = b.Next
				}
			}
			for rank := range 3 {
				drawn(t, c, resumed, func(cfg *loader.Config) { cfg.ETL, cfg.BatchSize = level, 5 }, loader.Run{Epoch: 3, World: 3, Rank: rank, Position: position})
			}
			require.Equal(t, want[3], resumed)
		}
	}
	require.NotEqual(t, want[0], want[3])
}

// A chain's functions work one after the other, each with its own arguments and its own random numbers.
func TestChainsInStreams(t *testing.T) {
	c := newCluster(t, 2).fill(2, 24, 200)
	for name, def := range augmentations {
		c.deployDefinition(name, def)
	}
	c.deployDefinition("mark", etl.Definition{Level: etl.LevelBatch, Source: `
import random
def transform(samples, text):
    if any(int(s["cls"]) == 7 for s in samples):
        raise ValueError("seven")
    return {
        "cls": [int(s["cls"]) for s in samples], "noise": [s["noise"] for s in samples],
        "marked": [s["noise"] + text.encode() for s in samples],
        "again": [random.Random(s["__seed__"]).randbytes(len(s["noise"])) for s in samples],
    }
`, Args: etl.Args(`{"text": "?"}`)})
	edit := func(cfg *loader.Config) {
		cfg.ETL, cfg.ETLArgs = "sample,mark", json.RawMessage(`[{"noise": 3}, {"text": "!"}]`)
		cfg.BatchSize, cfg.OnError = 16, loader.Skip
	}
	l := open(t, c, edit)
	got := run(t, l, loader.Run{})
	seen := 0
	for _, b := range got {
		require.EqualValues(t, 9, b.Columns["cls"].DType)
		for i := range b.Keys {
			noise := string(b.Columns["noise"].Ragged[i])
			require.Len(t, noise, 3)
			require.Equal(t, noise+"!", string(b.Columns["marked"].Ragged[i]))
			require.NotEqual(t, noise, string(b.Columns["again"].Ragged[i]))
			seen++
		}
	}
	require.Equal(t, 47, seen)
	require.Equal(t, []string{keyOf(0, 7)}, l.Stats().SkippedKeys)
	again := run(t, open(t, c, edit), loader.Run{Position: got[0].Next})
	require.Equal(t, got[1:], renumber(again, 1))
}

func TestArgumentsThatDoNotFit(t *testing.T) {
	c := newCluster(t, 1).fill(1, 8, 200)
	c.deployDefinition("f", augmentations[etl.LevelSample])
	for args, want := range map[string]string{
		`{"nose": 3}`:   "the arguments given (nose) do not fit transform(sample, noise=8)",
		`[{}, {}]`:      "2 arguments for 1 transformations",
		`"no object"`:   "not a JSON object",
		`{"no name":1}`: "not the name of an argument",
	} {
		l := open(t, c, func(cfg *loader.Config) { cfg.ETL, cfg.ETLArgs = "f", json.RawMessage(args) })
		require.NoError(t, l.Start(loader.Run{}))
		_, err := drain(t, l)
		var answer *api.Error
		require.ErrorAs(t, err, &answer, args)
		require.ErrorContains(t, err, want)
		if args == `{"nose": 3}` {
			require.Equal(t, api.CodeETLFailed, answer.Code)
		}
	}
}

// The same function may serve parts of a mixture with other arguments, and one of level object fields of samples.
func TestArgumentsOfMixtures(t *testing.T) {
	c := newCluster(t, 2).fill(6, 33, 300).blend("stratified", 0)
	c.deployDefinition("f", augmentations[etl.LevelSample])
	c.deployDefinition("upper", etl.Definition{Level: etl.LevelObject, Fields: []string{"cls"}, Source: "def transform(data):\n    return b'#' + data\n"})
	for i := range c.mixture.Parts {
		c.mixture.Parts[i].ETL, c.mixture.Parts[i].ETLArgs = "f", json.RawMessage(fmt.Sprintf(`{"noise": %d}`, i+1))
	}
	c.mixture.Parts[2].ETL, c.mixture.Parts[2].ETLArgs = "f,upper", json.RawMessage(`[{"noise": 3}, null]`)
	plan, lengths := c.mixturePlan(0), map[int]map[int]bool{}
	for _, b := range run(t, open(t, c, mixed), loader.Run{}) {
		for i := range b.Keys {
			part := plan.Draw(b.Start + int64(i)).Part
			if lengths[part] == nil {
				lengths[part] = map[int]bool{}
			}
			lengths[part][len(b.Columns["noise"].Ragged[i])] = true
			require.Equal(t, part == 2, b.Columns["cls"].Ragged[i][0] == '#')
		}
	}
	require.Equal(t, map[int]map[int]bool{0: {1: true}, 1: {2: true}, 2: {3: true}}, lengths)
}
