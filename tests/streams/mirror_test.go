package streams_test

import (
	"bytes"
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/placement"
	"github.com/shardstream/shardstream/cluster/stream"
	"github.com/shardstream/shardstream/core/archive"
	"github.com/shardstream/shardstream/core/store"
	"github.com/shardstream/shardstream/loader"
	"github.com/shardstream/shardstream/sampler"
	"github.com/shardstream/shardstream/tests/arena"
)

// mirrored is a cluster whose shards lie where the map puts so many copies of each.
type mirrored struct {
	*cluster
	copies int
}

func newMirrored(t testing.TB, targets, copies, shards, samples, mean int) *mirrored {
	t.Helper()
	c := &mirrored{newCluster(t, targets), copies}
	c.agree(func(m *api.Map) {
		for _, tg := range c.targets {
			m.Nodes = append(m.Nodes, api.Node{ID: tg.id, Role: api.RoleTarget, State: api.StateOK, Weight: 1})
		}
	})
	for i := range shards {
		c.putCopies(fmt.Sprintf("train-%04d.tar", i), makeShard(t, i, samples, mean))
	}
	c.seal()
	return c
}

// agree makes the next version of the map, which all targets go by at once.
func (c *mirrored) agree(change func(m *api.Map)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var m api.Map
	if c.placer != nil {
		m = c.placer.Map
		m.Nodes = slices.Clone(m.Nodes)
	}
	before := api.Epoch{Version: m.Since}
	for _, n := range m.Nodes {
		before.Targets = append(before.Targets, api.Member{ID: n.ID, Weight: n.Weight, Away: n.Away, Draining: n.Draining})
	}
	if m.Version++; len(before.Targets) > 0 {
		m.Former = append([]api.Epoch{before}, m.Former...)
	}
	m.Since = m.Version
	change(&m)
	c.placer = api.NewPlacer(m)
	for _, tg := range c.targets {
		if tg.srv.Share != nil {
			continue
		}
		tg.srv.Share = func() *stream.Share {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.shareOf(c.placer, tg.id)
		}
	}
}

func (c *mirrored) shareOf(p *api.Placer, self string) *stream.Share {
	return &stream.Share{Map: p.Map.Version, Role: func(bucket, name string) stream.Role {
		return stream.RoleOf(p.Plan(bucket, name, c.copies), self)
	}}
}

// settle takes the earlier sets of targets out of the map: all shards are where it puts them.
func (c *mirrored) settle() { c.agree(func(m *api.Map) { m.Former = nil }) }

func (c *mirrored) setAway(id string, away bool) {
	c.agree(func(m *api.Map) {
		i := slices.IndexFunc(m.Nodes, func(n api.Node) bool { return n.ID == id })
		m.Nodes[i].Away = away
	})
}

func (c *mirrored) list(name string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	plan := c.placer.Plan("b", name, c.copies)
	return plan.Copies
}

func (c *mirrored) named(id string) *target {
	return c.targets[slices.IndexFunc(c.targets, func(tg *target) bool { return tg.id == id })]
}

func (c *mirrored) putCopies(name string, data []byte) {
	c.t.Helper()
	version := placement.FirstVersion(1) + uint64(len(c.shards))
	var info store.Info
	for _, id := range c.list(name) {
		info = c.putOn(c.named(id), name, data, version)
	}
	c.shards = append(c.shards, sampler.Shard{Name: "b/" + name, Version: version, Samples: info.Samples})
}

func (c *mirrored) putOn(tg *target, name string, data []byte, version uint64) store.Info {
	c.t.Helper()
	info, err := tg.store.Put(c.t.Context(), "b", name, bytes.NewReader(data), store.PutOptions{
		Size: int64(len(data)), Archive: archive.FormatOf(name), Version: version, Created: time.Now(),
	})
	require.NoError(c.t, err)
	return info
}

// heal brings every shard to where the map puts it, and removes it elsewhere, as rebalance does.
func (c *mirrored) heal(shards, samples, mean int) {
	c.t.Helper()
	for i := range shards {
		name := fmt.Sprintf("train-%04d.tar", i)
		list, data := c.list(name), []byte(nil)
		for _, tg := range c.targets {
			_, err := tg.store.Stat("b", name)
			switch belongs := slices.Contains(list, tg.id); {
			case belongs && err != nil:
				if data == nil {
					data = makeShard(c.t, i, samples, mean)
				}
				c.putOn(tg, name, data, c.shards[i].Version)
			case !belongs && err == nil:
				require.NoError(c.t, tg.store.Drop(c.t.Context(), "b", name, c.shards[i].Version))
			}
		}
	}
}

// sent is how many samples all targets sent to a loader.
func sent(l *loader.Loader) (n int64) {
	for _, s := range l.Stats().Targets {
		n += s.Samples
	}
	return n
}

// reading iterates and calls at before each batch; it returns the longest wait for one.
func reading(t *testing.T, l *loader.Loader, at func(batch int)) (got []arena.Batch, longest time.Duration) {
	t.Helper()
	require.NoError(t, l.Start(loader.Run{}))
	for {
		at(len(got))
		began := time.Now()
		b, err := next(t, l)
		if err != nil {
			require.ErrorIs(t, err, loader.ErrEnd)
			return got, longest
		}
		longest = max(longest, time.Since(began))
		got = append(got, b)
	}
}

func (c *mirrored) check(t *testing.T, got []arena.Batch, mean int) {
	t.Helper()
	require.Equal(t, c.planned(0), keysOf(got))
	c.checkBytes(t, got, mean)
}

// throttle keeps sockets from holding an epoch.
func (c *mirrored) throttle() {
	for _, tg := range c.targets {
		tg.setWrap(func(nc net.Conn) net.Conn {
			if tcp, ok := nc.(*net.TCPConn); ok {
				_ = tcp.SetWriteBuffer(64 << 10)
			}
			return nc
		})
	}
}

func TestMirroredShardsAreSentOnce(t *testing.T) {
	c := newMirrored(t, 4, 3, 12, 40, 2_000)
	l := open(t, c.cluster, nil)
	got, _ := reading(t, l, func(int) {})
	c.check(t, got, 2_000)
	require.EqualValues(t, 12*40, sent(l), "each by its primary")
	require.Zero(t, l.Stats().Retries)
}

// TestEpochGoesOnWithoutATarget: a target dies in mid-epoch for good. Others have its shards, and are asked for what it
// had not sent, whether or not the cluster has noticed.
func TestEpochGoesOnWithoutATarget(t *testing.T) {
	const shards, samples, mean = 12, 48, 60_000
	for _, noticed := range []bool{false, true} {
		for _, shared := range []bool{false, true} {
			t.Run(fmt.Sprintf("noticed %v, shared memory %v", noticed, shared), func(t *testing.T) {
				c := newMirrored(t, 4, 2, shards, samples, mean)
				c.throttle()
				l := open(t, c.cluster, func(cfg *loader.Config) { cfg.SharedMemory, cfg.Prefetch = shared, 2 })
				got, gap := reading(t, l, func(batch int) {
					if batch == 3 {
						c.targets[1].stop()
					}
					if batch == 6 && noticed {
						c.setAway("target-2", true)
					}
				})
				c.check(t, got, mean)
				t.Logf("longest wait for a batch: %v", gap)
			})
		}
	}
}

// TestATargetThatComesBackIsReadAgain: one that was away, from the start or since, sends its part once it is back.
func TestATargetThatComesBackIsReadAgain(t *testing.T) {
	const mean = 60_000
	c := newMirrored(t, 3, 2, 12, 48, mean)
	c.throttle()
	c.targets[0].stop()
	c.setAway("target-1", true)
	l := open(t, c.cluster, func(cfg *loader.Config) { cfg.Prefetch, cfg.SharedMemory = 2, false })
	back := func() bool { return l.Stats().Targets["target-1"].Samples > 0 }
	got, _ := reading(t, l, func(batch int) {
		switch batch {
		case 4:
			require.False(t, back())
			c.targets[0].start()
			c.setAway("target-1", false)
			c.settle()
		case 8:
			// The pullers of the others wait for room; it has all the time to connect.
			require.Eventually(t, func() bool {
				c.targets[0].mu.Lock()
				defer c.targets[0].mu.Unlock()
				return len(c.targets[0].opened) > 0
			}, patience, time.Millisecond)
		}
	})
	c.check(t, got, mean)
	require.True(t, back())
}

// TestOneCopyWaitsForItsTarget: what nobody else has is waited for.
func TestOneCopyWaitsForItsTarget(t *testing.T) {
	const mean = 60_000
	c := newMirrored(t, 3, 1, 9, 48, mean)
	c.throttle()
	l := open(t, c.cluster, func(cfg *loader.Config) { cfg.Prefetch = 2 })
	got, gap := reading(t, l, func(batch int) {
		if batch == 3 {
			c.targets[1].stop()
			time.AfterFunc(300*time.Millisecond, c.targets[1].start)
		}
	})
	c.check(t, got, mean)
	t.Logf("longest wait for a batch: %v", gap)
}

// mute is a connection whose target hangs, once stuck is closed, until the other end gives up.
type mute struct {
	net.Conn
	stuck, done <-chan struct{}
}

func (m *mute) Write(p []byte) (int, error) {
	select {
	case <-m.stuck:
		<-m.done
		return 0, net.ErrClosed
	default:
		return m.Conn.Write(p)
	}
}

// TestAHungTargetIsGivenUpWithTheCluster: a target that hangs, its connections open, is waited for only until the map
// says that it is away.
func TestAHungTargetIsGivenUpWithTheCluster(t *testing.T) {
	const mean = 60_000
	c := newMirrored(t, 3, 2, 12, 48, mean)
	c.throttle()
	stuck := make(chan struct{})
	c.targets[2].setWrap(func(nc net.Conn) net.Conn {
		if tcp, ok := nc.(*net.TCPConn); ok {
			_ = tcp.SetWriteBuffer(64 << 10)
		}
		return &mute{nc, stuck, t.Context().Done()}
	})
	l := open(t, c.cluster, func(cfg *loader.Config) { cfg.Prefetch, cfg.SharedMemory, cfg.Timeout = 2, false, time.Minute })
	got, gap := reading(t, l, func(batch int) {
		if batch == 3 {
			close(stuck)
			time.AfterFunc(200*time.Millisecond, func() { c.setAway("target-3", true) })
		}
	})
	c.check(t, got, mean)
	require.Less(t, gap, time.Minute, "it was not waited for")
	t.Logf("longest wait for a batch: %v", gap)
}

// TestADamagedCopyIsNotTheLast: a sample that its primary can't read is taken from another target, however it is asked for.
func TestADamagedCopyIsNotTheLast(t *testing.T) {
	const mean = 3_000
	c := newMirrored(t, 3, 2, 6, 40, mean)
	primary := c.named(c.list("train-0002.tar")[0])
	damageOn(t, primary, "train-0002.tar", keyOf(2, 7)+".jpg")
	l := open(t, c.cluster, nil)
	got, _ := reading(t, l, func(int) {})
	c.check(t, got, mean)
	require.Positive(t, l.Stats().Retries)
}

// TestShardsMoveUnderAStream: targets join and leave while an epoch is read, and shards move for good, their old copies
// removed.
func TestShardsMoveUnderAStream(t *testing.T) {
	const shards, samples, mean = 12, 64, 60_000
	for _, copies := range []int{1, 2} {
		t.Run(fmt.Sprintf("%d copies", copies), func(t *testing.T) {
			c := newMirrored(t, 3, copies, shards, samples, mean)
			c.throttle()
			l := open(t, c.cluster, func(cfg *loader.Config) { cfg.Prefetch, cfg.SharedMemory = 2, false })
			got, gap := reading(t, l, func(batch int) {
				switch batch {
				case 3:
					c.mu.Lock()
					c.join()
					c.mu.Unlock()
					c.seal()
					c.agree(func(m *api.Map) {
						m.Nodes = append(m.Nodes, api.Node{ID: "target-4", Role: api.RoleTarget, State: api.StateOK, Weight: 1})
					})
					c.throttle()
				case 6:
					c.heal(shards, samples, mean)
					c.settle()
				case 10:
					c.agree(func(m *api.Map) { m.Nodes[0].Draining = true })
				case 13:
					c.heal(shards, samples, mean)
					c.settle()
				}
			})
			c.check(t, got, mean)
			t.Logf("longest wait for a batch: %v; %d of %d samples came twice", gap, sent(l)-shards*samples, shards*samples)
			require.Positive(t, l.Stats().Targets["target-4"].Samples, "what moved comes from its new home")
		})
	}
}
