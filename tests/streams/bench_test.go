package streams_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/core/store"
	"github.com/shardstream/shardstream/loader"
)

var noCondition store.Condition

func memberOf(t testing.TB, shard []byte, name string) []byte {
	t.Helper()
	r := tar.NewReader(bytes.NewReader(shard))
	for {
		h, err := r.Next()
		require.NoError(t, err, name)
		if h.Name == name {
			data, err := io.ReadAll(r)
			require.NoError(t, err)
			return data
		}
	}
}

// BenchmarkStream measures a loader and its targets in one process, so the CPU of both is shared.
func BenchmarkStream(b *testing.B) {
	for _, c := range []struct{ mean, samples, batch int }{{110_000, 600, 256}, {10_000, 4_000, 256}, {1_000, 20_000, 1024}} {
		cl := newCluster(b, 3).fill(8, c.samples, c.mean)
		for _, shared := range []bool{false, true} {
			name := fmt.Sprintf("%d/%s", c.mean, map[bool]string{false: "tcp", true: "shared"}[shared])
			b.Run(name, func(b *testing.B) { benchmarkStream(b, cl, c.batch, shared) })
		}
	}
}

func benchmarkStream(b *testing.B, cl *cluster, batch int, shared bool) {
	l := open(b, cl, func(cfg *loader.Config) { cfg.BatchSize, cfg.SharedMemory = batch, shared })
	var total int64
	epoch := func(n uint64) {
		require.NoError(b, l.Start(loader.Run{Epoch: n}))
		for {
			slot, _, err := l.Next(patience)
			if errors.Is(err, loader.ErrEnd) {
				return
			}
			require.NoError(b, err)
			require.NoError(b, l.Release(slot))
		}
	}
	epoch(0)
	before := l.Stats()
	b.ReportAllocs()
	b.ResetTimer()
	for n := range b.N {
		epoch(uint64(n) + 1)
	}
	b.StopTimer()
	after := l.Stats()
	total = after.Bytes - before.Bytes
	b.SetBytes(total / int64(b.N))
	b.ReportMetric(float64(after.Samples-before.Samples)/b.Elapsed().Seconds(), "samples/s")
}
