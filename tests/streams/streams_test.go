package streams_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/loader"
	"github.com/shardstream/shardstream/sampler"
	"github.com/shardstream/shardstream/tests/arena"
)

const patience = 30 * time.Second

func next(t testing.TB, l *loader.Loader) (arena.Batch, error) {
	t.Helper()
	slot, at, err := l.Next(patience)
	if err != nil {
		return arena.Batch{}, err
	}
	mem, err := l.View(slot)
	require.NoError(t, err)
	v := arena.Read(mem, at)
	require.NoError(t, l.Release(slot))
	return v, nil
}

func open(t testing.TB, c *cluster, edit func(*loader.Config)) *loader.Loader {
	t.Helper()
	cfg := loader.Config{Sources: []string{"ss://b/"}, BatchSize: 32, Shuffle: "global", Seed: 1, Timeout: 10 * time.Second, SharedMemory: true, ReadAhead: true}
	if edit != nil {
		edit(&cfg)
	}
	l, err := loader.New(cfg, c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	return l
}

func run(t testing.TB, l *loader.Loader, r loader.Run) []arena.Batch {
	t.Helper()
	require.NoError(t, l.Start(r))
	out, err := drain(t, l)
	require.NoError(t, err)
	return out
}

func keysOf(batches []arena.Batch) (keys []string) {
	for _, b := range batches {
		for i, k := range b.Keys {
			if b.Mask == nil || b.Mask[i] == 1 {
				keys = append(keys, k)
			}
		}
	}
	return keys
}

// planned is the order of the epoch by the sampler alone.
func (c *cluster) planned(epoch uint64) (keys []string) {
	o, err := sampler.NewOrder(c.snap, sampler.Shuffle{Mode: sampler.Global, Seed: 1}, epoch)
	require.NoError(c.t, err)
	for pos := range c.snap.Samples() {
		shard, i := o.At(pos)
		keys = append(keys, keyOf(shard, int(i)))
	}
	return keys
}

func TestEpochArrivesInPlannedOrderWithItsBytes(t *testing.T) {
	for _, mean := range []int{100, 5_000, 90_000} {
		c := newCluster(t, 3).fill(5, 47, mean)
		for _, transport := range []string{loader.TransportTCP, loader.TransportShared} {
			t.Run(fmt.Sprint(mean, " ", transport), func(t *testing.T) {
				l := open(t, c, func(cfg *loader.Config) { cfg.SharedMemory = transport == loader.TransportShared })
				for epoch := range uint64(2) {
					got := run(t, l, loader.Run{Epoch: epoch})
					require.Equal(t, c.planned(epoch), keysOf(got))
					c.checkBytes(t, got, mean)
				}
				for id, target := range l.Stats().Targets {
					require.Equal(t, transport, target.Transport, id)
				}
			})
		}
	}
}

// checkBytes compares every sample with the shard it was made for.
func (c *cluster) checkBytes(t testing.TB, batches []arena.Batch, mean int) {
	t.Helper()
	want := map[string][]byte{}
	for s := range c.snap.NumShards() {
		shard := makeShard(t, s, int(c.snap.Shard(s).Samples), mean)
		for i := range int(c.snap.Shard(s).Samples) {
			want[keyOf(s, i)] = memberOf(t, shard, keyOf(s, i)+".jpg")
		}
	}
	for _, b := range batches {
		for i, k := range b.Keys {
			require.Equal(t, want[k], b.Columns["jpg"].Ragged[i], k)
			require.NotEmpty(t, b.Columns["cls"].Ragged[i])
		}
	}
}

func TestRanksAndWorkersShareOneSequence(t *testing.T) {
	c := newCluster(t, 2).fill(4, 33, 200)
	want := c.planned(3)
	for _, world := range []int{1, 2, 3, 7} {
		for _, workers := range []int{1, 2} {
			t.Run(fmt.Sprintf("%dx%d", world, workers), func(t *testing.T) {
				byStart := map[int64][]string{}
				batches := map[int]int{}
				for rank := range world {
					for worker := range workers {
						l := open(t, c, func(cfg *loader.Config) { cfg.BatchSize = 8 })
						for _, b := range run(t, l, loader.Run{Epoch: 3, Rank: rank, World: world, Worker: worker, Workers: workers}) {
							batches[rank]++
							if k := keysOf([]arena.Batch{b}); len(k) > 0 {
								require.NotContains(t, byStart, b.Start)
								byStart[b.Start] = k
							}
						}
					}
				}
				for rank := range world {
					require.Equal(t, batches[0], batches[rank], "rank %d takes as many steps as rank 0", rank)
				}
				var got []string
				for int64(len(got)) < c.snap.Samples() {
					require.Contains(t, byStart, int64(len(got)))
					got = append(got, byStart[int64(len(got))]...)
				}
				require.Equal(t, want, got)
			})
		}
	}
}

func TestResumeAtEveryCheckpoint(t *testing.T) {
	c := newCluster(t, 2).fill(3, 40, 300)
	want := c.planned(0)
	l := open(t, c, nil)
	first := run(t, l, loader.Run{})
	for i, b := range first {
		for _, world := range []int{1, 3} {
			var got []string
			for rank := range world {
				l := open(t, c, nil)
				rest := run(t, l, loader.Run{Position: b.Next, Rank: rank, World: world, Snapshot: c.snap.ID()})
				if world == 1 {
					require.Equal(t, first[i+1:], renumber(rest, i+1), "bit for bit after batch %d", i)
				}
				got = append(got, keysOf(rest)...)
			}
			require.ElementsMatch(t, want[b.Next:], got)
		}
	}
}

func renumber(batches []arena.Batch, from int) []arena.Batch {
	for i := range batches {
		batches[i].Index += int64(from)
	}
	if len(batches) == 0 {
		return []arena.Batch{}
	}
	return batches
}

func TestSnapshotOfAnotherStateIsRefused(t *testing.T) {
	c := newCluster(t, 1).fill(1, 10, 100)
	l := open(t, c, nil)
	require.NoError(t, l.Start(loader.Run{Snapshot: "0123456789abcdef"}))
	_, err := next(t, l)
	var ae *api.Error
	require.ErrorAs(t, err, &ae)
	require.Equal(t, "snapshot_changed", ae.Code)
}

func TestSlowConsumerBoundsMemory(t *testing.T) {
	c := newCluster(t, 2).fill(4, 64, 2_000)
	l := open(t, c, func(cfg *loader.Config) { cfg.BatchSize, cfg.Prefetch = 8, 2 })
	require.NoError(t, l.Start(loader.Run{}))
	slots := map[int]bool{}
	for {
		slot, _, err := l.Next(patience)
		if errors.Is(err, loader.ErrEnd) {
			break
		}
		require.NoError(t, err)
		slots[slot] = true
		require.NoError(t, l.Release(slot))
	}
	require.LessOrEqual(t, len(slots), 3, "prefetch and one in hand")
}

func TestKeptBatchesGetNewMemory(t *testing.T) {
	c := newCluster(t, 2).fill(2, 64, 500)
	l := open(t, c, func(cfg *loader.Config) { cfg.BatchSize, cfg.Prefetch = 8, 2 })
	require.NoError(t, l.Start(loader.Run{}))
	var slots []int
	var got []string
	for {
		slot, at, err := l.Next(patience)
		if errors.Is(err, loader.ErrEnd) {
			break
		}
		require.NoError(t, err)
		require.NotContains(t, slots, slot)
		slots = append(slots, slot)
		mem, err := l.View(slot)
		require.NoError(t, err)
		got = append(got, arena.Read(mem, at).Keys...)
	}
	require.Equal(t, c.planned(0), got)
	require.Len(t, slots, 16)
	for _, s := range slots {
		require.NoError(t, l.Release(s))
	}
	require.Error(t, l.Release(slots[0]), "a slot is released once")
	require.Equal(t, c.planned(1), keysOf(run(t, l, loader.Run{Epoch: 1})))
}

func TestStopInTheMiddleLeavesNothingRunning(t *testing.T) {
	c := newCluster(t, 2).fill(4, 64, 20_000)
	ignore := goleak.IgnoreCurrent()
	l := open(t, c, func(cfg *loader.Config) { cfg.Prefetch = 1 })
	for range 3 {
		require.NoError(t, l.Start(loader.Run{}))
		_, err := next(t, l)
		require.NoError(t, err)
	}
	require.NoError(t, l.Close())
	require.NoError(t, l.Close())
	_, _, err := l.Next(patience)
	require.ErrorIs(t, err, loader.ErrClosed)
	// The targets' ends find out by themselves that nobody listens.
	goleak.VerifyNone(t, ignore)
}

func TestBadSettings(t *testing.T) {
	c := newCluster(t, 1).fill(1, 4, 100)
	for name, edit := range map[string]func(*loader.Config){
		"sources":    func(c *loader.Config) { c.Sources = nil },
		"batch size": func(c *loader.Config) { c.BatchSize = 0 },
		"shuffle":    func(c *loader.Config) { c.Shuffle = "blender" },
		"on_error":   func(c *loader.Config) { c.OnError = "ignore" },
		"prefetch":   func(c *loader.Config) { c.Prefetch = -1 },
		"timeout":    func(c *loader.Config) { c.Timeout = -1 },
	} {
		cfg := loader.Config{Sources: []string{"ss://b/"}, BatchSize: 1, Shuffle: "none"}
		edit(&cfg)
		_, err := loader.New(cfg, c)
		require.Error(t, err, name)
	}
	l := open(t, c, nil)
	for name, r := range map[string]loader.Run{
		"rank":     {Rank: 2, World: 2},
		"world":    {World: -1},
		"worker":   {Worker: 1, Workers: 1},
		"position": {Position: -1},
	} {
		require.Error(t, l.Start(r), name)
	}
	require.NoError(t, l.Start(loader.Run{Position: 5}))
	_, err := next(t, l)
	require.Error(t, err, "a position past the epoch")
}

func TestNoGatewayIsSaidSoon(t *testing.T) {
	l, err := loader.Connect("http://127.0.0.1:9", "", loader.Config{Sources: []string{"ss://b/"}, BatchSize: 1, Shuffle: "none"})
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	require.NoError(t, l.Start(loader.Run{}))
	_, _, err = l.Next(patience)
	var ae *api.Error
	require.ErrorAs(t, err, &ae, "and long before the timeout of a minute")
	require.Equal(t, api.CodeUnavailable, ae.Code)
	require.Contains(t, ae.Message, "127.0.0.1:9")
}
