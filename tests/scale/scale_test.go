// Package scale_test counts and measures what a cluster of a size that no test can start would do: 10^10
// samples in 10^7 shards over 1,000 targets, read by 10,000 ranks. The pure parts (snapshot, order, view,
// placement) run at that size; the gateway runs for real over targets that only answer; how targets hand
// snapshots on runs on real ones. `make test-scale` prints the table of docs/scale.md; the ordinary tests
// run the same with a hundredth of the shards. Times are CPU seconds of this process, unless said otherwise.
package scale_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/placement"
	"github.com/shardstream/shardstream/sampler"
)

var full = flag.Bool("full", false, "run at the full size: 10^7 shards; takes some minutes and 2 GB")

const (
	targets   = 1000
	ranks     = 10_000
	batchSize = 256
	chunk     = 16 // batches between marks
	perShard  = 1000
)

func numShards() int {
	if *full {
		return 10_000_000
	}
	return 100_000
}

// row prints a line of the table.
func row(t *testing.T, what, format string, args ...any) {
	t.Helper()
	t.Logf("| %-60s | %s |", what, fmt.Sprintf(format, args...))
}

// heap is what lives on the heap.
func heap() int64 {
	runtime.GC()
	runtime.GC() // what a finalizer or a cleanup held
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func mib(bytes int64) string { return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20)) }

// shardOf is shard i as it is found: numbered names, versions that are times, counts that differ a little.
func shardOf(i int) sampler.Shard {
	h := uint64(i) * 0x9e3779b97f4a7c15
	return sampler.Shard{
		Name:    fmt.Sprintf("imagenet/train-%08d.tar", i),
		Version: 1_795_000_000_000_000_000 + uint64(i)*7_919_333 + h>>44,
		Samples: perShard - 50 + int64(h>>57)%101,
	}
}

func build(t *testing.T, n int) *sampler.Snapshot {
	t.Helper()
	var b sampler.Builder
	for i := range n {
		require.NoError(t, b.Add(shardOf(i)))
	}
	snap, err := b.Snapshot()
	require.NoError(t, err)
	return snap
}

func TestScale(t *testing.T) {
	if testing.Short() {
		t.Skip("goes over 100,000 shards")
	}
	snap := measureSnapshot(t)
	measureOrders(t, snap)
	ring := ringOf(targets)
	owners := measurePlacement(t, snap, ring)
	measurePages(t, snap, ring)
	measureBatches(t, snap, owners)
	measureMap(t)
}

// measureSnapshot makes the snapshot as a gateway does, and once more from its pages as a target does.
func measureSnapshot(t *testing.T) *sampler.Snapshot {
	t.Helper()
	n := numShards()
	before, start := heap(), cpuTime()
	snap := build(t, n)
	took, bytes := cpuTime()-start, heap()-before
	row(t, "shards, samples", "%d, %d", snap.NumShards(), snap.Samples())
	row(t, "gateway: make the snapshot of its shards", "%.2f s (%.0f ns a shard)", took.Seconds(), float64(took.Nanoseconds())/float64(n))
	row(t, "memory of the snapshot", "%s (%.1f B a shard)", mib(bytes), float64(bytes)/float64(n))
	require.Less(t, float64(bytes)/float64(n), 25.0, "bytes of memory a shard")

	var size int64
	largest := 0
	for _, p := range snap.Root().Pages() {
		size += int64(p.Bytes)
		largest = max(largest, p.Bytes)
	}
	row(t, "root, pages", "%.0f kB, %d pages of %.1f kB (at most %.1f)", float64(len(snap.Root().Data()))/1e3, len(snap.Pages()), float64(size)/float64(len(snap.Pages()))/1e3, float64(largest)/1e3)
	row(t, "all pages", "%.1f MB (%.1f B a shard)", float64(size)/1e6, float64(size)/float64(n))
	require.Less(t, len(snap.Root().Data()), n/10, "the root is small against the shards")

	start = cpuTime()
	root, err := sampler.ParseRoot(snap.Root().Data())
	require.NoError(t, err)
	pages := make([]*sampler.Page, len(root.Pages()))
	for i, p := range snap.Pages() {
		pages[i], err = sampler.ParsePage(p.Data())
		require.NoError(t, err)
	}
	back, err := sampler.Assemble(root, pages)
	require.NoError(t, err)
	require.Equal(t, snap.ID(), back.ID())
	took = cpuTime() - start
	row(t, "target: verify and read all pages, one core", "%.2f s (%.0f ns a shard)", took.Seconds(), float64(took.Nanoseconds())/float64(n))

	start = cpuTime()
	const some = 100_000
	for i := range some {
		want := shardOf(i * (n / some))
		require.True(t, want == back.Shard(i*(n/some)))
	}
	row(t, "target: look a shard up", "%.0f ns", float64((cpuTime()-start).Nanoseconds())/some)
	return back
}

var modes = []sampler.Mode{sampler.Global, sampler.Window, sampler.Shards, sampler.None}

func measureOrders(t *testing.T, snap *sampler.Snapshot) {
	t.Helper()
	for _, mode := range modes {
		before, start := heap(), cpuTime()
		o, err := sampler.NewOrder(snap, sampler.Shuffle{Mode: mode, Seed: 1}, 0)
		require.NoError(t, err)
		took, bytes := cpuTime()-start, heap()-before
		row(t, fmt.Sprintf("order %q: make, memory", mode), "%.3f s, on all cores at once; %s", took.Seconds(), mib(max(bytes, 0)))
		require.Less(t, bytes, int64(64<<20))

		const positions, runs = 2000 * batchSize, 2000
		start = cpuTime()
		for run := range int64(runs) { // batches of one rank: a step apart
			first := run * (o.Samples() / runs)
			for pos := first; pos < first+positions/runs; pos++ {
				o.At(pos)
			}
		}
		took = cpuTime() - start
		row(t, fmt.Sprintf("order %q: position to shard, by batches a step apart", mode), "%.0f ns", float64(took.Nanoseconds())/positions)
		for _, pos := range []int64{0, o.Samples() / 3, o.Samples() - 1} {
			require.Equal(t, pos, o.Position(o.Sample(pos)))
		}
	}
}

func ringOf(n int) *placement.Ring {
	nodes := make([]placement.Node, n)
	for i := range nodes {
		nodes[i] = placement.Node{ID: fmt.Sprintf("target-%d", i+1), Weight: 1}
	}
	return placement.NewRing(nodes)
}

// measureMap is the part of an open's answer that grows with the cluster.
func measureMap(t *testing.T) {
	t.Helper()
	m := api.Map{Version: 1}
	for i := range targets {
		m.Nodes = append(m.Nodes, api.Node{
			ID: fmt.Sprintf("target-%d", i+1), Role: api.RoleTarget, State: api.StateOK, Addr: fmt.Sprintf("10.0.%d.%d:8081", i/250, i%250), Weight: 1,
		})
	}
	data, err := json.Marshal(api.StreamInfo{Map: m})
	require.NoError(t, err)
	row(t, "answer to a rank that opens the stream", "%.0f kB; %.2f GB to all ranks, once an epoch", float64(len(data))/1e3, float64(len(data))*ranks/1e9)
}
