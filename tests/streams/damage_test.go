package streams_test

import (
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/stream"
	"github.com/shardstream/shardstream/core/store"
	"github.com/shardstream/shardstream/core/wire"
	"github.com/shardstream/shardstream/loader"
)

// cutter closes a connection after some bytes, in the middle of whatever was under way.
type cutter struct {
	net.Conn
	left int64
}

func (c *cutter) Write(p []byte) (int, error) {
	if int64(len(p)) > c.left {
		n, _ := c.Conn.Write(p[:c.left])
		_ = c.Conn.Close()
		return n, io.ErrClosedPipe
	}
	c.left -= int64(len(p))
	return c.Conn.Write(p)
}

func TestCutConnectionsChangeNothing(t *testing.T) {
	c := newCluster(t, 3).fill(6, 60, 3_000)
	var cuts atomic.Int64
	for i, tg := range c.targets {
		budget := int64(10_000 * (i + 1))
		tg.setWrap(func(nc net.Conn) net.Conn {
			// Each connection lives longer than the last, so that every place is cut and all ends.
			return &cutter{Conn: nc, left: budget + 40_000*cuts.Add(1)}
		})
	}
	l := open(t, c, nil)
	got := run(t, l, loader.Run{})
	require.Equal(t, c.planned(0), keysOf(got))
	c.checkBytes(t, got, 3_000)
	require.Greater(t, l.Stats().Retries, int64(3))
}

// flipper changes one byte in every so many.
type flipper struct {
	net.Conn
	at    int64
	every int64
}

func (f *flipper) Write(p []byte) (int, error) {
	q := append([]byte(nil), p...)
	for i := range q {
		if f.at++; f.at%f.every == 0 {
			q[i] ^= 0x10
		}
	}
	return f.Conn.Write(q)
}

func TestFlippedBytesOnTheWireNeverArrive(t *testing.T) {
	c := newCluster(t, 2).fill(4, 50, 3_000)
	c.targets[0].setWrap(func(nc net.Conn) net.Conn { return &flipper{Conn: nc, every: 60_013} })
	l := open(t, c, nil)
	got := run(t, l, loader.Run{})
	require.Equal(t, c.planned(0), keysOf(got))
	c.checkBytes(t, got, 3_000)
	require.Positive(t, l.Stats().Retries)
}

// damage flips a byte in the middle of a member and returns the block that it lies in.
func (c *cluster) damage(t testing.TB, shard int, member string) (block int64) {
	t.Helper()
	return damageOn(t, c.targets[shard%len(c.targets)], fmt.Sprintf("train-%04d.tar", shard), member)
}

func damageOn(t testing.TB, tg *target, name, member string) (block int64) {
	t.Helper()
	o, err := tg.store.Open("b", name)
	require.NoError(t, err)
	defer o.Close()
	x, err := o.Index()
	require.NoError(t, err)
	m, ok := x.Lookup(member)
	require.True(t, ok)
	at := m.Offset + m.Size/2

	_, files, err := tg.store.Locate("b", name)
	require.NoError(t, err)
	f, err := os.OpenFile(files[0], os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	var b [1]byte
	_, err = f.ReadAt(b[:], at)
	require.NoError(t, err)
	b[0] ^= 1
	_, err = f.WriteAt(b[:], at)
	require.NoError(t, err)
	return at >> 16
}

func TestDamagedSampleIsNamed(t *testing.T) {
	for _, mean := range []int{2_000, 90_000} {
		t.Run(fmt.Sprint(mean), func(t *testing.T) {
			c := newCluster(t, 2).fill(4, 20, mean)
			block := c.damage(t, 2, keyOf(2, 7)+".jpg")

			l := open(t, c, nil)
			require.NoError(t, l.Start(loader.Run{}))
			_, err := drain(t, l)
			var se *loader.SampleError
			require.ErrorAs(t, err, &se)
			require.Equal(t, api.CodeCorrupt, se.Code)
			require.Contains(t, se.Message, "train-0002.tar")
			require.Contains(t, se.Message, fmt.Sprintf("block %d", block))

			skipping := open(t, c, func(cfg *loader.Config) { cfg.OnError = loader.Skip })
			got := run(t, skipping, loader.Run{})
			require.Equal(t, []string{keyOf(2, 7)}, skipping.Stats().SkippedKeys)
			require.Len(t, keysOf(got), int(c.snap.Samples())-1)
			require.NotContains(t, keysOf(got), keyOf(2, 7))
			c.checkBytes(t, got, mean)
		})
	}
}

func TestMissingAndChangedShards(t *testing.T) {
	t.Run("deleted", func(t *testing.T) {
		c := newCluster(t, 2).fill(3, 20, 200)
		require.NoError(t, c.targets[1].store.Delete(t.Context(), "b", "train-0001.tar", noCondition))
		l := open(t, c, func(cfg *loader.Config) { cfg.Timeout = time.Second })
		require.NoError(t, l.Start(loader.Run{}))
		_, err := drain(t, l)
		require.ErrorContains(t, err, "no target holds them")
	})
	t.Run("overwritten", func(t *testing.T) {
		c := newCluster(t, 2).fill(3, 20, 200)
		snap := c.snap
		c.shards = c.shards[:1]
		c.put("train-0001.tar", makeShard(t, 9, 20, 200))
		c.snap = snap
		l := open(t, c, nil)
		require.NoError(t, l.Start(loader.Run{}))
		_, err := drain(t, l)
		require.ErrorContains(t, err, "overwritten")
	})
	t.Run("target away", func(t *testing.T) {
		c := newCluster(t, 2).fill(3, 20, 200)
		c.targets[0].stop()
		l := open(t, c, func(cfg *loader.Config) { cfg.Timeout = time.Second })
		require.NoError(t, l.Start(loader.Run{}))
		_, err := drain(t, l)
		require.ErrorContains(t, err, "no progress from target-1")
	})
}

// babbler answers the handshake and then anything at all.
type babbler struct {
	net.Conn
	random *rand.Rand
	frame  bool // begin with headers that look right
}

func (b *babbler) Write([]byte) (int, error) {
	p := make([]byte, 4096)
	for i := range p {
		p[i] = byte(b.random.Uint32())
	}
	if b.frame {
		head := p[:b.random.IntN(100)]
		p = append(wire.AppendHeader(nil, wire.FrameType(1+b.random.IntN(4)), head, b.random.Int64N(1<<20)), head...)
	}
	if _, err := b.Conn.Write(p); err != nil {
		return 0, err
	}
	return 0, io.ErrClosedPipe
}

func TestRandomBytesAreACleanErrorWithinBounds(t *testing.T) {
	c := newCluster(t, 1).fill(1, 10, 100)
	for seed := range uint64(20) {
		c.targets[0].setWrap(func(nc net.Conn) net.Conn {
			return &babbler{Conn: nc, random: rand.New(rand.NewPCG(seed, 0)), frame: seed%2 == 0}
		})
		l := open(t, c, func(cfg *loader.Config) { cfg.Timeout = time.Second })
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		require.NoError(t, l.Start(loader.Run{}))
		_, err := next(t, l)
		require.Error(t, err)
		require.NotErrorIs(t, err, loader.ErrEnd)
		runtime.ReadMemStats(&after)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(16<<20), "a claimed length is not believed")
	}
}

// crowded is a store of a node that has no descriptor left for a while.
type crowded struct {
	stream.Objects
	refusals atomic.Int64 // to come
}

func (o *crowded) Open(bucket, name string) (*store.Object, error) {
	if o.refusals.Add(-1) >= 0 {
		return nil, &fs.PathError{Op: "open", Path: name, Err: unix.EMFILE}
	}
	return o.Objects.Open(bucket, name)
}

// TestACrowdedNodeLosesNoSamples: that a shard can't be opened for want of descriptors is no fault of its
// samples, which are not left out for it.
func TestACrowdedNodeLosesNoSamples(t *testing.T) {
	c := newCluster(t, 2).fill(4, 30, 2_000)
	o := &crowded{Objects: c.targets[0].srv.Objects}
	o.refusals.Store(3)
	c.targets[0].srv.Objects = o
	l := open(t, c, func(cfg *loader.Config) { cfg.OnError = loader.Skip })
	require.Equal(t, c.planned(0), keysOf(run(t, l, loader.Run{})))
	require.Zero(t, l.Stats().Skipped)
}
