package scale_test

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/stream"
	"github.com/shardstream/shardstream/core/archive"
	"github.com/shardstream/shardstream/core/store"
	"github.com/shardstream/shardstream/core/wire"
	"github.com/shardstream/shardstream/etl"
	"github.com/shardstream/shardstream/sampler"
)

type noETLs struct{}

func (noETLs) Runtime(name string) (etl.Runtime, error) {
	return nil, api.Errorf(404, api.CodeNoETL, "no etl %q", name)
}

type noMeter struct{}

func (noMeter) Sent(int64, int64) {}
func (noMeter) Failed(string)     {}
func (noMeter) Close()            {}

// TestMemoryOfAStream is what a target holds for a rank that reads slowly: one of thousands.
func TestMemoryOfAStream(t *testing.T) {
	if testing.Short() {
		t.Skip("holds 200 streams")
	}
	for name, c := range map[string]struct {
		samples, size int
		mode          sampler.Mode
	}{
		"samples of 1 kB, all of them here":  {60_000, 1000, sampler.None},
		"samples of 110 kB, a sixtieth here": {500, 110_000, sampler.Global},
	} {
		t.Run(name, func(t *testing.T) {
			server, snap := startServer(t, c.samples, c.size)
			measureStreams(t, name, server, snap, c.mode)
		})
	}
}

func measureStreams(t *testing.T, name string, server *stream.Server, snap *sampler.Snapshot, mode sampler.Mode) {
	t.Helper()
	const streams = 200
	before := heap()
	var running sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	defer running.Wait()
	defer cancel()
	var clients []net.Conn
	for range streams {
		r, err := server.Open(t.Context(), snap.ID(), wire.ReadRequest{
			BatchSize: batchSize, World: 1, Workers: 1, Shuffle: mode.String(), To: snap.Samples() / batchSize, Chunk: chunk,
		})
		require.NoError(t, err)
		ours, theirs := pair(t)
		clients = append(clients, theirs)
		running.Go(func() {
			defer ours.Close()
			_ = r.Run(ctx, ours)
		})
	}
	for _, c := range clients { // what is sent first is there; the rest waits for its reader
		require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Minute)))
		_, err := c.Read(make([]byte, 1))
		require.NoError(t, err)
	}
	bytes := heap() - before
	row(t, "target: heap of a stream, "+name, "%.0f kB", float64(bytes)/streams/1e3)
	require.Less(t, bytes, int64(streams*(2<<20)))
	for _, c := range clients {
		_ = c.Close()
	}
}

// startServer serves one real shard of a snapshot of sixty.
func startServer(t *testing.T, samples, size int) (*stream.Server, *sampler.Snapshot) {
	t.Helper()
	dir := t.TempDir()
	disk, err := store.Open(store.Options{Disks: []store.Disk{{ID: "disk-1", Path: filepath.Join(dir, "disk"), Weight: 1}}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, disk.Close()) })
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	body := make([]byte, size)
	for i := range samples {
		require.NoError(t, w.WriteHeader(&tar.Header{Name: fmt.Sprintf("%06d.bin", i), Mode: 0o644, Size: int64(size), Format: tar.FormatUSTAR}))
		_, err := w.Write(body)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	info, err := disk.Put(t.Context(), "imagenet", "first.tar", &b, store.PutOptions{Size: int64(b.Len()), Archive: archive.Tar})
	require.NoError(t, err)

	shards := []sampler.Shard{{Name: "imagenet/first.tar", Version: info.Version, Samples: info.Samples}}
	for i := range 59 {
		shards = append(shards, sampler.Shard{Name: fmt.Sprintf("imagenet/other-%d.tar", i), Version: 1, Samples: info.Samples})
	}
	snap, err := sampler.NewSnapshot(shards)
	require.NoError(t, err)
	snapshots, err := stream.NewSnapshots(filepath.Join(dir, "snapshots"), func(context.Context, string) ([]byte, error) {
		return nil, api.Errorf(404, api.CodeNoSnapshot, "nobody has it")
	})
	require.NoError(t, err)
	pack, err := snap.MarshalBinary()
	require.NoError(t, err)
	require.NoError(t, snapshots.Put(snap.ID(), pack))
	return &stream.Server{Node: "target-1", Objects: disk, ETLs: noETLs{}, Snapshots: snapshots, Meter: func() stream.Meter { return noMeter{} }}, snap
}

// pair is a loopback connection.
func pair(t *testing.T) (server, client net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, _ := l.Accept()
		accepted <- c
	}()
	client, err = net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	server = <-accepted
	require.NotNil(t, server)
	return server, client
}
