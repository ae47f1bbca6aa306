package ahead

import (
	"context"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/shardstream/shardstream/sampler"
	"github.com/shardstream/shardstream/tests/replay"
	"github.com/stretchr/testify/require"
)

// world is a data set whose shards are all of one size, and what of it a target has room for.
type world struct {
	snap   *sampler.Snapshot
	plan   Plan
	room   int // shards
	cached map[object]bool
	reads  int
	future func(bucket, key string) (float64, bool)
}

const (
	simShards  = 600
	simSamples = 50 // of a shard
	simEpochs  = 4
)

func newWorld(t *testing.T, shuffle sampler.Shuffle, room int) *world {
	t.Helper()
	var b sampler.Builder
	for i := range simShards {
		require.NoError(t, b.Add(sampler.Shard{Name: fmt.Sprintf("cold/train-%05d.tar", i), Version: 1, Samples: simSamples}))
	}
	snap, err := b.Snapshot()
	require.NoError(t, err)
	return &world{
		snap: snap, room: room, cached: map[object]bool{},
		plan: Plan{Snapshot: snap, Key: "sim", Of: func(epoch uint64) (sampler.Plan, error) {
			return sampler.NewOrder(snap, shuffle, epoch)
		}},
	}
}

// fetch is what the cache does for an object that is needed now, or ahead of that.
func (w *world) fetch(o object, now bool) error {
	if w.cached[o] {
		return nil
	}
	own, _ := w.future(o.bucket, o.key)
	for len(w.cached) >= w.room {
		victim, last := object{}, 0.0
		for c := range w.cached {
			order, known := w.future(c.bucket, c.key)
			if !known {
				order = math.Inf(1)
			}
			if order > last {
				victim, last = c, order
			}
		}
		if last == 0 || !now && last <= own {
			return ErrNoRoom
		}
		delete(w.cached, victim)
	}
	w.cached[o], w.reads = true, w.reads+1
	return nil
}

// run goes through the epochs with a manager, and returns the fetches of each.
func (w *world) run(t *testing.T, budget int) []int {
	t.Helper()
	m := New(Options{
		Fetch: func(_ context.Context, bucket, key string, _ uint64, _ bool) error {
			return w.fetch(object{bucket, key}, false)
		},
		Stat: func(bucket, key string, _ uint64) (int64, bool, bool) {
			return 1, w.cached[object{bucket, key}], true
		},
		Budget: func(string) (int64, bool) { return int64(budget), true },
		Share:  func() Share { return Share{Map: 1, Mine: func(string, string) bool { return true }} },
		AtOnce: 1,
	})
	w.future = m.NextUse
	now := time.Now()
	look := func() { // as far as the budget lets it go, as if the backend were infinitely fast: the hardest for the cache
		for before := -1; before != w.reads; m.fetches.Wait() {
			before = w.reads
			m.step(t.Context(), now)
		}
	}
	var perEpoch []int
	for epoch := range uint64(simEpochs) {
		before := w.reads
		order, err := w.plan.Of(epoch)
		require.NoError(t, err)
		c := m.Open(w.plan, epoch, 0)
		last := int64(-1)
		for v := range sampler.Visits(order, 0) {
			if v.From != last {
				for pos := max(last, 0); pos < v.From; pos += max(1, (v.From-last)/8) { // in the midst of a visit, too
					c.At(pos)
					look()
				}
				c.At(v.From)
				m.step(t.Context(), now)
				m.fetches.Wait()
				last = v.From
			}
			o := w.object(v.Shard)
			waited := !w.cached[o]
			require.NoError(t, w.fetch(o, true))
			c.Used(o.bucket, o.key, waited)
		}
		c.At(order.Samples())
		look()
		c.Close()
		perEpoch = append(perEpoch, w.reads-before)
	}
	return perEpoch
}

func (w *world) object(shard int) object {
	return object{"cold", w.snap.Shard(shard).Name[len("cold/"):]}
}

// With a cache of 30 % of the data, what is fetched an epoch is close to the optimum, that a cache which knew the whole future
// would come to. Only two epochs are known here, and reading ahead decides early what goes.
func TestFetchesOfAnEpochAreCloseToTheOptimum(t *testing.T) {
	const room = simShards * 3 / 10
	t.Logf("%d shards, a cache of %d, fetches an epoch (without the first)", simShards, room)
	t.Logf("%-28s %6s %6s %6s   %s", "shuffle, read-ahead", "OPT", "ours", "LRU", "ours/OPT, LRU/OPT")
	for _, c := range []struct {
		shuffle sampler.Shuffle
		ahead   int
	}{
		{sampler.Shuffle{Mode: sampler.Window, Slices: 1, Window: 16}, room / 4},
		{sampler.Shuffle{Mode: sampler.Window, Slices: 1, Window: 64}, 1},
		{sampler.Shuffle{Mode: sampler.Window, Slices: 1, Window: 64}, room / 8},
		{sampler.Shuffle{Mode: sampler.Window, Slices: 1, Window: 64}, room / 4},
		{sampler.Shuffle{Mode: sampler.Shards}, room / 4},
	} {
		name := c.shuffle.Mode.String()
		if c.shuffle.Mode == sampler.Window {
			name = fmt.Sprintf("%s of %d", c.shuffle.Mode, c.shuffle.Window)
		}
		name += fmt.Sprintf(", %d ahead", c.ahead)
		w := newWorld(t, c.shuffle, room)
		cache := replay.Cache{Room: room, Epochs: simEpochs, Order: func(epoch uint64) (*sampler.Order, error) {
			return sampler.NewOrder(w.snap, c.shuffle, epoch)
		}}
		optimum, err := cache.Optimum()
		require.NoError(t, err)
		least, err := cache.LRU()
		require.NoError(t, err)
		opt, lru, ours := replay.Steady(optimum), replay.Steady(least), replay.Steady(w.run(t, c.ahead))
		t.Logf("%-28s %6.0f %6.0f %6.0f   %.3f, %.3f", name, opt, ours, lru, ours/opt, lru/opt)
		require.LessOrEqual(t, ours, 1.15*opt, name)
		require.Greater(t, lru, ours, name)
	}
}
