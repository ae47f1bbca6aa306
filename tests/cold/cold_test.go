// Package cold_test streams data that is at a backend, through a whole cluster and a real loader, and counts what is fetched.
package cold_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/clustertest"
	"github.com/shardstream/shardstream/core/backend"
	"github.com/shardstream/shardstream/core/backend/backendtest"
	"github.com/shardstream/shardstream/loader"
	"github.com/shardstream/shardstream/tests/arena"
)

const (
	shards    = 40
	perShard  = 30
	itemBytes = 4 << 10
)

// counted is a backend that counts the bytes that are read from it.
type counted struct {
	*backendtest.Memory
	bytes atomic.Int64
}

func (c *counted) Open(ctx context.Context, name string, o backend.OpenOptions) (*backend.Body, error) {
	body, err := c.Memory.Open(ctx, name, o)
	if err == nil {
		body.ReadCloser = &countedBody{body.ReadCloser, &c.bytes}
	}
	return body, err
}

type countedBody struct {
	io.ReadCloser
	bytes *atomic.Int64
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.bytes.Add(int64(n))
	return n, err
}

func shardName(i int) string { return fmt.Sprintf("train-%04d.tar", i) }

// shardOf is a tar of samples whose bytes don't compress.
func shardOf(t testing.TB, number, samples, size int) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	draw := rand.NewChaCha8([32]byte{byte(number), byte(number >> 8)})
	for i := range samples {
		item := make([]byte, size)
		_, _ = draw.Read(item)
		require.NoError(t, w.WriteHeader(&tar.Header{Name: fmt.Sprintf("%04d-%04d.bin", number, i), Mode: 0o644, Size: int64(size)}))
		_, err := w.Write(item)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return out.Bytes()
}

// bed is a cluster with a bucket that has a backend.
type bed struct {
	t       testing.TB
	remote  *counted
	cluster *clustertest.Cluster
	size    int64 // of a shard
}

func newBed(t testing.TB, targets int, change func(*api.Backend)) *bed {
	t.Helper()
	b := &bed{t: t, remote: &counted{Memory: backendtest.NewMemory("s3://data")}}
	for i := range shards {
		data := shardOf(t, i, perShard, itemBytes)
		b.size = int64(len(data))
		b.remote.Set(shardName(i), data)
	}
	schemes := backend.Set{backend.S3: func(context.Context, backend.Config) (backend.Backend, error) { return b.remote, nil }}
	b.cluster = clustertest.Start(t, clustertest.Options{Targets: targets, Disks: 1, Schemes: schemes})
	properties := &api.Backend{URL: "s3://data"}
	if change != nil {
		change(properties)
	}
	_, err := b.cluster.Client.CreateBucketWith(t.Context(), "data", api.BucketChange{Backend: properties})
	require.NoError(t, err)
	return b
}

func (b *bed) loader(change func(*loader.Config)) *loader.Loader {
	b.t.Helper()
	cfg := loader.Config{Sources: []string{"ss://data/train-*.tar"}, BatchSize: 32, Seed: 7, Timeout: 30 * time.Second}
	if change != nil {
		change(&cfg)
	}
	l, err := loader.New(cfg, b.cluster.Client)
	require.NoError(b.t, err)
	b.t.Cleanup(func() { _ = l.Close() })
	return l
}

// read reads a run to its end.
func read(l *loader.Loader, run loader.Run) (keys []string, err error) {
	if err := l.Start(run); err != nil {
		return nil, err
	}
	for {
		slot, at, err := l.Next(time.Minute)
		if errors.Is(err, loader.ErrEnd) {
			return keys, nil
		}
		if err != nil {
			return keys, err
		}
		mem, err := l.View(slot)
		if err != nil {
			return keys, err
		}
		keys = append(keys, arena.Read(mem, at).Keys...)
		if err := l.Release(slot); err != nil {
			return keys, err
		}
	}
}

func (b *bed) epoch(l *loader.Loader, epoch uint64) (keys []string, fetched int64) {
	b.t.Helper()
	before := b.remote.bytes.Load()
	keys, err := read(l, loader.Run{Epoch: epoch})
	require.NoError(b.t, err)
	return keys, b.remote.bytes.Load() - before
}

// A stream over data that is at a backend only has every sample of it once an epoch; each shard is fetched once, and what is
// read twice is its headers, to describe it.
func TestColdEpochs(t *testing.T) {
	b := newBed(t, 3, nil)
	l := b.loader(nil)
	keys, fetched := b.epoch(l, 0)
	require.Len(t, keys, shards*perShard)
	require.Len(t, unique(keys), shards*perShard)
	require.Less(t, fetched, shards*b.size*2, "each shard is scanned, and fetched once")
	require.Equal(t, "window", l.Stats().Order.Shuffle)
	require.Equal(t, 1, l.Stats().Order.Slices)

	again, fetched := b.epoch(l, 1)
	require.Len(t, unique(again), shards*perShard)
	require.NotEqual(t, keys, again)
	require.Zero(t, fetched, "all of it is cached")
}

func unique(keys []string) map[string]bool {
	set := map[string]bool{}
	for _, k := range keys {
		set[k] = true
	}
	return set
}

// Several ranks and jobs over one source share what is fetched.
func TestRanksAndJobsShareFetches(t *testing.T) {
	b := newBed(t, 2, nil)
	info, err := b.cluster.Client.OpenStream(t.Context(), api.StreamRequest{Sources: []string{"ss://data/train-*.tar"}, BatchSize: 1, WorldSize: 1})
	require.NoError(t, err)
	require.EqualValues(t, shards*perShard, info.Samples)
	scanned := b.remote.bytes.Load()
	results := make(chan error, 4)
	for job := range 2 {
		for rank := range 2 {
			l := b.loader(func(c *loader.Config) { c.Seed = uint64(job) })
			go func() {
				_, err := read(l, loader.Run{Rank: rank, World: 2})
				results <- err
			}()
		}
	}
	for range 4 {
		require.NoError(t, <-results)
	}
	require.Equal(t, shards*b.size, b.remote.bytes.Load()-scanned)
}

// A shard that was replaced at the backend after the stream was opened is an error that says so, or is left out and counted.
func TestChangedShards(t *testing.T) {
	b := newBed(t, 2, nil)
	request := api.StreamRequest{Sources: []string{"ss://data/train-*.tar"}, BatchSize: 1, WorldSize: 1}
	_, err := b.cluster.Client.OpenStream(t.Context(), request)
	require.NoError(t, err)
	frozen := &frozen{Control: b.cluster.Client}
	open := func(policy loader.Policy) *loader.Loader {
		l, err := loader.New(loader.Config{
			Sources: request.Sources, BatchSize: 32, Timeout: 30 * time.Second, OnError: policy,
		}, frozen)
		require.NoError(t, err)
		t.Cleanup(func() { _ = l.Close() })
		return l
	}
	_, err = frozen.OpenStream(t.Context(), api.StreamRequest{Sources: request.Sources, BatchSize: 32, WorldSize: 1})
	require.NoError(t, err)
	b.remote.Set(shardName(3), shardOf(t, 99, perShard, itemBytes))
	_, err = read(open(loader.Raise), loader.Run{})
	require.ErrorContains(t, err, "changed")
	require.ErrorContains(t, err, shardName(3))
	l := open(loader.Skip)
	keys, err := read(l, loader.Run{})
	require.NoError(t, err)
	require.Len(t, keys, (shards-1)*perShard)
	require.Equal(t, map[string]int64{api.CodeChanged: perShard}, l.Stats().ByCode)
}

// frozen answers every opening as it did the first: a client whose stream was opened before something happened.
type frozen struct {
	loader.Control
	info *api.StreamInfo
}

func (f *frozen) OpenStream(ctx context.Context, req api.StreamRequest) (api.StreamInfo, error) {
	if f.info == nil {
		info, err := f.Control.OpenStream(ctx, req)
		if err != nil {
			return info, err
		}
		f.info = &info
	}
	return *f.info, nil
}

// A backend that fails is named in the error of the stream, with the shard.
func TestFailingBackendIsNamed(t *testing.T) {
	b := newBed(t, 2, nil)
	l := b.loader(nil)
	_, err := b.cluster.Client.OpenStream(t.Context(), api.StreamRequest{Sources: []string{"ss://data/train-*.tar"}, BatchSize: 1, WorldSize: 1})
	require.NoError(t, err)
	b.remote.Fault = func(op, name string, _ int64) error {
		if name == shardName(5) && op != "list" && op != "stat" {
			return b.remote.Failure(op, name, backend.Denied)
		}
		return nil
	}
	_, err = read(l, loader.Run{})
	require.ErrorContains(t, err, "s3://data")
	require.ErrorContains(t, err, shardName(5))
}

// Manifests, exact names and objects that are one sample each stream from a backend, too.
func TestSourcesOfABackend(t *testing.T) {
	b := newBed(t, 2, func(p *api.Backend) { p.Write = api.WriteThrough })
	b.remote.Set("list.txt", []byte("ss://data/"+shardName(1)+"\nss://data/"+shardName(4)+"\n"))
	for i := range 50 {
		b.remote.Set(fmt.Sprintf("images/%03d.bin", i), []byte(fmt.Sprint("image", i)))
	}
	for _, c := range []struct {
		name    string
		change  func(*loader.Config)
		samples int
	}{
		{"exact", func(c *loader.Config) { c.Sources = []string{"ss://data/" + shardName(2)} }, perShard},
		{"braces", func(c *loader.Config) { c.Sources = []string{"ss://data/train-{0003..0005}.tar"} }, 3 * perShard},
		{"manifest", func(c *loader.Config) { c.Sources = []string{"@ss://data/list.txt"} }, 2 * perShard},
		{"objects", func(c *loader.Config) {
			c.Sources, c.Samples = []string{"ss://data/images/"}, api.SamplesObjects
		}, 50},
		{"global", func(c *loader.Config) { c.Shuffle = "global" }, shards * perShard},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := b.loader(c.change)
			keys, err := read(l, loader.Run{})
			require.NoError(t, err)
			require.Len(t, unique(keys), c.samples)
		})
	}
	_, err := read(b.loader(func(c *loader.Config) { c.Sources = []string{"ss://data/absent.tar"} }), loader.Run{})
	require.ErrorContains(t, err, "absent.tar")
}

// A shard that takes longer to come than a loader waits for a target that says nothing does not end the stream.
func TestSlowShardIsWaitedFor(t *testing.T) {
	b := newBed(t, 1, nil)
	_, err := b.cluster.Client.OpenStream(t.Context(), api.StreamRequest{Sources: []string{"ss://data/train-*.tar"}, BatchSize: 1, WorldSize: 1})
	require.NoError(t, err)
	var slow atomic.Bool
	b.remote.Fault = func(op, name string, _ int64) error {
		if op == "read" && name == shardName(5) && slow.CompareAndSwap(false, true) {
			time.Sleep(5 * time.Second)
		}
		return nil
	}
	l := b.loader(func(c *loader.Config) { c.Timeout = 2500 * time.Millisecond })
	keys, err := read(l, loader.Run{})
	require.NoError(t, err)
	require.Len(t, unique(keys), shards*perShard)
	require.True(t, slow.Load())
	require.Zero(t, l.Stats().Retries)
}
