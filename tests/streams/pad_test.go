package streams_test

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/loader"
	"github.com/shardstream/shardstream/sampler"
	"github.com/shardstream/shardstream/tests/arena"
)

// picky fails on samples whose class is in a list that goes into the source.
const picky = `
BAD = {%s}
def transform(sample):
    n = int(sample["cls"])
    if n in BAD:
        raise ValueError("bad on purpose")
    return {"cls": n, "name": sample["__key__"], "some": b"x" * (n %% 3)}
`

// row is a row of a batch as its reader sees it.
type row struct {
	key  string
	mask byte
	cls  int64
	name string
	some string
}

func rowsOf(b arena.Batch) []row {
	rows := make([]row, len(b.Keys))
	for i, k := range b.Keys {
		cls := int64(binary.LittleEndian.Uint64(b.Columns["cls"].Dense[8*i:]))
		rows[i] = row{k, b.Mask[i], cls, string(b.Columns["name"].Ragged[i]), string(b.Columns["some"].Ragged[i])}
	}
	return rows
}

// padded is what rank's batches must be by the plan alone, samples of some classes failing.
func (c *cluster) padded(v sampler.View, bad map[int64]bool) [][]row {
	c.t.Helper()
	keys := c.planned(0)
	batches := make([][]row, 0, v.Batches())
	for i := range v.Batches() {
		spec := v.Batch(i)
		rows := make([]row, v.BatchSize)
		last := -1
		for at := range int(spec.Count + spec.Pad) {
			key := keys[spec.Start+int64(at)]
			var shard, index int64
			_, err := fmt.Sscanf(key, "s%d/%d", &shard, &index)
			require.NoError(c.t, err)
			cls := shard*21 + index
			if bad[cls] {
				continue
			}
			r := row{key: key, mask: byte(1 - spec.Pad), cls: cls, name: key, some: "xx"[:cls%3]}
			rows[at] = r
			for from := last + 1; from < at; from++ { // what failed before repeats the sample before, or the first
				if rows[from] = r; last >= 0 {
					rows[from] = rows[last]
				}
				rows[from].mask = 0
			}
			last = at
		}
		for at := last + 1; last >= 0 && at < v.BatchSize; at++ {
			rows[at] = rows[last]
			rows[at].mask = 0
		}
		batches = append(batches, rows)
	}
	return batches
}

func TestPaddedBatchesHaveAllRowsInTheirPlaces(t *testing.T) {
	c := newCluster(t, 2).fill(3, 21, 100)
	for name, bad := range map[string][]int64{
		"none":         {},
		"some":         {0, 1, 7, 30, 31, 32, 33, 34, 35, 36, 62},
		"nearly all":   {0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 25, 26, 27, 28, 29, 30, 31, 32, 33},
		"half of them": {1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31, 33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61},
	} {
		t.Run(name, func(t *testing.T) {
			list, set := "-1", map[int64]bool{}
			for _, n := range bad {
				list += fmt.Sprintf(", %d", n)
				set[n] = true
			}
			c.deploy(fmt.Sprintf(picky, list))
			for _, size := range []int{1, 4, 16, 100} {
				for _, world := range []int{1, 3, 4} {
					l := open(t, c, func(cfg *loader.Config) {
						cfg.ETL, cfg.BatchSize, cfg.Pad, cfg.OnError, cfg.Prefetch = "f", size, true, loader.Skip, 16
					})
					seen := 0
					for rank := range world {
						view := sampler.View{Samples: 63, BatchSize: size, World: world, Rank: rank, Workers: 1}
						want := c.padded(view, set)
						got := run(t, l, loader.Run{World: world, Rank: rank})
						require.Len(t, got, len(want))
						for i, b := range got {
							require.Equal(t, want[i], rowsOf(b), "size %d, rank %d of %d, batch %d", size, rank, world, i)
							for _, real := range b.Mask {
								seen += int(real)
							}
						}
					}
					require.Equal(t, 63-len(bad), seen, "every good sample once over all ranks")
					require.EqualValues(t, len(bad), l.Stats().Skipped, "each bad one counted once")
					require.EqualValues(t, 63-len(bad), l.Stats().Samples)
				}
			}
		})
	}
}

func TestABatchOfWhichNothingIsLeft(t *testing.T) {
	c := newCluster(t, 1).fill(1, 12, 100)
	skipping := func(pad bool) func(*loader.Config) {
		return func(cfg *loader.Config) {
			cfg.ETL, cfg.BatchSize, cfg.Shuffle, cfg.OnError, cfg.Pad = "f", 4, "none", loader.Skip, pad
		}
	}
	t.Run("without pad it is an error that names the way out", func(t *testing.T) {
		c.deploy(fmt.Sprintf(picky, "4, 5, 6, 7"))
		l := open(t, c, skipping(false))
		require.NoError(t, l.Start(loader.Run{}))
		got, err := drain(t, l)
		require.Len(t, got, 1)
		var se *loader.SampleError
		require.ErrorAs(t, err, &se)
		require.Equal(t, keyOf(0, 4), se.Key)
		require.ErrorContains(t, err, "pad")
	})
	t.Run("the first looks like the next", func(t *testing.T) {
		c.deploy(fmt.Sprintf(picky, "0, 1, 2, 3"))
		got := run(t, open(t, c, skipping(true)), loader.Run{})
		require.Len(t, got, 3)
		require.Equal(t, make([]row, 4), rowsOf(got[0]))
		require.Equal(t, []byte{1, 1, 1, 1}, got[1].Mask)
		require.Equal(t, got[1].Columns["cls"].DType, got[0].Columns["cls"].DType)
	})
	t.Run("the first, where the consumer keeps all batches of the epoch before", func(t *testing.T) {
		c.deploy(fmt.Sprintf(picky, "-1"))
		l := open(t, c, func(cfg *loader.Config) {
			skipping(true)(cfg)
			cfg.Prefetch, cfg.ReadAhead = 2, false
		})
		require.NoError(t, l.Start(loader.Run{}))
		for range 3 {
			_, _, err := l.Next(patience)
			require.NoError(t, err)
		}
		c.deploy(fmt.Sprintf(picky, "0, 1, 2, 3"))
		require.NoError(t, l.Start(loader.Run{Epoch: 1}))
		_, _, err := l.Next(patience)
		require.NoError(t, err)
	})
	t.Run("all of them are an error", func(t *testing.T) {
		c.deploy(fmt.Sprintf(picky, "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11"))
		l := open(t, c, skipping(true))
		require.NoError(t, l.Start(loader.Run{}))
		_, err := drain(t, l)
		require.ErrorContains(t, err, "none of the 4 samples of batch 0")
	})
}

func TestPaddingRaggedArrays(t *testing.T) {
	c := newCluster(t, 1).fill(1, 8, 100)
	c.deploy(`
import array
def transform(sample):
    n = int(sample["cls"])
    if n in (1, 6, 7):
        raise ValueError("bad on purpose")
    return {"x": n} if n % 2 else {"x": n, "y": float(n)}
`)
	got := run(t, open(t, c, func(cfg *loader.Config) {
		cfg.ETL, cfg.BatchSize, cfg.Shuffle, cfg.OnError, cfg.Pad = "f", 4, "none", loader.Warn, true
	}), loader.Run{})
	require.Len(t, got, 2)
	require.Equal(t, []byte{1, 0, 1, 1}, got[0].Mask)
	require.Equal(t, []byte{1, 1, 0, 0}, got[1].Mask)
	y := got[0].Columns["y"].Ragged
	require.Equal(t, y[0], y[1], "a repetition of the row before")
	require.Nil(t, y[3], "and what a sample lacks is lacking")
	require.Nil(t, got[1].Columns["y"].Ragged[3])
	require.EqualValues(t, 5, binary.LittleEndian.Uint64(got[1].Columns["x"].Dense[8*3:]))
}

func TestErrorBudget(t *testing.T) {
	c := newCluster(t, 2).fill(4, 50, 100)
	for name, test := range map[string]struct {
		budget  string
		every   int   // samples have a bad one; 0: ten
		errors  int64 // that end it; 0: it goes through
		batches int   // that come before the error
	}{
		"enough":                   {budget: "20"},
		"one too few":              {budget: "19", errors: 20},
		"none":                     {budget: "0", errors: 1},
		"a part, kept":             {budget: "0.1"},
		"percent, kept":            {budget: "15%"},
		"a part, missed by far":    {budget: "0.01", errors: 11},
		"a part, missed by a hair": {budget: "9.99%", errors: 11},
		"few, judged at the end":   {budget: "0.01", every: 50, errors: 4, batches: 20},
	} {
		t.Run(name, func(t *testing.T) {
			budget, err := loader.ParseBudget(test.budget)
			require.NoError(t, err)
			c.deploy(fmt.Sprintf(`
def transform(sample):
    if int(sample["cls"]) %% %d == 3:
        raise ValueError("bad on purpose")
    return {"cls": int(sample["cls"])}
`, max(test.every, 10)))
			l := open(t, c, func(cfg *loader.Config) {
				cfg.ETL, cfg.BatchSize, cfg.Shuffle, cfg.OnError, cfg.MaxErrors = "f", 10, "none", loader.Skip, budget
			})
			for range 2 { // each epoch has a budget of its own
				require.NoError(t, l.Start(loader.Run{}))
				got, err := drain(t, l)
				if test.errors == 0 {
					require.NoError(t, err)
					require.Len(t, got, 20)
					continue
				}
				if test.batches > 0 {
					require.Len(t, got, test.batches)
				}
				var be *loader.BudgetError
				require.ErrorAs(t, err, &be)
				require.Equal(t, test.errors, be.Errors)
				require.Equal(t, map[string]int64{api.CodeETLFailed: test.errors}, be.ByCode)
				require.ErrorContains(t, err, "max_errors="+budget.String())
				require.ErrorContains(t, err, keyOf(0, 3))
				require.ErrorContains(t, err, "bad on purpose")
				code, _ := loader.Describe(err)
				require.Equal(t, "too_many_errors", code)
			}
		})
	}
}

func TestErrorBudgetsThatAreNone(t *testing.T) {
	for _, text := range []string{"", "many", "-1", "1.5", "100%", "-0.1", "NaN", "1e400"} {
		_, err := loader.ParseBudget(text)
		require.Error(t, err, text)
	}
	_, err := loader.New(loader.Config{Sources: []string{"ss://b/"}, BatchSize: 1, Shuffle: "none", MaxErrors: &loader.Budget{Count: 3}}, nil)
	require.ErrorContains(t, err, "on_error")
}
