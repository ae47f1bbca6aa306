package faults

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/wire"
	"github.com/shardstream/shardstream/loader"
)

const (
	slowClients = 200
	slowRate    = 1000 // bytes a second
	slowSeconds = 12   // longer than a stalled stream is borne with
	// streamMemory is the target's budget. Without one, 100 clients of transformed batches of 6.4 MB, four
	// of them in work, made of as many bytes, would take 2.5 to 5 GB.
	streamMemory = 384 << 20
	// memoryCap is what docs/reliability.md declares: twice the budget, since garbage is collected when as
	// much has come together as is in use, and what a node takes besides.
	memoryCap = 2*streamMemory + 256<<20
)

// anonymous is a process's memory without the pages of files, which the system takes back when it wants to.
func anonymous(t *testing.T, pid int) (bytes int64) {
	t.Helper()
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	for line := range strings.Lines(string(content)) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			require.NoError(t, err)
			return n << 10
		}
	}
	t.Fatal("no RssAnon in /proc/PID/status")
	return 0
}

// opened counts a process's descriptors and mappings.
func opened(t *testing.T, pid int) (fds, maps int) {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	require.NoError(t, err)
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	require.NoError(t, err)
	return len(entries), bytes.Count(content, []byte("\n"))
}

// slowly opens a stream by hand and reads it at 1 kB a second; it returns when the time is up.
func slowly(addr, snapshot string, req wire.ReadRequest) (err error) {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer nc.Close()
	if err := nc.(*net.TCPConn).SetReadBuffer(16 << 10); err != nil {
		return err
	}
	body, err := json.Marshal(req)
	if err != nil {
		return err
	}
	hr, err := http.NewRequest(http.MethodPost, "http://"+addr+"/v1/streams/"+snapshot+"/read", bytes.NewReader(body))
	if err != nil {
		return err
	}
	hr.Header.Set("Connection", "Upgrade")
	hr.Header.Set("Upgrade", api.StreamProtocol)
	if err := hr.Write(nc); err != nil {
		return err
	}
	r := bufio.NewReaderSize(nc, slowRate)
	resp, err := http.ReadResponse(r, hr)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return api.ErrorOf(resp)
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for range slowSeconds {
		<-tick.C
		if err := nc.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			return err
		}
		_, err := io.CopyN(io.Discard, r, slowRate)
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			continue // its batch waits for memory
		}
		if err != nil {
			return nil // it has given way to others
		}
	}
	return nil
}

// TestSlowClientsBoundTheTargetsMemory: 200 clients read 1 kB a second, half of them transformed batches,
// and the target's memory stays within its cap; a client that reads as it should is served meanwhile. When
// they have gone, so have their descriptors and mappings.
func TestSlowClientsBoundTheTargetsMemory(t *testing.T) {
	c := start(t, t.TempDir(), "--targets", "1", "--disks", "1", "--stream-memory", strconv.Itoa(streamMemory))
	c.mustRun("bucket", "create", "train")
	const shards, samples = 8, 64
	for i := range shards {
		c.putShard(i, samples)
	}
	function := filepath.Join(t.TempDir(), "same.py")
	require.NoError(t, os.WriteFile(function, []byte("def transform(sample):\n    return sample\n"), 0o600))
	c.mustRun("etl", "create", "same", "--function", function)
	pid := c.pid("target-1")
	want, _ := c.epoch(loader.Run{}, func(int) {}) // opens every shard once: the store keeps some
	fds, maps := opened(t, pid)
	before := anonymous(t, pid)

	info, err := c.client.OpenStream(t.Context(), api.StreamRequest{Sources: []string{"ss://train/*.tar"}, BatchSize: 64, Shuffle: "global", WorldSize: 1})
	require.NoError(t, err)
	var addr string
	for _, n := range info.Map.Nodes {
		if n.Role == api.RoleTarget {
			addr = n.Addr
		}
	}
	var clients errgroup.Group
	for i := range slowClients {
		req := wire.ReadRequest{Seed: uint64(i), Shuffle: "global", BatchSize: 64, World: 1, Workers: 1, To: shards, Chunk: 16}
		if i%2 == 0 {
			req.ETL = "same"
		}
		clients.Go(func() error { return slowly(addr, info.Snapshot, req) })
	}
	done := make(chan struct{})
	var watching sync.WaitGroup
	var peak int64
	watching.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			peak = max(peak, anonymous(t, pid))
			select {
			case <-tick.C:
			case <-done:
				return
			}
		}
	})
	c.eventually("not all clients have a stream", func() bool { return c.metric(addr, "shardstream_streams_active") >= slowClients })
	got, _ := c.epoch(loader.Run{}, func(int) {})
	require.Equal(t, want, got, "a client that reads as it should")
	used := c.metric(addr, "shardstream_stream_memory_used_bytes")
	require.NoError(t, clients.Wait())
	close(done)
	watching.Wait()
	t.Logf("anonymous memory: %d MiB before, at most %d MiB, of a cap of %d; %.0f MiB of the budget in use", before>>20, peak>>20, memoryCap>>20, used/(1<<20))
	require.Less(t, peak, int64(memoryCap))
	require.Greater(t, used, float64(slowClients*512<<10), "the clients asked for less than this test is about")
	require.LessOrEqual(t, used, float64(streamMemory))
	require.Equal(t, pid, c.pid("target-1"), "it never died")

	c.eventually("streams are left open", func() bool { return c.metric(addr, "shardstream_streams_active") == 0 })
	require.Zero(t, c.metric(addr, "shardstream_stream_memory_used_bytes"))
	c.eventually("descriptors or mappings are left", func() bool {
		nowFds, nowMaps := opened(t, pid)
		// The runtime and the workers of the transformation keep a few.
		return nowFds <= fds+40 && nowMaps <= maps+60
	})
}

// metric reads one sample of a node's metrics.
func (c *cluster) metric(addr, name string) float64 {
	c.t.Helper()
	for line := range strings.Lines(string(get(c.t, "http://"+addr+"/metrics"))) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			value, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			require.NoError(c.t, err)
			return value
		}
	}
	c.t.Fatalf("no metric %s", name)
	return 0
}
