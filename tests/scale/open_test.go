package scale_test

import (
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
)

// TestOpenAtScale opens a stream of all shards at a real gateway, whose targets are stubs in this process:
// they render their listings, parse what they get, and take their share of the processor.
func TestOpenAtScale(t *testing.T) {
	if testing.Short() {
		t.Skip("lists 100,000 shards over HTTP")
	}
	const stubs, ranks = 40, 400
	n := numShards()
	c := startStubs(t, stubs)
	c.deal(t, n, plain)
	client := c.NewClient(api.Options{Timeout: 10 * time.Minute})

	peak, stop := make(chan int64), make(chan struct{})
	go watchHeap(peak, stop)
	before, cpu, start := heap(), cpuTime(), time.Now()
	first, err := client.OpenStream(t.Context(), wholeBucket)
	require.NoError(t, err)
	took, used := time.Since(start), cpuTime()-cpu
	close(stop)
	require.Equal(t, int64(n), first.Shards)
	row(t, "gateway: list, make, spread (with 40 stubs in the same process)", "%.1f s, %.1f CPU seconds, heap at most %s more", took.Seconds(), used.Seconds(), mib(<-peak-before))
	asked := c.asked()
	var bytes int64
	for _, s := range c.targets {
		bytes += s.bytes
	}
	row(t, "  requests", "%d of listings, %d of pages (%.0f MB), %d of roots, %d whether it is there", asked["list"], asked["put pages"], float64(bytes)/1e6, asked["put snapshot"], asked["head snapshot"])

	start = time.Now()
	again, err := client.OpenStream(t.Context(), wholeBucket)
	require.NoError(t, err)
	require.Equal(t, first.Snapshot, again.Snapshot)
	took, asked = time.Since(start), c.asked()
	row(t, "gateway: the same again", "%.1f s; %d requests of listings, %d of pages, %d of roots", took.Seconds(), asked["list"], asked["put pages"], asked["put snapshot"])
	require.Zero(t, asked["put pages"]+asked["put snapshot"])

	c.deal(t, 100_000, plain)
	first, err = client.OpenStream(t.Context(), wholeBucket)
	require.NoError(t, err)
	one := c.asked()["list"]
	var group sync.WaitGroup
	start = time.Now()
	for rank := range ranks {
		group.Go(func() {
			req := wholeBucket
			req.WorldSize, req.Rank = ranks, rank
			if info, err := client.OpenStream(t.Context(), req); err != nil || info.Snapshot != first.Snapshot {
				t.Errorf("rank %d: %v", rank, err)
			}
		})
	}
	group.Wait()
	took, asked = time.Since(start), c.asked()
	row(t, "gateway: 400 ranks open 10^5 shards at once", "%.1f s; %.0f listings for all, %d requests of pages and roots", took.Seconds(), float64(asked["list"])/float64(one), asked["put pages"]+asked["put snapshot"])
	require.Less(t, asked["list"], ranks/8*one)
}

// watchHeap sends the most that the heap was.
func watchHeap(peak chan<- int64, stop <-chan struct{}) {
	var most int64
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			most = max(most, int64(m.HeapAlloc))
		case <-stop:
			peak <- most
			return
		}
	}
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
