package ahead

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/sampler"
)

// bare is a manager over a world whose cache has room for everything, which does nothing by itself.
func (w *world) bare(budget int64, fetch func(key string) error) *Manager {
	return New(Options{
		Fetch: func(_ context.Context, _, key string, _ uint64, _ bool) error { return fetch(key) },
		Stat: func(bucket, key string, _ uint64) (int64, bool, bool) {
			return 1, w.cached[object{bucket, key}], true
		},
		Budget: func(bucket string) (int64, bool) { return budget, bucket == "cold" },
		Share: func() Share {
			return Share{Map: 1, Mine: func(_, key string) bool { return !strings.HasSuffix(key, "7.tar") }}
		},
		AtOnce: 1,
	})
}

// planned are the shards that the target fetches, in the order in which the first epoch comes to them.
func (w *world) planned(t *testing.T) (keys []string) {
	t.Helper()
	order, err := w.plan.Of(0)
	require.NoError(t, err)
	for v := range sampler.Visits(order, 0) {
		if key := w.object(v.Shard).key; !strings.HasSuffix(key, "7.tar") {
			keys = append(keys, key)
		}
	}
	return keys
}

// look goes on until nothing more is fetched.
func (m *Manager) look(t *testing.T, now time.Time, fetched *[]string) {
	t.Helper()
	for before := -1; before != len(*fetched); m.fetches.Wait() {
		before = len(*fetched)
		m.step(t.Context(), now)
	}
}

// The next use of every shard is what walking the order from where the streams are says, in this epoch and the next.
func TestNextUseEqualsAWalk(t *testing.T) {
	for _, shuffle := range []sampler.Shuffle{
		{Mode: sampler.Shards, Seed: 3}, {Mode: sampler.None}, {Mode: sampler.Global, Seed: 3},
	} {
		w := newWorld(t, shuffle, simShards)
		m := w.bare(0, func(string) error { return errors.New("nothing is fetched here") })
		c := m.Open(w.plan, 2, 0)
		order, err := w.plan.Of(2)
		require.NoError(t, err)
		next, err := w.plan.Of(3)
		require.NoError(t, err)
		at := order.Samples() * 3 / 4
		c.At(at)
		m.step(t.Context(), time.Now())
		m.fetches.Wait()
		first := map[int]int64{}
		for pos := at; pos < order.Samples()+next.Samples(); pos++ {
			plan, in := order, pos
			if in >= order.Samples() {
				plan, in = next, in-order.Samples()
			}
			shard, _ := w.snap.Locate(plan.Draw(in).Sample)
			if _, seen := first[shard]; !seen {
				first[shard] = pos - at
			}
		}
		for shard := range simShards {
			o := w.object(shard)
			seconds, known := m.NextUse(o.bucket, o.key)
			require.Equal(t, !strings.HasSuffix(o.key, "7.tar"), known, "of what is this target's")
			if known && shuffle.Mode != sampler.Global {
				// A visit that has begun is needed now, wherever its next sample stands.
				require.LessOrEqual(t, seconds*firstSpeed, float64(first[shard])+0.5)
			} else if known {
				require.InDelta(t, float64(first[shard]), seconds*firstSpeed, 0.5)
			}
		}
		_, known := m.NextUse("cold", "another.tar")
		require.False(t, known)
		c.Close()
	}
}

// Two jobs of one order fetch each shard once, in the order of the plan, as far as the budget reaches; what is used makes room.
func TestFetchesFollowThePlanWithinTheBudget(t *testing.T) {
	w := newWorld(t, sampler.Shuffle{Mode: sampler.Shards, Seed: 9}, simShards)
	var fetched []string
	m := w.bare(3, func(key string) error {
		fetched = append(fetched, key)
		w.cached[object{"cold", key}] = true
		return nil
	})
	one, two := m.Open(w.plan, 0, 0), m.Open(w.plan, 0, 0)
	look := func() { m.look(t, time.Now(), &fetched) }
	planned := w.planned(t)
	look()
	require.Equal(t, planned[:len(fetched)], fetched)
	require.LessOrEqual(t, len(fetched), 5, "what is needed now, and the budget")
	few := len(fetched)
	for _, key := range planned[:few] {
		one.Used("cold", key, false)
	}
	look()
	require.Greater(t, len(fetched), few)
	require.Equal(t, planned[:len(fetched)], fetched)
	one.Close()
	two.Close()
	before := len(fetched)
	look()
	require.Len(t, fetched, before, "nothing is fetched for streams that have ended")
	_, known := m.NextUse("cold", planned[0])
	require.True(t, known, "the next epoch is a good guess")
	m.step(t.Context(), time.Now().Add(2*keepTrack))
	_, known = m.NextUse("cold", planned[0])
	require.False(t, known, "but not for ever")
}

// A shard that can't be fetched is left alone for a while, and holds nothing up.
func TestFailedFetchesAreTriedLater(t *testing.T) {
	w := newWorld(t, sampler.Shuffle{Mode: sampler.Shards, Seed: 9}, simShards)
	tries := map[string]int{}
	m := w.bare(3, func(key string) error {
		if tries[key]++; len(tries) == 1 {
			return errors.New("the backend fails")
		}
		w.cached[object{"cold", key}] = true
		return nil
	})
	c := m.Open(w.plan, 0, 0)
	defer c.Close()
	now := time.Now()
	for range 8 {
		m.step(t.Context(), now)
		m.fetches.Wait()
	}
	require.Greater(t, len(tries), 1)
	for _, n := range tries {
		require.Equal(t, 1, n)
	}
}

// Run ends with its context, and leaves no fetch behind.
func TestRunEnds(t *testing.T) {
	w := newWorld(t, sampler.Shuffle{Mode: sampler.Shards}, simShards)
	began, ended := make(chan struct{}), make(chan struct{})
	m := New(Options{
		Fetch: func(ctx context.Context, _, _ string, _ uint64, _ bool) error {
			close(began)
			<-ctx.Done()
			close(ended)
			return ctx.Err()
		},
		Stat:   func(string, string, uint64) (int64, bool, bool) { return 1, false, true },
		Budget: func(string) (int64, bool) { return 1, true },
		Share:  func() Share { return Share{Map: 1, Mine: func(string, string) bool { return true }} },
		AtOnce: 1,
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		m.Run(ctx)
		close(done)
	}()
	defer m.Open(w.plan, 0, 0).Close()
	<-began
	cancel()
	<-done
	select {
	case <-ended:
	default:
		require.Fail(t, "a fetch is under way")
	}
}
