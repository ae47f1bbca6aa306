package streams_test

import (
	"fmt"
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/core/store"
	"github.com/shardstream/shardstream/loader"
	"github.com/shardstream/shardstream/tests/arena"
)

// homes says which target serves a shard, wherever its file lies: what a rebalance changes.
type homes struct {
	mu    sync.Mutex
	files map[string]*store.Store
	owner map[string]*target
}

// shelf is a target's view of its homes.
type shelf struct {
	homes *homes
	tg    *target
}

func (s shelf) Open(bucket, name string) (*store.Object, error) {
	s.homes.mu.Lock()
	defer s.homes.mu.Unlock()
	if s.homes.owner[name] != s.tg {
		return nil, store.ErrNotFound
	}
	return s.homes.files[name].Open(bucket, name)
}

// settle lets shards move between the targets of c.
func (c *cluster) settle() *homes {
	h := &homes{files: map[string]*store.Store{}, owner: map[string]*target{}}
	for i := range c.shards {
		tg, name := c.targets[i%len(c.targets)], fmt.Sprintf("train-%04d.tar", i)
		h.files[name], h.owner[name] = tg.store, tg
	}
	for _, tg := range c.targets {
		tg.srv.Objects = shelf{h, tg}
	}
	return h
}

// TestTargetsJoinInMidEpoch: while an epoch is read, new targets appear in the map and shards move to
// them. A loader that began before they were there finds them, and the epoch is the planned one.
func TestTargetsJoinInMidEpoch(t *testing.T) {
	for _, one := range []struct {
		shuffle string
		cut     bool
	}{{"global", true}, {"shards", true}, {"global", false}} {
		t.Run(fmt.Sprintf("%s, connections cut %v", one.shuffle, one.cut), func(t *testing.T) {
			c := newCluster(t, 2).fill(8, 48, 120_000) // far more than sockets hold
			for _, tg := range c.targets {
				tg.setWrap(func(nc net.Conn) net.Conn {
					if tcp, ok := nc.(*net.TCPConn); ok {
						_ = tcp.SetWriteBuffer(64 << 10)
					}
					return nc
				})
			}
			h := c.settle()
			want := run(t, open(t, c, func(cfg *loader.Config) { cfg.Shuffle = one.shuffle }), loader.Run{})

			l := open(t, c, func(cfg *loader.Config) { cfg.Shuffle, cfg.Prefetch = one.shuffle, 1 })
			require.NoError(t, l.Start(loader.Run{}))
			var got []arena.Batch
			for len(got) < len(want) {
				if len(got) == 3 {
					c.grow(h, one.cut)
				}
				b, err := next(t, l)
				require.NoError(t, err)
				got = append(got, b)
			}
			_, err := next(t, l)
			require.ErrorIs(t, err, loader.ErrEnd)
			require.Equal(t, want, got)
			if one.cut {
				sent := l.Stats().Targets
				require.Positive(t, sent["target-3"].Samples+sent["target-4"].Samples, "what moved comes from its new home")
			}
		})
	}
}

// grow adds two targets, moves every other shard to them, and cuts the streams where asked to.
func (c *cluster) grow(h *homes, cut bool) {
	c.t.Helper()
	old := c.targets
	c.mu.Lock()
	for range 2 {
		tg := c.join()
		tg.srv.Objects = shelf{h, tg}
	}
	joined := c.targets[len(old):]
	c.mu.Unlock()
	c.seal()
	h.mu.Lock()
	for i := range c.shards {
		if i%4 >= 2 {
			h.owner[fmt.Sprintf("train-%04d.tar", i)] = joined[i%2]
		}
	}
	h.mu.Unlock()
	if !cut {
		return
	}
	for _, tg := range old {
		tg.stop()
		tg.start()
	}
}
