package faults

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/loader"
	"github.com/shardstream/shardstream/sampler"
	"github.com/shardstream/shardstream/tests/arena"
)

// cutting is a proxy before one target that ends connections in the middle of a payload.
type cutting struct {
	listener net.Listener
	target   string
	budget   atomic.Int64 // connections that are still to be cut
	cuts     atomic.Int64
	running  sync.WaitGroup
}

// cutAfter is how much of a stream the proxy lets pass: some samples and a part of one.
const cutAfter = 3_333_333

func newCutting(t *testing.T, target string) *cutting {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &cutting{listener: listener, target: target}
	p.running.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			p.running.Go(func() { p.serve(client) })
		}
	})
	t.Cleanup(func() { _ = listener.Close() }) // connections end with their loaders
	return p
}

func (p *cutting) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer server.Close()
	p.running.Go(func() {
		_, _ = io.Copy(server, client)
		_ = server.Close()
	})
	if p.budget.Add(-1) < 0 {
		_, _ = io.Copy(client, server)
		return
	}
	if n, _ := io.CopyN(client, server, cutAfter); n == cutAfter {
		p.cuts.Add(1)
	}
}

// detour is a cluster's control in whose map one target is reached by the proxy.
type detour struct {
	loader.Control
	node, addr string
}

func (d *detour) turn(m *api.Map) {
	nodes := append([]api.Node{}, m.Nodes...)
	for i := range nodes {
		if nodes[i].ID == d.node {
			nodes[i].Addr = d.addr
		}
	}
	m.Nodes = nodes
}

func (d *detour) OpenStream(ctx context.Context, req api.StreamRequest) (api.StreamInfo, error) {
	info, err := d.Control.OpenStream(ctx, req)
	d.turn(&info.Map)
	return info, err
}

func (d *detour) RefreshMap(ctx context.Context) (*api.Placer, error) {
	p, err := d.Control.RefreshMap(ctx)
	if err != nil {
		return nil, err
	}
	m := p.Map
	d.turn(&m)
	return &api.Placer{Map: m}, nil
}

// receipt is one sample that a rank received.
type receipt struct {
	rank int
	key  string
	crc  uint32
}

// ledger records who received what, by epoch and position.
type ledger struct {
	mu      sync.Mutex
	entries map[uint64]map[int64]receipt
	twice   []string
}

func (l *ledger) record(epoch uint64, rank int, b arena.Batch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.entries[epoch] == nil {
		l.entries[epoch] = map[int64]receipt{}
	}
	for i, key := range b.Keys {
		if b.Mask != nil && b.Mask[i] == 0 {
			continue // padding
		}
		pos := b.Start + int64(i)
		if had, ok := l.entries[epoch][pos]; ok {
			l.twice = append(l.twice, fmt.Sprintf("epoch %d, position %d: rank %d and rank %d", epoch, pos, had.rank, rank))
		}
		l.entries[epoch][pos] = receipt{rank, key, crc32.ChecksumIEEE(b.Columns["bin"].Ragged[i])}
	}
}

const (
	ledgerEpochs  = 3
	ledgerWorld   = 4
	ledgerShards  = 12
	ledgerSamples = 48
	ledgerSize    = 250_000 // far more in all than sockets hold
	ledgerBatch   = 8
	ledgerSeed    = 9
)

// TestThreeEpochsExactlyOnce: four ranks, one of which is 100 times slower than the others, read three
// epochs while a target is killed and rejoins, a gateway is killed, and connections are cut in the middle
// of a payload. Each sample of each epoch reaches one rank once, at the position that the seed gives it,
// with its bytes. Half of the ranks read over TCP, half through shared memory; half read
// ahead into the next epoch.
func TestThreeEpochsExactlyOnce(t *testing.T) {
	c := start(t, t.TempDir(), "--targets", "3", "--gateways", "2", "--disks", "1")
	c.mustRun("bucket", "create", "train")
	sums := make([][]uint32, ledgerShards)
	for i := range sums {
		content := shard(t, uint64(1000*i), ledgerSamples, ledgerSize)
		_, err := c.client.PutObject(t.Context(), "train", fmt.Sprintf("%04d.tar", i), bytes.NewReader(content), int64(len(content)), api.PutOptions{})
		require.NoError(t, err)
		for s := range ledgerSamples {
			sums[i] = append(sums[i], crc32.ChecksumIEEE(randomBytes(uint64(1000*i)+uint64(s), ledgerSize)))
		}
	}
	proxied := "target-2"
	var addr string
	for _, n := range c.status().Nodes {
		if n.ID == proxied {
			addr = n.Addr
		}
	}
	proxy := newCutting(t, addr)
	control := &detour{Control: c.client, node: proxied, addr: proxy.listener.Addr().String()}

	kill := func(node string) {
		pid := c.pid(node)
		if pid == 0 || syscall.Kill(pid, syscall.SIGKILL) != nil {
			t.Errorf("%s was not there to be killed", node)
		}
	}
	// What happens when rank 0 has a batch of an epoch.
	events := map[[2]int]func(){
		{0, 2}: func() { kill("target-1") },
		{1, 1}: func() { kill("gateway-1") },
		{1, 3}: func() { proxy.budget.Store(3) },
		{2, 2}: func() { kill("target-3") },
	}
	proxy.budget.Store(2)
	book := &ledger{entries: map[uint64]map[int64]receipt{}}
	steps := make([]int, ledgerWorld)
	var retries atomic.Int64
	var ranks errgroup.Group
	for rank := range ledgerWorld {
		ranks.Go(func() (err error) {
			l, err := loader.New(loader.Config{
				Sources: []string{"ss://train/*.tar"}, BatchSize: ledgerBatch, Shuffle: "global", Seed: ledgerSeed, Prefetch: 2,
				Timeout: 30 * time.Second, SharedMemory: rank%2 == 1, ReadAhead: rank < 2,
			}, control)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, l.Close()) }()
			// The others need some ms for a batch.
			pace := time.NewTicker(100 * time.Millisecond)
			defer pace.Stop()
			for epoch := range ledgerEpochs {
				if err := l.Start(loader.Run{Epoch: uint64(epoch), Rank: rank, World: ledgerWorld}); err != nil {
					return err
				}
				for batch := 0; ; batch++ {
					if event := events[[2]int{epoch, batch}]; event != nil && rank == 0 {
						event()
					}
					if rank == ledgerWorld-2 {
						<-pace.C
					}
					slot, at, err := l.Next(time.Minute)
					if errors.Is(err, loader.ErrEnd) {
						break
					}
					if err != nil {
						return fmt.Errorf("rank %d, epoch %d, batch %d: %w", rank, epoch, batch, err)
					}
					mem, err := l.View(slot)
					if err != nil {
						return err
					}
					book.record(uint64(epoch), rank, arena.Read(mem, at))
					steps[rank]++
					if err := l.Release(slot); err != nil {
						return err
					}
				}
			}
			retries.Add(l.Stats().Retries)
			return nil
		})
	}
	require.NoError(t, ranks.Wait())
	t.Logf("%d retries, %d connections cut", retries.Load(), proxy.cuts.Load())
	require.Positive(t, proxy.cuts.Load())
	require.Greater(t, retries.Load(), int64(2), "the kills went unnoticed: the epochs were too short for this test")
	book.check(t, sums)
	for rank := range steps {
		require.Equal(t, ledgerEpochs*ledgerShards*ledgerSamples/ledgerWorld/ledgerBatch, steps[rank], "rank %d", rank)
	}
	c.awaitOK()
}

// check compares the ledger with the order that the sampler gives, and the bytes that were put.
func (l *ledger) check(t *testing.T, sums [][]uint32) {
	t.Helper()
	require.Empty(t, l.twice)
	shards := make([]sampler.Shard, len(sums))
	for i := range shards {
		shards[i] = sampler.Shard{Name: fmt.Sprintf("train/%04d.tar", i), Samples: int64(len(sums[i]))}
	}
	snap, err := sampler.NewSnapshot(shards)
	require.NoError(t, err)
	for epoch := range uint64(ledgerEpochs) {
		order, err := sampler.NewOrder(snap, sampler.Shuffle{Mode: sampler.Global, Seed: ledgerSeed}, epoch)
		require.NoError(t, err)
		require.Len(t, l.entries[epoch], int(snap.Samples()))
		for pos := range snap.Samples() {
			shard, i := order.At(pos)
			got := l.entries[epoch][pos]
			require.Equal(t, fmt.Sprintf("%06d", i), got.key, "epoch %d, position %d", epoch, pos)
			require.Equal(t, sums[shard][i], got.crc, "epoch %d, position %d", epoch, pos)
		}
	}
}
