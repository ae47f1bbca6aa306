package etl_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/etl"
	"github.com/shardstream/shardstream/etl/sandbox"
)

// Each fault strikes sample 5 of 20 and must harm no other.
func TestFaultsHarmOnlyTheirSample(t *testing.T) {
	cases := map[string]struct{ fault, want, tail string }{
		"exit":       {`os._exit(3)`, "the worker process ended with exit status 3", ""},
		"exit zero":  {`os._exit(0)`, "the worker process ended with exit status 0", ""},
		"segfault":   {`ctypes.string_at(0)`, "killed by signal 11 (SIGSEGV)", "Segmentation fault"},
		"kill":       {`os.kill(os.getpid(), 9)`, "killed by signal 9 (SIGKILL; out of memory?)", ""},
		"abort":      {`os.abort()`, "killed by signal 6 (SIGABRT)", ""},
		"loop":       {"\n        while True: pass", "timed out after 0.4 s", ""},
		"sleep":      {`time.sleep(1000)`, "timed out after 0.4 s", ""},
		"stop":       {`os.kill(os.getpid(), 19)`, "timed out after 0.4 s", ""},
		"no signals": {"\n        signal.signal(15, signal.SIG_IGN); time.sleep(1000)", "timed out after 0.4 s", ""},
		"close":      {`os.closerange(3, 100)`, "the worker process ended with exit status 1", "Bad file descriptor"},
		"garbage":    {`os.write(3, b"x" * 100)`, "malformed frame", ""},
		"recursion":  {`f = lambda: f(); f()`, "NameError: name 'f' is not defined", ""},
		"memory":     {`bytearray(1 << 60)`, "MemoryError", ""},
		"interrupt":  {`raise KeyboardInterrupt`, "KeyboardInterrupt", ""},
		"dead exec":  {`os.execv("/bin/true", ["true"])`, "exit status 0", ""},
	}
	cases["recursion"] = struct{ fault, want, tail string }{"\n        def f(): f()\n        f()", "RecursionError", ""}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := newPool(t, `
import ctypes, os, signal, time
def transform(sample):
    if sample["n"] == b"5":
        `+c.fault+`
    return sample
`, timeout(400*time.Millisecond), workers(2))
			out := transform(t, pool, numbered(20)...)
			for i, r := range out {
				require.Equal(t, fmt.Sprintf("s/%04d", i), r.Key)
				if i != 5 {
					require.NoError(t, r.Err)
					require.Equal(t, strconv.Itoa(i), string(r.Fields[0].Value.Data))
				}
			}
			fault := userError(t, out[5])
			require.Contains(t, fault.Summary, c.want)
			require.Contains(t, fault.Traceback, c.tail)
			require.Equal(t, "s/0005", fault.Key)
			for _, r := range transform(t, pool, numbered(5)...) {
				require.NoError(t, r.Err, "the pool works on")
			}
		})
	}
}

func TestEverySampleCrashes(t *testing.T) {
	pool := newPool(t, "import os\ndef transform(sample):\n    os._exit(1)\n", workers(2))
	for _, r := range transform(t, pool, numbered(6)...) {
		require.Contains(t, userError(t, r).Summary, "exit status 1")
	}
	require.EqualValues(t, 6, pool.Stats().Restarts)
}

// An idle worker that something kills is nobody's fault.
func TestIdleDeathIsBlamedOnNobody(t *testing.T) {
	pool := newPool(t, "import os\ndef transform(sample):\n    return {'pid': os.getpid()}\n", isolation(sandbox.None)) // where pids are those of the node
	for range 3 {
		r := transform(t, pool, sample("k"))[0]
		require.NoError(t, r.Err)
		require.NoError(t, exec.Command("kill", "-9", strconv.Itoa(number(r))).Run())
	}
}

// isolation has workers run at a level.
func isolation(level string) func(*etl.Definition, *etl.Options) {
	return func(def *etl.Definition, opts *etl.Options) { def.Isolation, opts.Isolation = level, level }
}

// number is the value of a result's one field, an int.
func number(r etl.Result) int {
	n := 0
	for i, b := range r.Fields[0].Value.Data {
		n |= int(b) << (8 * i)
	}
	return n
}

func TestPrintsEndInTheLog(t *testing.T) {
	pool := newPool(t, `
import os, subprocess, sys
print("loaded")
def transform(sample):
    print("out", sample["n"].decode())
    sys.stderr.write("err, no newline")
    os.write(1, b"raw\n")
    subprocess.run(["echo", "child"])
    return {"stdin": sys.stdin.read()}
`)
	r := transform(t, pool, sample("k", "n", "42"))[0]
	require.NoError(t, r.Err)
	require.Empty(t, r.Fields[0].Value.Data)
	for _, want := range []string{"loaded\n", "out 42\n", "err, no newline", "raw\n", "child\n"} {
		require.Eventually(t, func() bool { return strings.Contains(pool.Logs(), want) }, 5*time.Second, 5*time.Millisecond, want)
	}
}

func TestFloodOfOutputIsBounded(t *testing.T) {
	pool := newPool(t, `
import sys
def transform(sample):
    for i in range(2000):
        sys.stdout.write("x" * 9999 + "\n")
    print("the end")
    return {}
`, func(_ *etl.Definition, o *etl.Options) { o.LogBytes = 32 << 10 })
	require.NoError(t, transform(t, pool, sample("k"))[0].Err)
	require.Eventually(t, func() bool { return strings.HasSuffix(pool.Logs(), "the end\n") }, 5*time.Second, 5*time.Millisecond)
	require.LessOrEqual(t, len(pool.Logs()), 32<<10)
}

func TestWorkersRunInParallel(t *testing.T) {
	pool := newPool(t, `
import time
def transform(sample):
    begun = time.monotonic_ns()
    time.sleep(0.05)
    return {"begun": begun, "ended": time.monotonic_ns()}
`, workers(4))
	// The first rounds start the workers; then four samples must be in hand at some moment.
	require.Eventually(t, func() bool {
		var begun, ended []int
		for _, r := range transform(t, pool, numbered(16)...) {
			require.NoError(t, r.Err)
			begun = append(begun, int(binary.LittleEndian.Uint64(r.Fields[0].Value.Data)))
			ended = append(ended, int(binary.LittleEndian.Uint64(r.Fields[1].Value.Data)))
		}
		most := 0
		for _, now := range begun {
			n := 0
			for i := range begun {
				if begun[i] <= now && now < ended[i] {
					n++
				}
			}
			most = max(most, n)
		}
		require.LessOrEqual(t, most, 4)
		return most == 4
	}, 30*time.Second, time.Millisecond)
	require.Equal(t, 4, pool.Stats().Running)
}

func TestWorkersStartWhenNeeded(t *testing.T) {
	pool := newPool(t, "def transform(s): return s", workers(8))
	require.Zero(t, pool.Stats().Running)
	transform(t, pool, sample("k"))
	require.Equal(t, 1, pool.Stats().Running)
}

func TestEnvironmentHoldsNoSecrets(t *testing.T) {
	t.Setenv("SHARDSTREAM_TOKEN", "secret")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	pool := newPool(t, `
import os, sys
def transform(sample):
    fds = sorted(int(f) for f in os.listdir("/proc/self/fd"))
    return {"env": " ".join(sorted(os.environ)), "fds": str(fds), "path": str(sys.path), "cwd": os.getcwd()}
`)
	r := transform(t, pool, sample("k"))[0]
	require.NoError(t, r.Err)
	text := func(name string) string { v, _ := r.Field(name); return string(v.Data) }
	allowed := map[string]bool{"MALLOC_MMAP_THRESHOLD_": true, "MALLOC_TRIM_THRESHOLD_": true, "PATH": true, "HOME": true, "LANG": true, "TMPDIR": true, "XDG_CACHE_HOME": true, "USER": true, "LOGNAME": true, "LC_CTYPE": true}
	for _, name := range strings.Fields(text("env")) {
		require.True(t, allowed[name] || strings.HasSuffix(name, "_NUM_THREADS"), name)
	}
	require.Equal(t, "[0, 1, 2, 3, 4]", text("fds"), "the socket, and the listing itself")
	require.NotContains(t, text("path"), "shardstream-etl-")
	require.Contains(t, text("cwd"), "shardstream-etl-probe-")
}

func TestChildrenOfAWorkerDieWithIt(t *testing.T) {
	dir := t.TempDir()
	pool := newPool(t, `
import os, subprocess, time
def transform(sample):
    child = subprocess.Popen(["sleep", "1000"])
    if os.fork() == 0:
        return {"n": 1}  # a child that goes on as if it were the worker
    time.sleep(0.05)
    return {"pid": child.pid}
`, func(_ *etl.Definition, o *etl.Options) { o.Dir = dir })
	out := transform(t, pool, numbered(4)...)
	for _, r := range out {
		require.NoError(t, r.Err)
	}
	require.NotEmpty(t, processesIn(dir))
	require.NoError(t, pool.Close())
	require.Eventually(t, func() bool { return len(processesIn(dir)) == 0 }, 5*time.Second, 5*time.Millisecond)
}

func TestCancelReturnsSoonAndHarmsNobodyElse(t *testing.T) {
	pool := newPool(t, `
import time
def transform(sample):
    if sample["n"] == b"slow":
        time.sleep(100)
    return sample
`, workers(2))
	transform(t, pool, numbered(40)...)
	ctx, cancel := context.WithCancel(t.Context())
	in, out := []etl.Sample{sample("k", "n", "slow"), sample("k", "n", "slow")}, make([]etl.Result, 2)
	done := make(chan error, 1)
	go func() { done <- pool.Transform(ctx, nil, in, out) }()
	require.Eventually(t, func() bool { return pool.Stats().Waiting == 2 }, 5*time.Second, time.Millisecond)
	cancel()
	begun := time.Now()
	require.ErrorIs(t, <-done, context.Canceled)
	require.Less(t, time.Since(begun), 2*time.Second)
	for _, r := range transform(t, pool, numbered(40)...) {
		require.NoError(t, r.Err)
	}
	require.Zero(t, pool.Stats().Timeouts)
}

// A cancelled caller must not cost the next one a fresh process if the work in hand ends soon.
func TestCancelSparesAWorkerThatIsNearlyDone(t *testing.T) {
	pool := newPool(t, `
import os, time
def transform(sample):
    time.sleep(0.05)
    return {"pid": os.getpid()}
`)
	pid := number(transform(t, pool, sample("k"))[0])
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	require.NoError(t, pool.Transform(ctx, nil, numbered(1), make([]etl.Result, 1)), "it was finished within the grace")
	require.Equal(t, pid, number(transform(t, pool, sample("k"))[0]))
}

func TestCloseGivesUpRunningSamples(t *testing.T) {
	pool := newPool(t, "import time\ndef transform(sample):\n    time.sleep(100)\n", workers(2))
	done := make(chan error, 1)
	go func() { done <- pool.Transform(t.Context(), nil, numbered(8), make([]etl.Result, 8)) }()
	require.Eventually(t, func() bool { return pool.Stats().Running > 0 }, 10*time.Second, time.Millisecond)
	begun := time.Now()
	require.NoError(t, pool.Close())
	require.ErrorIs(t, <-done, etl.ErrClosed)
	require.Less(t, time.Since(begun), 3*time.Second)
	require.Zero(t, pool.Stats().Running)
}

func TestSourceThatDoesNotLoadFailsEveryCallAndRecovers(t *testing.T) {
	flag := t.TempDir() + "/there"
	pool := newPool(t, fmt.Sprintf(`
import os
if not os.path.exists(%q):
    raise RuntimeError("not today")
def transform(sample):
    return sample
`, flag), workers(2), isolation(sandbox.None)) // which sees the file system
	for range 3 {
		err := pool.Transform(t.Context(), nil, numbered(10), make([]etl.Result, 10))
		require.ErrorContains(t, err, `etl "probe" failed: RuntimeError: not today`)
		require.ErrorContains(t, err, `File "probe.py", line 4`)
	}
	require.NoError(t, os.WriteFile(flag, nil, 0o600))
	require.Eventually(t, func() bool {
		return pool.Transform(t.Context(), nil, numbered(10), make([]etl.Result, 10)) == nil
	}, 10*time.Second, 50*time.Millisecond)
}

func TestManyCallersAndFaultsAtOnce(t *testing.T) {
	pool := newPool(t, `
import os, time
def transform(sample):
    n = int(sample["n"])
    if n % 37 == 5:
        raise ValueError(n)
    if n % 101 == 7:
        os._exit(1)
    return {"n": n}
`, workers(3))
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			for i, r := range transform(t, pool, numbered(110)...) {
				if i%37 == 5 || i%101 == 7 {
					_ = userError(t, r)
					continue
				}
				require.NoError(t, r.Err)
				require.Equal(t, i, number(r))
			}
		})
	}
	wg.Wait()
}

// What all samples of a call become is held at once: that is bounded, however much each of them may return.
func TestResultsOfACallAreBounded(t *testing.T) {
	pool := newPool(t, "def transform(sample):\n    return {'x': b'.' * (1 << 20)}\n", func(d *etl.Definition, o *etl.Options) { o.MaxResults = 4 << 20 })
	out := make([]etl.Result, 10)
	require.NoError(t, pool.Transform(t.Context(), nil, numbered(10), out))
	good := 0
	for i := range out {
		if out[i].Err == nil {
			good++
			continue
		}
		var fault *etl.UserError
		require.ErrorAs(t, out[i].Err, &fault)
		require.Contains(t, fault.Summary, "more than 4194304 bytes together")
	}
	require.Equal(t, 4, good)
}
