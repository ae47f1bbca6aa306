package sampler_test

import (
	"fmt"
	"sort"
	"testing"

	"github.com/shardstream/shardstream/sampler"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func drawView(t *rapid.T, samples, start int64) sampler.View {
	return sampler.View{
		Samples: samples, Start: start,
		BatchSize: rapid.IntRange(1, 12).Draw(t, "batch size"),
		World:     rapid.IntRange(1, 9).Draw(t, "world"),
		Workers:   rapid.IntRange(1, 4).Draw(t, "workers"),
		DropLast:  rapid.Bool().Draw(t, "drop last"),
	}
}

// batches are those of all workers of a rank, in the order in which a loader yields them.
func batches(t require.TestingT, v sampler.View, rank int) []sampler.Batch {
	v.Rank = rank
	var all []sampler.Batch
	total := int64(0)
	for v.Worker = range v.Workers {
		require.NoError(t, v.Validate())
		total += v.Batches()
		for i := range v.Batches() {
			all = append(all, v.Batch(i))
			require.Equal(t, int64(v.Worker), all[len(all)-1].Step%int64(v.Workers))
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Step < all[j].Step })
	require.Equal(t, v.Steps(), total)
	for i, b := range all {
		require.Equal(t, int64(i), b.Step)
	}
	return all
}

// The union over ranks and workers, in the order of positions, is the sequence, whatever the world.
func TestRanksAndWorkersShareAnEpoch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		samples := rapid.Int64Range(0, 400).Draw(t, "samples")
		v := drawView(t, samples, rapid.Int64Range(0, samples).Draw(t, "start"))
		step := int64(v.World) * int64(v.BatchSize)
		next := v.Start // the first position that no rank has had yet
		ranks := make([][]sampler.Batch, v.World)
		for r := range ranks {
			ranks[r] = batches(t, v, r)
			require.Len(t, ranks[r], int(v.Steps()), "equal steps on every rank")
		}
		for s := range v.Steps() {
			first, end := next, min(v.Samples, next+step)
			for _, batches := range ranks {
				b := batches[s]
				require.Equal(t, end, b.Next)
				require.LessOrEqual(t, b.Count, int64(v.BatchSize))
				if b.Count == 0 {
					require.Equal(t, int64(1), b.Pad)
					require.Equal(t, first, b.Start, "padding repeats the first sample of the step")
					require.Less(t, end-first, int64(v.World), "padding only where a rank would have nothing")
					continue
				}
				require.Zero(t, b.Pad)
				require.Equal(t, next, b.Start)
				next += b.Count
			}
			require.Equal(t, end, next, "a step leaves nothing over")
		}
		if v.DropLast {
			require.Equal(t, (v.Samples-v.Start)/step*step, next-v.Start)
		} else {
			require.Equal(t, v.Samples, next)
		}
	})
}

// A run that stops after any step and goes on with another batch size, world and number of workers
// gives each sample exactly once, in the one order of the epoch.
func TestResumeAtAnotherWorldSizeIsExactlyOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		snap, shuffle := drawSnapshot(t), drawShuffle(t)
		o, err := sampler.NewOrder(snap, shuffle, 5)
		require.NoError(t, err)
		got := []int64{}
		for pos := int64(0); pos < snap.Samples(); {
			v := drawView(t, snap.Samples(), pos)
			v.DropLast = false
			stop := rapid.Int64Range(1, v.Steps()).Draw(t, "steps until the checkpoint")
			for r := range v.World {
				require.GreaterOrEqual(t, int64(len(batches(t, v, r))), stop)
			}
			for s := range stop {
				for r := range v.World {
					b := batches(t, v, r)[s]
					for p := b.Start; p < b.Start+b.Count; p++ {
						got = append(got, o.Sample(p))
					}
					pos = b.Next
				}
			}
		}
		require.Equal(t, sequence(o), got)
	})
}

func TestLastStep(t *testing.T) {
	type want struct{ start, count, pad, next int64 }
	for _, c := range []struct {
		name string
		view sampler.View
		want []want // last step, by rank
	}{
		{
			"full",
			sampler.View{Samples: 24, BatchSize: 4, World: 3},
			[]want{{12, 4, 0, 24}, {16, 4, 0, 24}, {20, 4, 0, 24}},
		}, {
			"shared out",
			sampler.View{Samples: 20, BatchSize: 4, World: 3},
			[]want{{12, 2, 0, 20}, {14, 3, 0, 20}, {17, 3, 0, 20}},
		}, {
			"one each",
			sampler.View{Samples: 15, BatchSize: 4, World: 3},
			[]want{{12, 1, 0, 15}, {13, 1, 0, 15}, {14, 1, 0, 15}},
		}, {
			"too few for all ranks",
			sampler.View{Samples: 14, BatchSize: 4, World: 3},
			[]want{{12, 1, 0, 14}, {13, 1, 0, 14}, {12, 0, 1, 14}},
		}, {
			"dropped",
			sampler.View{Samples: 23, BatchSize: 4, World: 3, DropLast: true},
			[]want{{0, 4, 0, 12}, {4, 4, 0, 12}, {8, 4, 0, 12}},
		}, {
			"from a checkpoint",
			sampler.View{Samples: 24, Start: 23, BatchSize: 4, World: 2},
			[]want{{23, 1, 0, 24}, {23, 0, 1, 24}},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := c.view
			v.Workers = 1
			for v.Rank = range v.World {
				require.NoError(t, v.Validate())
				b := v.Batch(v.Batches() - 1)
				require.Equal(t, c.want[v.Rank], want{b.Start, b.Count, b.Pad, b.Next}, "rank %d", v.Rank)
			}
		})
	}
}

func TestViewOfNothing(t *testing.T) {
	for _, v := range []sampler.View{
		{Samples: 0, BatchSize: 4, World: 3, Workers: 2},
		{Samples: 9, Start: 9, BatchSize: 4, World: 3, Workers: 2},
		{Samples: 11, BatchSize: 4, World: 3, Workers: 2, DropLast: true},
	} {
		require.NoError(t, v.Validate())
		require.Zero(t, v.Steps())
		require.Zero(t, v.Batches())
		require.Panics(t, func() { v.Batch(0) })
	}
}

func TestViewAtItsLimits(t *testing.T) {
	v := sampler.View{
		Samples: sampler.MaxSamples, BatchSize: sampler.MaxBatchSize,
		World: sampler.MaxWorld, Rank: sampler.MaxWorld - 1, Workers: 1,
	}
	require.NoError(t, v.Validate())
	last := v.Batch(v.Batches() - 1)
	require.Equal(t, int64(sampler.MaxSamples), last.Next)
	require.Equal(t, int64(sampler.MaxBatchSize), last.Count)

	v.Samples-- // the last step has 2^42 - 1 positions; its last rank ends where the epoch ends
	last = v.Batch(v.Batches() - 1)
	require.Equal(t, v.Samples, last.Start+last.Count)
}

func TestViewRefusals(t *testing.T) {
	good := sampler.View{Samples: 100, BatchSize: 4, World: 2, Workers: 2}
	require.NoError(t, good.Validate())
	for want, change := range map[string]func(*sampler.View){
		"-1 samples":                 func(v *sampler.View) { v.Samples = -1 },
		fmt.Sprint(int64(1)<<50 + 1): func(v *sampler.View) { v.Samples = 1<<50 + 1 },
		"position 101":               func(v *sampler.View) { v.Start = 101 },
		"position -1":                func(v *sampler.View) { v.Start = -1 },
		"batch size 0":               func(v *sampler.View) { v.BatchSize = 0 },
		"batch size 262145":          func(v *sampler.View) { v.BatchSize = sampler.MaxBatchSize + 1 },
		"world size 0":               func(v *sampler.View) { v.World = 0 },
		"world size 1048577":         func(v *sampler.View) { v.World = sampler.MaxWorld + 1 },
		"rank 2 in a world of 2":     func(v *sampler.View) { v.Rank = 2 },
		"rank -1":                    func(v *sampler.View) { v.Rank = -1 },
		"0 workers":                  func(v *sampler.View) { v.Workers = 0 },
		"worker 2 of 2":              func(v *sampler.View) { v.Worker = 2 },
		"worker -1":                  func(v *sampler.View) { v.Worker = -1 },
	} {
		v := good
		change(&v)
		require.ErrorContains(t, v.Validate(), want)
	}
}
