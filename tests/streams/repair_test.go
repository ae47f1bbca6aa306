package streams_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/stream"
	"github.com/shardstream/shardstream/loader"
)

// TestShardsLostAheadOfTheWindow: batches that no target holds a sample of come up only after the
// consumer has made room for them. They are an error that says so, not a wait without an end.
func TestShardsLostAheadOfTheWindow(t *testing.T) {
	for name, lost := range map[string]int{"in the middle": 1, "at the end": 2} {
		for _, prefetch := range []int{1, 4} {
			t.Run(fmt.Sprintf("%s, prefetch %d", name, prefetch), func(t *testing.T) {
				c := newCluster(t, 3).fill(3, 64, 200)
				require.NoError(t, c.targets[lost].store.Delete(t.Context(), "b", fmt.Sprintf("train-%04d.tar", lost), noCondition))
				l := open(t, c, func(cfg *loader.Config) {
					cfg.Shuffle, cfg.BatchSize, cfg.Prefetch, cfg.Timeout = "none", 8, prefetch, time.Second
				})
				require.NoError(t, l.Start(loader.Run{}))
				for range 8 * lost {
					_, err := next(t, l)
					require.NoError(t, err)
					time.Sleep(20 * time.Millisecond) // as a trainer does, while the window fills
				}
				_, _, err := l.Next(10 * time.Second)
				require.ErrorContains(t, err, "no target holds them")
			})
		}
	}
}

// forgetful is a cluster whose targets lose the snapshot right after a stream was opened for the first time.
type forgetful struct {
	*cluster
	mu     sync.Mutex
	opened int
}

func (f *forgetful) OpenStream(ctx context.Context, req api.StreamRequest) (api.StreamInfo, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.opened++; f.opened > 1 {
		f.seal()
	}
	return f.cluster.OpenStream(ctx, req)
}

// forget leaves every target without snapshots.
func (c *cluster) forget() {
	c.t.Helper()
	for _, tg := range c.targets {
		fresh, err := stream.NewSnapshots(c.t.TempDir(), func(context.Context, string) ([]byte, error) {
			return nil, api.Errorf(404, api.CodeNoSnapshot, "nobody has it")
		})
		require.NoError(c.t, err)
		tg.srv.Snapshots = fresh
	}
}

func TestLostSnapshotIsMadeAgain(t *testing.T) {
	t.Run("same", func(t *testing.T) {
		c := newCluster(t, 2).fill(3, 40, 200)
		c.forget()
		f := &forgetful{cluster: c}
		l, err := loader.New(loader.Config{Sources: []string{"ss://b/"}, BatchSize: 32, Shuffle: "global", Seed: 1, Timeout: 5 * time.Second}, f)
		require.NoError(t, err)
		defer func() { require.NoError(t, l.Close()) }()
		require.Equal(t, c.planned(0), keysOf(run(t, l, loader.Run{})))
		require.Greater(t, f.opened, 1)
	})
	t.Run("of other shards", func(t *testing.T) {
		c := newCluster(t, 1).fill(2, 40, 200)
		c.forget()
		f := &forgetful{cluster: c}
		l, err := loader.New(loader.Config{Sources: []string{"ss://b/"}, BatchSize: 32, Shuffle: "global", Timeout: 5 * time.Second}, f)
		require.NoError(t, err)
		defer func() { require.NoError(t, l.Close()) }()
		c.shards = c.shards[:1:1]
		require.NoError(t, l.Start(loader.Run{}))
		_, err = drain(t, l)
		require.ErrorContains(t, err, "the sources changed")
		code, _ := loader.Describe(err)
		require.Equal(t, "snapshot_changed", code)
	})
}

func TestNextEndsWithItsIteration(t *testing.T) {
	for name, end := range map[string]func(*loader.Loader) error{
		"close":   (*loader.Loader).Close,
		"restart": func(l *loader.Loader) error { return l.Start(loader.Run{Epoch: 1}) },
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, 1).fill(1, 10, 100)
			c.forget() // so that nothing comes
			l := open(t, c, nil)
			require.NoError(t, l.Start(loader.Run{}))
			failed := make(chan error, 1)
			go func() {
				_, _, err := l.Next(patience)
				failed <- err
			}()
			var err error
			require.Eventually(t, func() bool {
				require.NoError(t, end(l)) // again: Next may begin only after the first
				select {
				case err = <-failed:
					return true
				default:
					return false
				}
			}, patience, 5*time.Millisecond)
			code, _ := loader.Describe(err)
			require.Equal(t, "closed", code)
		})
	}
}
