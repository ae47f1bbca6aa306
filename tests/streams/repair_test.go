package streams_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

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
