package faults

import (
	"bytes"
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/loader"
	"github.com/shardstream/shardstream/tests/arena"
)

// epoch reads an epoch to its end; before each batch it calls at.
func (c *cluster) epoch(run loader.Run, at func(batch int)) ([]arena.Batch, loader.Stats) {
	c.t.Helper()
	l, err := loader.New(loader.Config{
		Sources: []string{"ss://train/*.tar"}, BatchSize: 32, Shuffle: "global", Seed: 5, Prefetch: 2, Timeout: 20 * time.Second, SharedMemory: true,
	}, c.client)
	require.NoError(c.t, err)
	defer func() { require.NoError(c.t, l.Close()) }()
	require.NoError(c.t, l.Start(run))
	var out []arena.Batch
	for {
		at(len(out))
		slot, table, err := l.Next(25 * time.Second)
		if errors.Is(err, loader.ErrEnd) {
			return out, l.Stats()
		}
		require.NoError(c.t, err)
		mem, err := l.View(slot)
		require.NoError(c.t, err)
		out = append(out, arena.Read(mem, table))
		require.NoError(c.t, l.Release(slot))
	}
}

// putShard stores shard i of the data set.
func (c *cluster) putShard(i, samples int) {
	c.t.Helper()
	content := shard(c.t, uint64(1000*i), samples, 100_000) // far more in all than sockets hold
	_, err := c.client.PutObject(c.t.Context(), "train", fmt.Sprintf("%04d.tar", i), bytes.NewReader(content), int64(len(content)), api.PutOptions{})
	require.NoError(c.t, err)
}

// TestEpochSurvivesKills: targets and gateway are killed in the middle of an epoch and come back; the
// samples are the same, in the same order, each once.
func TestEpochSurvivesKills(t *testing.T) {
	random := seeded(t)
	c := start(t, t.TempDir(), "--targets", "3", "--disks", "2")
	c.mustRun("bucket", "create", "train")
	const shards, samples = 12, 64
	for i := range shards {
		c.putShard(i, samples)
	}
	want, quiet := c.epoch(loader.Run{Epoch: 2}, func(int) {})
	require.Len(t, want, shards*samples/32)
	require.Equal(t, loader.TransportShared, quiet.Targets["target-1"].Transport)

	nodes := []string{"target-1", "target-2", "target-3", "gateway-1"}
	got, stats := c.epoch(loader.Run{Epoch: 2}, func(batch int) {
		if batch%4 != 1 {
			return
		}
		node := nodes[random.IntN(len(nodes))]
		if pid := c.pid(node); pid != 0 {
			t.Logf("before batch %d: kill %s", batch, node)
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have been killed before and not be back yet
		}
	})
	require.Equal(t, want, got)
	require.Positive(t, stats.Retries, "the kills went unnoticed: the epoch was too short for this test")
	c.awaitOK()
	c.sound()
}

// TestStoppedTargetDelaysTheEpochOnly: a target that hangs (SIGSTOP) is waited for, and goes on.
func TestStoppedTargetDelaysTheEpochOnly(t *testing.T) {
	c := start(t, t.TempDir(), "--targets", "2", "--disks", "1")
	c.mustRun("bucket", "create", "train")
	for i := range 6 {
		c.putShard(i, 64)
	}
	want, _ := c.epoch(loader.Run{}, func(int) {})
	pid := c.pid("target-1")
	got, _ := c.epoch(loader.Run{}, func(batch int) {
		if batch == 2 {
			require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
			time.AfterFunc(2*time.Second, func() { _ = syscall.Kill(pid, syscall.SIGCONT) })
		}
	})
	require.Equal(t, want, got)
}

var _ loader.Control = (*api.Client)(nil)
