package etl_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/etl"
	"github.com/shardstream/shardstream/etl/environment"
	"github.com/shardstream/shardstream/etl/environment/environmenttest"
)

const pids = "import os\ndef transform(sample):\n    return {'pid': os.getpid()}\n"

func environments(t *testing.T) *environment.Manager {
	t.Helper()
	m, err := environment.Open(t.TempDir(), environment.Options{})
	require.NoError(t, err)
	t.Cleanup(m.Close)
	return m
}

// furnished makes a pool of a function with requirements.
func furnished(t *testing.T, m *environment.Manager, source string, requirements ...string) *etl.Pool {
	t.Helper()
	pool, err := etl.NewPool(etl.Definition{Name: "probe", Source: source, Requirements: requirements, Workers: 2}, etl.Options{Environments: m})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, pool.Close()) })
	return pool
}

func TestPrepareStartsOneWorker(t *testing.T) {
	pool := newPool(t, pids, workers(3))
	require.Equal(t, etl.StateNew, pool.Health().State)
	require.NoError(t, pool.Prepare(t.Context()))
	require.Equal(t, 1, pool.Stats().Running)
	h := pool.Health()
	require.Equal(t, etl.StateReady, h.State)
	require.Empty(t, h.Detail)
	require.Regexp(t, `^3\.\d+\.\d+$`, h.Python)
	require.WithinDuration(t, time.Now(), h.Since, time.Minute)
	require.NoError(t, pool.Prepare(t.Context()), "nothing is left to do")
	require.Equal(t, 1, pool.Stats().Running)
}

func TestPrepareSaysWhyNot(t *testing.T) {
	pool := newPool(t, "import no_such_module", workers(2))
	var fault *etl.UserError
	require.ErrorAs(t, pool.Prepare(t.Context()), &fault)
	require.Contains(t, fault.Summary, "No module named 'no_such_module'")
	h := pool.Health()
	require.Equal(t, etl.StateFailed, h.State)
	require.Equal(t, fault.Summary, h.Detail)
	require.NoError(t, pool.Close())
	require.ErrorIs(t, pool.Prepare(t.Context()), etl.ErrClosed)
}

func TestRestartReplacesEveryWorker(t *testing.T) {
	pool := newPool(t, "import os, time\ndef transform(sample):\n    time.sleep(0.02)\n    return {'pid': os.getpid()}\n", workers(2))
	seen := func() map[int]bool {
		found := map[int]bool{}
		for _, r := range transform(t, pool, numbered(30)...) {
			require.NoError(t, r.Err)
			found[number(r)] = true
		}
		return found
	}
	before := seen()
	slow := newPool(t, "import os, time\ndef transform(sample):\n    time.sleep(1)\n    return {'pid': os.getpid()}\n", workers(1))
	running := make(chan []etl.Result, 1)
	go func() {
		out := make([]etl.Result, 1)
		_ = slow.Transform(t.Context(), nil, numbered(1), out)
		running <- out
	}()
	require.Eventually(t, func() bool { return slow.Stats().Running > 0 }, 10*time.Second, time.Millisecond)
	require.NoError(t, slow.Restart(t.Context()))
	out := <-running
	require.NoError(t, out[0].Err, "what is under way may finish")
	require.NotEqual(t, number(out[0]), number(transform(t, slow, numbered(1)...)[0]))

	require.NoError(t, pool.Restart(t.Context()))
	for pid := range seen() {
		require.False(t, before[pid], "a worker of before was asked")
	}
	require.Zero(t, pool.Stats().Restarts, "nothing died")
	require.Equal(t, etl.StateReady, pool.Health().State)
}

func TestRequirementsAreInstalled(t *testing.T) {
	index := environmenttest.New(t)
	index.Wheel("shade", "1.2", "def darker(x): return x // 2")
	pool := furnished(t, environments(t), "import shade, sys\nprint('loaded')\ndef transform(sample):\n    return {'x': shade.darker(84)}\n", "shade>=1")
	r := transform(t, pool, sample("k"))[0]
	require.NoError(t, r.Err)
	require.Equal(t, 42, number(r))
	require.Contains(t, pool.Logs(), "Successfully installed shade-1.2")
	require.Eventually(t, func() bool { return strings.Contains(pool.Logs(), "loaded\n") }, 5*time.Second, time.Millisecond)
}

func TestHealthFollowsTheBuild(t *testing.T) {
	index := environmenttest.New(t)
	index.Gated("slow", "1.0")
	pool := furnished(t, environments(t), "import slow\ndef transform(sample):\n    return {'v': slow.VERSION}\n", "slow")
	done := make(chan error, 1)
	go func() { done <- pool.Prepare(t.Context()) }()
	require.Eventually(t, func() bool {
		h := pool.Health()
		return h.State == etl.StateBuilding && strings.HasPrefix(h.Detail, "Preparing")
	}, 30*time.Second, time.Millisecond)
	index.Open("slow")
	require.NoError(t, <-done)
	require.Equal(t, etl.StateReady, pool.Health().State)
}

func TestUnmetRequirementsAreTheUsersFault(t *testing.T) {
	index := environmenttest.New(t)
	pool := furnished(t, environments(t), "import late\ndef transform(sample):\n    return {'x': late.X}\n", "late")
	out := make([]etl.Result, 1)
	err := pool.Transform(t.Context(), nil, numbered(1), out)
	var fault *etl.UserError
	require.ErrorAs(t, err, &fault)
	require.Equal(t, "there is no package that satisfies late", fault.Summary)
	require.Contains(t, fault.Traceback, "No matching distribution found for late")
	require.Contains(t, pool.Logs(), "No matching distribution found for late")
	require.Equal(t, etl.StateFailed, pool.Health().State)
	index.Wheel("late", "1.0", "X = 7")
	require.NoError(t, pool.Restart(t.Context()), "it is tried again at once")
	require.Equal(t, 7, number(transform(t, pool, sample("k"))[0]))
}

func TestPythonVersionIsTheWorkers(t *testing.T) {
	own, err := environment.FindPython(t.Context(), "")
	require.NoError(t, err)
	m := environments(t)
	pool, err := etl.NewPool(etl.Definition{Name: "probe", Source: pids, Python: own.Minor()}, etl.Options{Environments: m})
	require.NoError(t, err)
	t.Cleanup(func() { _ = pool.Close() })
	require.NoError(t, pool.Prepare(t.Context()))
	require.Equal(t, own.Version, pool.Health().Python)
	none, err := etl.NewPool(etl.Definition{Name: "probe", Source: pids, Python: "3.99"}, etl.Options{Environments: m})
	require.NoError(t, err)
	t.Cleanup(func() { _ = none.Close() })
	require.ErrorContains(t, none.Prepare(t.Context()), "there is no Python 3.99 on this node")
}
