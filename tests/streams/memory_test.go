package streams_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/stream"
	"github.com/shardstream/shardstream/core/wire"
	"github.com/shardstream/shardstream/loader"
)

// budget gives every target so much memory for its streams.
func (c *cluster) budget(total int64, stall time.Duration) {
	for _, tg := range c.targets {
		tg.srv.Budget = stream.NewBudget(total)
		tg.srv.Budget.Stall = stall
	}
}

// watch polls the budgets until stop is called, which returns the most that any of them had taken.
func (c *cluster) watch() (stop func() int64) {
	done, most := make(chan struct{}), make(chan int64)
	go func() {
		var peak int64
		for {
			for _, tg := range c.targets {
				peak = max(peak, tg.srv.Budget.Used())
			}
			select {
			case <-done:
				most <- peak
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	return func() int64 {
		close(done)
		return <-most
	}
}

// requireReturned: what streams took is given back when they have ended.
func (c *cluster) requireReturned(t *testing.T) {
	t.Helper()
	for _, tg := range c.targets {
		require.Eventually(t, func() bool { return tg.srv.Budget.Used() == 0 }, patience, time.Millisecond)
	}
}

// TestTransformedStreamsShareLittleMemory: eight readers of transformed batches share room for two of them on
// each of two targets. Each waits at one target for what another holds at the other, so that
// nothing but order keeps them from locking up; every one gets its whole epoch.
func TestTransformedStreamsShareLittleMemory(t *testing.T) {
	for _, transport := range transports {
		t.Run(transport, func(t *testing.T) { shareLittleMemory(t, transport == "shared") })
	}
}

func shareLittleMemory(t *testing.T, shared bool) {
	c := newCluster(t, 2).fill(6, 32, 60_000)
	c.deploy("def transform(sample): return sample")
	const total = 13 << 20
	c.budget(total, 300*time.Millisecond)
	want := map[uint64][]string{}
	for epoch := range uint64(8) {
		want[epoch] = c.planned(epoch)
	}
	stop := c.watch()
	var readers sync.WaitGroup
	for epoch, keys := range want {
		l := open(t, c, func(cfg *loader.Config) {
			withETL(cfg)
			cfg.BatchSize, cfg.Prefetch, cfg.Timeout, cfg.SharedMemory, cfg.ReadAhead = 48, 1, time.Minute, shared, false
		})
		readers.Go(func() {
			if err := l.Start(loader.Run{Epoch: epoch}); err != nil {
				t.Error(err)
				return
			}
			got, err := drain(t, l)
			if err != nil {
				t.Errorf("epoch %d: %v", epoch, err)
			}
			if k := keysOf(got); fmt.Sprint(k) != fmt.Sprint(keys) {
				t.Errorf("epoch %d has %d samples, in another order than planned", epoch, len(k))
			}
		})
	}
	readers.Wait()
	require.LessOrEqual(t, stop(), int64(total))
	c.requireReturned(t)
}

// upgrade opens a stream by hand and returns its connection.
func (c *cluster) upgrade(t testing.TB, tg *target, req wire.ReadRequest) net.Conn {
	t.Helper()
	nc, err := net.Dial("tcp", tg.addr())
	require.NoError(t, err)
	t.Cleanup(func() { _ = nc.Close() })
	body, err := json.Marshal(req)
	require.NoError(t, err)
	_, err = fmt.Fprintf(nc, "POST /v1/streams/%s/read HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: shardstream/1\r\nContent-Length: %d\r\n\r\n%s", c.snap.ID(), len(body), body)
	require.NoError(t, err)
	answer := make([]byte, len("HTTP/1.1 101"))
	_, err = io.ReadFull(nc, answer)
	require.NoError(t, err)
	require.Equal(t, "HTTP/1.1 101", string(answer))
	return nc
}

// TestStalledReadersGiveWay: clients that have asked for transformed batches and read nothing hold all of
// the memory. A reader that comes then gets its epoch all the same, within the cap.
func TestStalledReadersGiveWay(t *testing.T) {
	c := newCluster(t, 1).fill(2, 64, 100_000)
	c.deploy("def transform(sample): return sample")
	c.giveWay(t, wire.ReadRequest{ETL: "f"})
}

// TestStalledReadersOfFilesGiveWay: so do they where they stall in what comes from the page cache, with what
// was decoded beside it in memory.
func TestStalledReadersOfFilesGiveWay(t *testing.T) {
	c := newCluster(t, 1)
	for shard := range 2 {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		for i := range 64 {
			for _, field := range []string{"file", "memory"} {
				require.NoError(t, w.WriteHeader(&tar.Header{Name: keyOf(shard, i) + "." + field, Mode: 0o644, Size: 100_000}))
				_, err := w.Write(make([]byte, 100_000))
				require.NoError(t, err)
			}
		}
		require.NoError(t, w.Close())
		c.put(fmt.Sprintf("train-%04d.tar", shard), buf.Bytes())
	}
	c.seal()
	c.giveWay(t, wire.ReadRequest{Decode: map[string]any{"memory": "bytes"}})
}

func (c *cluster) giveWay(t *testing.T, req wire.ReadRequest) {
	t.Helper()
	const total = 64 << 20
	c.budget(total, 100*time.Millisecond)
	stop := c.watch()
	req.Seed, req.Shuffle, req.BatchSize, req.World, req.Workers, req.To, req.Chunk = 1, "global", 64, 1, 1, 2, 16
	for range 12 {
		nc := c.upgrade(t, c.targets[0], req)
		require.NoError(t, nc.(*net.TCPConn).SetReadBuffer(4096))
	}
	used := c.targets[0].srv.Budget
	require.Eventually(t, func() bool { return used.Used() > total*2/5 }, patience, time.Millisecond)
	got := run(t, open(t, c, func(cfg *loader.Config) {
		cfg.ETL, cfg.Decode, cfg.BatchSize, cfg.Timeout = req.ETL, req.Decode, 64, time.Minute
	}), loader.Run{})
	require.Equal(t, c.planned(0), keysOf(got))
	require.Positive(t, used.Evictions())
	require.LessOrEqual(t, stop(), int64(total))
}

// TestBatchLargerThanTheBudgetIsRefused by a message that says what to do.
func TestBatchLargerThanTheBudgetIsRefused(t *testing.T) {
	c := newCluster(t, 1).fill(1, 64, 100_000)
	c.deploy("def transform(sample): return sample")
	c.budget(4<<20, time.Second)
	l := open(t, c, func(cfg *loader.Config) { withETL(cfg); cfg.BatchSize = 64 })
	require.NoError(t, l.Start(loader.Run{}))
	_, err := drain(t, l)
	require.ErrorContains(t, err, "choose a smaller batch_size")
	require.ErrorContains(t, err, "--stream-memory")
	c.requireReturned(t)
}

// TestUntransformedStreamsWaitForNoMemory: what goes from the page cache to the socket is not counted.
func TestUntransformedStreamsWaitForNoMemory(t *testing.T) {
	c := newCluster(t, 1).fill(1, 64, 100_000)
	c.budget(4<<20, time.Second)
	stop := c.watch()
	for _, verify := range []bool{false, true} {
		req := wire.ReadRequest{Seed: 1, Shuffle: "global", BatchSize: 64, World: 1, Workers: 1, To: 1, Chunk: 16, Verify: verify}
		nc := c.upgrade(t, c.targets[0], req)
		var all bytes.Buffer
		_, err := io.Copy(&all, nc)
		require.NoError(t, err)
		require.Greater(t, all.Len(), 4<<20)
	}
	require.Less(t, stop(), int64(2<<20))
}
