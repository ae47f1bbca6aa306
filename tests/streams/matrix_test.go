package streams_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/shardstream/shardstream/loader"
	"github.com/shardstream/shardstream/tests/arena"
)

const (
	matrixCombinations = 216
	matrixBatch        = 5
	matrixSeed         = 42
)

// resumption is a combination's resume points: where the loaders are closed and others go on from the
// checkpoint. A point is a fraction of the steps that are left; delta changes the world size there.
type resumption struct {
	name   string
	points []point
}

type point struct {
	part  float64
	delta int
}

var resumptions = []resumption{
	{name: "whole"},
	{"resume-early", []point{{0.01, 0}}},
	{"resume-middle", []point{{0.5, 0}}},
	{"resume-middle-smaller-world", []point{{0.5, -2}}},
	{"resume-late-larger-world", []point{{0.9, 3}}},
	{"resume-twice", []point{{0.4, 1}, {0.5, -1}}},
	{"resume-at-end", []point{{1, 0}}},
}

var shuffles = []string{"global", "window", "shards", "none"}

var transports = []string{"tcp", "shared"}

// factors are how many values each factor of a combination has: world, workers, targets, shuffle, kill,
// resumption, transport.
var factors = [7]int{8, 4, 5, len(shuffles), 2, len(resumptions), len(transports)}

// combination holds an index for each factor.
type combination [len(factors)]int

func (c combination) world() int           { return c[0] + 1 }
func (c combination) workers() int         { return c[1] }
func (c combination) targets() int         { return c[2] + 1 }
func (c combination) shuffle() string      { return shuffles[c[3]] }
func (c combination) kill() bool           { return c[4] == 1 }
func (c combination) resuming() resumption { return resumptions[c[5]] }
func (c combination) transport() string    { return transports[c[6]] }

func (c combination) String() string {
	kill := "calm"
	if c.kill() {
		kill = "kill"
	}
	return fmt.Sprintf("world%d-workers%d-targets%d-%s-%s-%s-%s", c.world(), c.workers(), c.targets(), c.shuffle(), c.transport(), kill, c.resuming().name)
}

// pairs calls f for each pair of factor values in c.
func (c combination) pairs(f func([4]int)) {
	for a := range c {
		for b := a + 1; b < len(c); b++ {
			f([4]int{a, c[a], b, c[b]})
		}
	}
}

// covering draws n different combinations, greedily the one of a handful whose pairs of values were seen
// least: every pair is covered early, and as evenly as may be at the end.
func covering(n int) []combination {
	rng := rand.New(rand.NewPCG(4, 2))
	seen, taken := map[[4]int]int{}, map[combination]bool{}
	var drawn []combination
	for len(drawn) < n {
		var best combination
		score := -1.0
		for range 40 {
			var c combination
			for f := range c {
				c[f] = rng.IntN(factors[f])
			}
			var s float64
			c.pairs(func(p [4]int) { s += 1 / float64(1+10*seen[p]) })
			if s > score && !taken[c] {
				best, score = c, s
			}
		}
		taken[best] = true
		best.pairs(func(p [4]int) { seen[p]++ })
		drawn = append(drawn, best)
	}
	return drawn
}

// matrix is what the combinations share: a cluster for each number of targets, all with the same shards.
type matrix struct {
	ref      *reference
	clusters map[int]*cluster
}

func newMatrix(t *testing.T) *matrix {
	t.Helper()
	m := &matrix{clusters: map[int]*cluster{}}
	var tars [][]byte
	for i := range matrixShards {
		tars = append(tars, matrixShard(t, i))
	}
	m.ref = newReference(t, tars)
	for n := 1; n <= factors[2]; n++ {
		c := newCluster(t, n)
		for i, data := range tars {
			c.put(fmt.Sprintf("train-%04d.tar", i), data)
		}
		c.seal()
		m.clusters[n] = c
	}
	return m
}

// TestMatrix holds P15 and P16: whatever the world, the workers, the number of targets and the resume
// points, and whatever dies meanwhile, what all ranks receive, put together by position, is one and the
// same sequence of bytes, which the tars and the sampler alone give.
func TestMatrix(t *testing.T) {
	if testing.Short() {
		t.Skip("streams some thousand epochs' parts")
	}
	drawn := covering(matrixCombinations)
	seen := map[[4]int]bool{}
	for _, c := range drawn {
		c.pairs(func(p [4]int) { seen[p] = true })
	}
	want := 0
	for a := range factors {
		for b := a + 1; b < len(factors); b++ {
			want += factors[a] * factors[b]
		}
	}
	require.Len(t, seen, want, "every pair of values")

	m := newMatrix(t)
	for i, c := range drawn {
		t.Run(c.String(), func(t *testing.T) { m.run(t, c, i) })
	}
}

// run streams one combination to its end and compares.
func (m *matrix) run(t *testing.T, co combination, number int) {
	c, epoch := m.clusters[co.targets()], uint64(number%3)
	want := m.ref.epoch(t, co.shuffle(), matrixSeed, epoch)
	if co.kill() {
		victim := number % co.targets()
		x := unleash(c, victim, m.held(c, victim)/3, uint64(number))
		defer func() {
			x.calm()
			require.True(t, x.killed, "nobody died")
		}()
	}
	got := make([][]byte, len(want))
	p := pass{c: c, shuffle: co.shuffle(), shared: co.transport() == "shared", world: co.world(), workers: co.workers(), run: loader.Run{Epoch: epoch, Snapshot: c.snap.ID()}}
	for _, at := range co.resuming().points {
		p.stopAt(at.part)
		p.read(t, got)
		p.world = max(1, min(8, p.world+at.delta))
		p.workers = (p.workers + 1) % 4 * min(1, p.workers) // another number of workers, too
	}
	p.steps = -1
	p.read(t, got)
	for pos := range want {
		require.True(t, bytes.Equal(want[pos], got[pos]), "position %d", pos)
	}
	require.True(t, bytes.Equal(bytes.Join(want, nil), bytes.Join(got, nil)))
}

// held is how many bytes of samples lie on a target.
func (m *matrix) held(c *cluster, target int) (n int64) {
	for shard, samples := range m.ref.samples {
		if shard%len(c.targets) == target {
			n += int64(len(bytes.Join(samples, nil)))
		}
	}
	return n
}

// pass is one set of loaders, of all ranks and workers, over a part of an epoch.
type pass struct {
	c              *cluster
	shuffle        string
	shared         bool
	world, workers int
	run            loader.Run
	steps          int64 // to read; -1: to the end
}

// stopAt sets how many steps are read, at least one.
func (p *pass) stopAt(part float64) {
	left := p.c.snap.Samples() - p.run.Position
	step := int64(p.world * matrixBatch)
	all := (left + step - 1) / step
	p.steps = min(all, max(1, int64(float64(all)*part)))
}

// read runs the loaders all at once and moves the checkpoint on. Every rank has to take the same steps.
func (p *pass) read(t *testing.T, got [][]byte) {
	workers := max(1, p.workers)
	batches := make([][]arena.Batch, p.world*workers)
	var group errgroup.Group
	for i := range batches {
		run := p.run
		run.Rank, run.World, run.Worker, run.Workers = i/workers, p.world, i%workers, p.workers
		group.Go(func() (err error) {
			batches[i], err = p.load(run)
			if err != nil {
				err = fmt.Errorf("rank %d, worker %d: %w", run.Rank, run.Worker, err)
			}
			return err
		})
	}
	require.NoError(t, group.Wait())
	next, steps := p.run.Position, make([]int, p.world)
	for i, b := range batches {
		require.NoError(t, collect(got, b))
		steps[i/workers] += len(b)
		for _, one := range b {
			next = max(next, one.Next)
		}
	}
	for rank := range steps {
		require.Equal(t, steps[0], steps[rank], "rank %d takes as many steps as rank 0", rank)
	}
	p.run.Position = next
}

// load is one loader: a rank's, or one worker's of it.
func (p *pass) load(run loader.Run) (out []arena.Batch, err error) {
	l, err := loader.New(loader.Config{
		Sources: []string{"ss://b/"}, BatchSize: matrixBatch, Shuffle: p.shuffle, Seed: matrixSeed, Prefetch: 2, Timeout: 20 * time.Second,
		SharedMemory: p.shared,
	}, p.c)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	if err := l.Start(run); err != nil {
		return nil, err
	}
	// Worker j of k has the steps j, j+k, ...
	for step := int64(run.Worker); p.steps < 0 || step < p.steps; step += int64(max(1, run.Workers)) {
		slot, at, err := l.Next(patience)
		if errors.Is(err, loader.ErrEnd) {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		mem, err := l.View(slot)
		if err != nil {
			return out, err
		}
		out = append(out, arena.Read(mem, at))
		if err := l.Release(slot); err != nil {
			return out, err
		}
	}
	return out, nil
}
