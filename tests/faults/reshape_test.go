package faults

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/loader"
	"github.com/shardstream/shardstream/tests/arena"
)

// traffic is readers and writers of a mirrored bucket, and what they know to be there.
type traffic struct {
	c      *cluster
	bucket string

	writing sync.RWMutex // held for writing while none may be under way
	mu      sync.Mutex
	written map[string]uint64 // seed of each object's content, by name
	names   []string

	reads, writes, refused atomic.Int64
	failed                 chan error
}

// objectOf is the content of an object, reproducibly.
func objectOf(seed uint64) []byte {
	rng := rand.New(rand.NewPCG(seed, 3))
	data := make([]byte, 1_000+rng.IntN(30_000))
	for i := range data {
		data[i] = byte(rng.Uint32())
	}
	return data
}

// run reads and writes until the context ends.
func (x *traffic) run(ctx context.Context, readers, writers int, seed uint64) *sync.WaitGroup {
	var all sync.WaitGroup
	for i := range writers {
		all.Go(func() {
			for n := uint64(0); ctx.Err() == nil; n++ {
				x.write(ctx, fmt.Sprintf("w%d/%06d", i, n%400), seed+uint64(i)<<32+n)
				pauseOrEnd(ctx, 10*time.Millisecond)
			}
		})
	}
	for i := range readers {
		all.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(i)))
			for ctx.Err() == nil {
				x.read(ctx, rng)
			}
		})
	}
	return &all
}

func pauseOrEnd(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// write puts an object, new or in another's place, again until it is acknowledged: what a refused PUT leaves is unknown,
// but all tries have the same content.
func (x *traffic) write(ctx context.Context, name string, seed uint64) {
	x.writing.RLock()
	defer x.writing.RUnlock()
	x.mu.Lock()
	_, known := x.written[name]
	delete(x.written, name) // unknown until it is acknowledged
	if known {
		x.names = slices.DeleteFunc(x.names, func(n string) bool { return n == name })
	}
	x.mu.Unlock()
	data := objectOf(seed)
	for deadline := time.Now().Add(30 * time.Second); ; {
		_, err := x.c.client.PutObject(context.WithoutCancel(ctx), x.bucket, name, bytes.NewReader(data), int64(len(data)), api.PutOptions{})
		if err == nil {
			break
		}
		x.refused.Add(1)
		if time.Now().After(deadline) {
			x.fail(fmt.Errorf("put %s: %w", name, err))
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	x.mu.Lock()
	x.written[name] = seed
	x.names = append(x.names, name)
	x.mu.Unlock()
	x.writes.Add(1)
}

func (x *traffic) fail(err error) {
	select {
	case x.failed <- err:
	default:
	}
}

// read gets an object that is there; its content is that of the last acknowledged write, or of a later one.
func (x *traffic) read(ctx context.Context, rng *rand.Rand) {
	x.mu.Lock()
	if len(x.names) == 0 {
		x.mu.Unlock()
		pauseOrEnd(ctx, time.Millisecond)
		return
	}
	name := x.names[rng.IntN(len(x.names))]
	before := x.written[name]
	x.mu.Unlock()
	data, err := x.get(context.WithoutCancel(ctx), name)
	if err != nil {
		x.fail(fmt.Errorf("get %s: %w", name, err))
		return
	}
	x.mu.Lock()
	after, known := x.written[name]
	x.mu.Unlock()
	if known && after == before && !bytes.Equal(data, objectOf(before)) {
		x.fail(fmt.Errorf("get %s: other bytes than were written", name))
	}
	x.reads.Add(1)
}

func (x *traffic) get(ctx context.Context, name string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	r, err := x.c.client.GetObject(ctx, x.bucket, name, api.GetOptions{})
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(r)
	return data, errors.Join(err, r.Close())
}

// compare lists the bucket while no write is under way: it has what was acknowledged, each once. A listing that can't be
// complete yet is an error, and asked for again.
func (x *traffic) compare(t *testing.T) {
	t.Helper()
	x.writing.Lock()
	defer x.writing.Unlock()
	want := slices.Sorted(maps.Keys(x.written))
	var got []string
	x.c.eventually("the bucket can't be listed", func() bool {
		got = nil
		for o, err := range x.c.client.Objects(t.Context(), x.bucket, api.ListOptions{}) {
			if err != nil {
				return false
			}
			got = append(got, o.Name)
		}
		return true
	})
	require.Equal(t, want, got)
}

// rate is reads a second over a while.
func (x *traffic) rate(d time.Duration) float64 {
	before, began := x.reads.Load(), time.Now()
	time.Sleep(d)
	return float64(x.reads.Load()-before) / time.Since(began).Seconds()
}

// joinTarget starts a target that is no child of the cluster's supervisor: killed, it stays dead.
func (c *cluster) joinTarget(id string, flags ...string) *exec.Cmd {
	c.t.Helper()
	args := []string{"node", "run", "--role", "target", "--id", id, "--join", c.endpoint, "--data", c.t.TempDir(), "--listen", "127.0.0.1:0"}
	command := exec.Command(program, append(args, flags...)...)
	require.NoError(c.t, command.Start())
	done := make(chan struct{})
	go func() { defer close(done); _ = command.Wait() }() // ends with the process
	c.t.Cleanup(func() {
		_ = command.Process.Kill()
		<-done
	})
	c.eventually(id+" does not join", func() bool {
		m, err := c.client.RefreshMap(c.t.Context())
		if err != nil {
			return false
		}
		n, ok := m.Map.Node(id)
		return ok && n.State == api.StateOK
	})
	return command
}

// settled waits until all data is where the map puts it.
func (c *cluster) settled() {
	c.t.Helper()
	deadline := time.Now().Add(90 * time.Second)
	for {
		m, err := c.client.RefreshMap(c.t.Context())
		if err == nil && len(m.Map.Former) == 0 {
			return
		}
		require.True(c.t, time.Now().Before(deadline), "the data does not come to rest")
		time.Sleep(50 * time.Millisecond)
	}
}

// rank reads one rank's part of an epoch, no more batches than it is allowed; gap is the longest that it waited for one.
func (c *cluster) rank(ctx context.Context, rank int, allowed func() int, gap *atomic.Int64) ([]arena.Batch, error) {
	l, err := loader.New(loader.Config{
		Sources: []string{"ss://train/*.tar"}, BatchSize: 16, Shuffle: "global", Seed: 5, Prefetch: 2, Timeout: 30 * time.Second, SharedMemory: true,
	}, c.client)
	if err != nil {
		return nil, err
	}
	defer func() { _ = l.Close() }()
	if err := l.Start(loader.Run{Epoch: 3, Rank: rank, World: 2}); err != nil {
		return nil, err
	}
	var out []arena.Batch
	for {
		for len(out) >= allowed() && ctx.Err() == nil {
			pauseOrEnd(ctx, 2*time.Millisecond)
		}
		began := time.Now()
		slot, table, err := l.Next(60 * time.Second)
		if errors.Is(err, loader.ErrEnd) {
			return out, nil
		}
		if err != nil {
			return out, fmt.Errorf("batch %d: %w", len(out), err)
		}
		if took := int64(time.Since(began)); took > gap.Load() {
			gap.Store(took)
		}
		mem, err := l.View(slot)
		if err != nil {
			return out, err
		}
		out = append(out, arena.Read(mem, table))
		if err := l.Release(slot); err != nil {
			return out, err
		}
		pauseOrEnd(ctx, 10*time.Millisecond) // as a trainer does
	}
}

const fastSettings = `lease_ttl: 2s
heal_after: 1s
delete_grace: 2s
tombstone_grace: 10s
`

// TestTheClusterChangesUnderTraffic: a target joins, one is drained and one dies for good, under readers, writers and a
// stream of two ranks. No read fails, listings have what was written, and the stream is what it would have been.
func TestTheClusterChangesUnderTraffic(t *testing.T) {
	random := seeded(t)
	settings := filepath.Join(t.TempDir(), "settings.yaml")
	require.NoError(t, os.WriteFile(settings, []byte(fastSettings), 0o600))
	c := start(t, t.TempDir(), "--targets", "3", "--disks", "1", "--config", settings)
	c.mustRun("bucket", "create", "train", "--mirror", "2")
	c.mustRun("bucket", "create", "live", "--mirror", "2")
	const shards, samples = 16, 96
	for i := range shards {
		content := shard(t, uint64(1000*i), samples, 40_000)
		_, err := c.client.PutObject(t.Context(), "train", fmt.Sprintf("%04d.tar", i), bytes.NewReader(content), int64(len(content)), api.PutOptions{})
		require.NoError(t, err)
	}
	var gap atomic.Int64
	var want, got [2][]arena.Batch
	for rank := range want {
		var err error
		want[rank], err = c.rank(t.Context(), rank, func() int { return math.MaxInt }, &gap)
		require.NoError(t, err)
	}

	x := &traffic{c: c, bucket: "live", written: map[string]uint64{}, failed: make(chan error, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	all := x.run(ctx, 4, 2, random.Uint64())
	stop := sync.OnceFunc(func() { cancel(); all.Wait() })
	defer stop()
	c.eventually("nothing is written", func() bool { return x.writes.Load() > 100 })
	before := x.rate(2 * time.Second)

	var ranks sync.WaitGroup
	var failures [2]error
	var allowed atomic.Int64 // batches: a quarter before anything happens, and another in each step
	quarter := int64(len(want[0]) / 4)
	allowed.Store(quarter)
	for rank := range got {
		ranks.Go(func() { got[rank], failures[rank] = c.rank(ctx, rank, func() int { return int(allowed.Load()) }, &gap) })
	}
	step := func(what string, do func()) {
		began, refused := time.Now(), x.refused.Load()
		gap.Store(0)
		do()
		allowed.Add(quarter)
		during := x.rate(2 * time.Second)
		x.compare(t)
		c.settled()
		x.compare(t)
		t.Logf("%s: settled after %v; %.0f reads/s in the first 2 s, %.0f before (%.0f %%); %d PUTs tried again; the longest wait for a batch: %v", what,
			time.Since(began).Round(time.Millisecond), during, before, 100*during/before, x.refused.Load()-refused, time.Duration(gap.Load()))
	}
	var extra *exec.Cmd
	step("join", func() { extra = c.joinTarget("extra", "--config", settings) })
	step("drain", func() {
		_, err := c.client.Drain(t.Context(), "target-1", true)
		require.NoError(t, err)
	})
	step("kill", func() { require.NoError(t, extra.Process.Signal(syscall.SIGKILL)) })
	allowed.Store(math.MaxInt)
	ranks.Wait()
	x.compare(t)
	stop()
	select {
	case err := <-x.failed:
		require.NoError(t, err)
	default:
	}
	for rank := range want {
		require.NoError(t, failures[rank])
		require.Equal(t, want[rank], got[rank], "rank %d", rank)
	}
	t.Logf("%d reads, %d writes", x.reads.Load(), x.writes.Load())
}
