package cold_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/loader"
	"github.com/shardstream/shardstream/sampler"
	"github.com/shardstream/shardstream/tests/replay"
)

var (
	bench       = flag.Bool("bench", false, "measure a cluster of processes over a throttled backend")
	benchShards = flag.Int("shards", 100, "shards of the bench")
	benchRate   = flag.Float64("rate", 200e6, "bytes a second that the backend gives")
)

const (
	benchSamples = 64
	benchItem    = 128 << 10
	benchEpochs  = 5 // with a small cache
	benchPairs   = 9 // of warm epochs
)

// throttle lets so many bytes a second through, all connections together.
type throttle struct {
	rate float64 // 0: any

	mu   sync.Mutex
	next time.Time
}

func (t *throttle) wait(n int) {
	if t.rate == 0 {
		return
	}
	t.mu.Lock()
	now := time.Now()
	if t.next.Before(now) {
		t.next = now
	}
	t.next = t.next.Add(time.Duration(float64(n) / t.rate * float64(time.Second)))
	until := t.next.Sub(now)
	t.mu.Unlock()
	time.Sleep(until)
}

// modified is when all files of the server were.
var modified = time.Date(2025, 7, 1, 10, 0, 0, 0, time.UTC)

// files is a web server of shards in memory, with the index and the tags of nginx, that is throttled and counts.
type files struct {
	*httptest.Server
	throttle throttle
	bytes    atomic.Int64
	shards   map[string][]byte
}

func serve(t *testing.T, shards map[string][]byte, rate float64) *files {
	t.Helper()
	f := &files{shards: shards, throttle: throttle{rate: rate}}
	f.Server = httptest.NewServer(f)
	t.Cleanup(f.Close)
	return f
}

func (f *files) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, "/data/")
	if name == "" {
		type line struct {
			Name  string `json:"name"`
			Type  string `json:"type"`
			Mtime string `json:"mtime"`
			Size  int    `json:"size"`
		}
		var index []line
		for i := range len(f.shards) {
			index = append(index, line{shardName(i), "file", modified.Format(http.TimeFormat), len(f.shards[shardName(i)])})
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(index) // to a client that is gone
		return
	}
	data, ok := f.shards[name]
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("ETag", fmt.Sprintf(`"%x-%x"`, modified.Unix(), len(data)))
	http.ServeContent(&throttled{w, f}, r, name, modified, bytes.NewReader(data))
}

type throttled struct {
	http.ResponseWriter
	files *files
}

func (w *throttled) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.files.bytes.Add(int64(n))
	w.files.throttle.wait(n)
	return n, err
}

// own is what the backend gives to plain parallel downloads, in bytes a second.
func (f *files) own(t *testing.T) float64 {
	t.Helper()
	began, bytes := time.Now(), f.bytes.Load()
	var group errgroup.Group
	group.SetLimit(16)
	for name := range f.shards {
		group.Go(func() error {
			response, err := http.Get(f.URL + "/data/" + name)
			if err != nil {
				return err
			}
			_, err = io.Copy(io.Discard, response.Body)
			return errors.Join(err, response.Body.Close())
		})
	}
	require.NoError(t, group.Wait())
	return float64(f.bytes.Load()-bytes) / time.Since(began).Seconds()
}

// processes is a cluster of processes of this machine.
func processes(t *testing.T) *api.Client {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "shardstream")
	run := func(name string, args ...string) []byte {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		command := exec.CommandContext(ctx, name, args...)
		command.Stderr = os.Stderr
		out, err := command.Output()
		require.NoError(t, err, "%s %v", name, args)
		return out
	}
	run("go", "build", "-o", program, "github.com/shardstream/shardstream/cmd/shardstream")
	place := filepath.Join(dir, "cluster")
	out := run(program, "up", "--detach", "--json", "--port", "0", "--targets", "2", "--dir", place, "--backend-allow", "127.0.0.0/8")
	t.Cleanup(func() { run(program, "down", "--dir", place) })
	var report struct {
		Endpoint string `json:"endpoint"`
	}
	require.NoError(t, json.Unmarshal(out, &report))
	client, err := api.NewClient(api.Options{Endpoint: report.Endpoint})
	require.NoError(t, err)
	return client
}

// epochOf streams an epoch and returns the samples' bytes a second, the opening included; in an order that is given, or "auto".
func epochOf(t *testing.T, client *api.Client, bucket string, epoch uint64, in loader.Order) (rate float64, order loader.Order) {
	t.Helper()
	l, err := loader.New(loader.Config{
		Sources: []string{"ss://" + bucket + "/"}, BatchSize: 64, Seed: 7, SharedMemory: true,
		Shuffle: in.Shuffle, Slices: in.Slices, Window: in.Window,
	}, client)
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	began := time.Now()
	keys, err := read(l, loader.Run{Epoch: epoch})
	require.NoError(t, err)
	took := time.Since(began).Seconds()
	require.Len(t, unique(keys), *benchShards*benchSamples)
	return float64(l.Stats().Bytes) / took, l.Stats().Order
}

// TestBenchBackends measures what `make bench-backends` shows: what of a backend's own rate a cold epoch has, what of the speed
// of data that is the cluster's own a second one has, and what epochs fetch with a cache of 30 % of the data.
func TestBenchBackends(t *testing.T) {
	if !*bench {
		t.Skip("a measurement: -bench, or make bench-backends")
	}
	data := map[string][]byte{}
	var size, all int64
	for i := range *benchShards {
		shard := shardOf(t, i, benchSamples, benchItem)
		data[shardName(i)] = shard
		size, all = int64(len(shard)), all+int64(len(shard))
	}
	remote := serve(t, data, *benchRate)
	client := processes(t)
	create := func(bucket string, b *api.Backend) {
		_, err := client.CreateBucketWith(t.Context(), bucket, api.BucketChange{Backend: b})
		require.NoError(t, err)
	}
	own := remote.own(t)
	t.Logf("%d shards, %d MB; the backend gives %.0f MB/s to plain parallel downloads", *benchShards, all/1e6, own/1e6)

	create("own", nil)
	for name, shard := range data {
		_, err := client.PutObject(t.Context(), "own", name, bytes.NewReader(shard), int64(len(shard)), api.PutOptions{})
		require.NoError(t, err)
	}
	_, _ = epochOf(t, client, "own", 0, loader.Order{}) // a cluster's first epoch is slower than all later ones

	create("cold", &api.Backend{URL: remote.URL + "/data/"})
	before := remote.bytes.Load()
	cold, order := epochOf(t, client, "cold", 0, loader.Order{})
	t.Logf("cold epoch: %.0f MB/s, %.2f of the backend's own rate, opening included; %.2f of the data fetched; %s of %d shards",
		cold/1e6, cold/own, float64(remote.bytes.Load()-before)/float64(all), order.Shuffle, order.Window)

	var warm, same, global []float64
	for epoch := range uint64(benchPairs) {
		one, _ := epochOf(t, client, "cold", epoch+1, loader.Order{})
		two, _ := epochOf(t, client, "own", epoch+1, order)
		three, _ := epochOf(t, client, "own", epoch+1, loader.Order{})
		warm, same, global = append(warm, one), append(same, one/two), append(global, one/three)
	}
	t.Logf("second epoch: %.0f MB/s, %.2f of a bucket without a backend in the same order; medians of %d epochs: %.0f MB/s, %.2f, and %.2f of one in its own order, global",
		warm[0]/1e6, same[0], benchPairs, middle(warm)/1e6, middle(same), middle(global))

	room := *benchShards * 3 / 10
	remote.throttle.rate = 0 // it is bytes that count
	create("small", &api.Backend{URL: remote.URL + "/data/", Quota: int64(room) * size})
	_, order = epochOf(t, client, "small", 0, loader.Order{})
	var fetches []float64
	for epoch := range uint64(benchEpochs) {
		before := remote.bytes.Load()
		epochOf(t, client, "small", epoch+1, loader.Order{})
		fetches = append(fetches, float64(remote.bytes.Load()-before)/float64(size))
	}
	sum := 0.0
	for _, n := range fetches {
		sum += n
	}
	optimum, lru := boundsOf(t, room, order)
	ours := sum / benchEpochs
	t.Logf("a cache of %d shards, %s of %d: shards fetched an epoch: %.1f, the optimum %.1f, LRU %.1f: %.2f and %.2f of the optimum",
		room, order.Shuffle, order.Window, ours, optimum, lru, ours/optimum, lru/optimum)
}

func middle(of []float64) float64 {
	slices.Sort(of)
	return of[len(of)/2]
}

// boundsOf is what a cache of so much room would fetch an epoch at best, and by LRU.
func boundsOf(t *testing.T, room int, order loader.Order) (optimum, lru float64) {
	t.Helper()
	var builder sampler.Builder
	for i := range *benchShards {
		require.NoError(t, builder.Add(sampler.Shard{Name: "small/" + shardName(i), Version: 1, Samples: benchSamples}))
	}
	snap, err := builder.Snapshot()
	require.NoError(t, err)
	cache := replay.Cache{Room: room, Epochs: benchEpochs + 1, Order: func(epoch uint64) (*sampler.Order, error) {
		return sampler.NewOrder(snap, sampler.Shuffle{Mode: sampler.Window, Seed: 7, Slices: order.Slices, Window: order.Window}, epoch)
	}}
	best, err := cache.Optimum()
	require.NoError(t, err)
	least, err := cache.LRU()
	require.NoError(t, err)
	return replay.Steady(best), replay.Steady(least)
}
