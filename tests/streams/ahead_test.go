package streams_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/loader"
)

// TestNextEpochIsReadAhead: at the end of an epoch the streams of the next are open, and serve it if it is
// what is asked for and nothing has changed since.
func TestNextEpochIsReadAhead(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*cluster)
		next   loader.Run
		want   int // streams of epoch 1 on each target in all
	}{
		"the next epoch":            {next: loader.Run{Epoch: 1}, want: 1},
		"another epoch":             {next: loader.Run{Epoch: 5}, want: 1},
		"a position in the next":    {next: loader.Run{Epoch: 1, Position: 64}, want: 2},
		"another rank":              {next: loader.Run{Epoch: 1, Rank: 1, World: 2}, want: 2},
		"a shard was added":         {next: loader.Run{Epoch: 1}, want: 2, change: func(c *cluster) { c.put("train-9999.tar", makeShard(t, 7, 47, 500)); c.seal() }},
		"the transformation is new": {next: loader.Run{Epoch: 1}, want: 2, change: func(c *cluster) { c.etl++ }},
	} {
		t.Run(name, func(t *testing.T) {
			cl := newCluster(t, 2).fill(5, 47, 500)
			l := open(t, cl, nil)
			run(t, l, loader.Run{})
			deadline := time.Now().Add(patience)
			for cl.streams(1) < len(cl.targets) {
				require.True(t, time.Now().Before(deadline), "the next epoch is not read ahead")
				time.Sleep(time.Millisecond)
			}
			if c.change != nil {
				c.change(cl)
			}
			got := keysOf(run(t, l, c.next))
			if c.next.World == 0 && c.change == nil {
				require.Equal(t, cl.planned(c.next.Epoch)[c.next.Position:], got)
			}
			if c.next.World == 0 {
				require.Len(t, got, int(cl.snap.Samples()-c.next.Position))
			}
			require.Equal(t, c.want*len(cl.targets), cl.streams(1))
		})
	}
}

// TestReadAheadTakesNoMemoryOfItsOwn: it makes do with slots that the epoch at its end does not need.
func TestReadAheadTakesNoMemoryOfItsOwn(t *testing.T) {
	cl := newCluster(t, 2).fill(5, 47, 500)
	l := open(t, cl, func(cfg *loader.Config) { cfg.Prefetch = 2 })
	for epoch := range uint64(4) {
		require.NoError(t, l.Start(loader.Run{Epoch: epoch}))
		var held []int
		for {
			slot, _, err := l.Next(patience)
			if err != nil {
				require.ErrorIs(t, err, loader.ErrEnd)
				break
			}
			require.Less(t, slot, 3, "prefetch and the one in use")
			held = append(held, slot)
			require.NoError(t, l.Release(held[0]))
			held = held[1:]
		}
	}
}

// TestShortEpochsAreAllReadAhead: also those that are read to their end before they are asked for.
func TestShortEpochsAreAllReadAhead(t *testing.T) {
	cl := newCluster(t, 2).fill(2, 20, 500)
	l := open(t, cl, func(cfg *loader.Config) { cfg.Prefetch = 16 })
	for epoch := range uint64(4) {
		require.Equal(t, cl.planned(epoch), keysOf(run(t, l, loader.Run{Epoch: epoch})))
		deadline := time.Now().Add(patience)
		for cl.streams(epoch+1) < len(cl.targets) {
			require.True(t, time.Now().Before(deadline), "epoch %d is not read ahead", epoch+1)
			time.Sleep(time.Millisecond)
		}
		time.Sleep(20 * time.Millisecond) // all of it is read by then, as a rule
	}
}
