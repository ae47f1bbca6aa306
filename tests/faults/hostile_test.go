package faults

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/shardstream/shardstream/cluster/api"
)

const (
	// memorySlack is what a target's own work makes its memory differ by between two looks: it has some 10 MiB at rest;
	// buffers for reuse go with the second collection that finds them idle, and the runtime hands memory back in its own time.
	memorySlack = 32 << 20
	hostile     = `
import ctypes, glob, os, socket, time
def transform(data):
    scope = {"data": b"done"}
    exec(data.decode(), globals(), scope)
    return scope["data"]
`
)

// deed is what a function does to an object, by which transformation, and what its request's error says.
type deed struct{ etl, code, want string }

// hostileObjects are objects whose transformation does what they say, and what the request must end with.
func hostileObjects(dir, gateway string, target int) map[string]deed {
	host, port, _ := strings.Cut(strings.TrimPrefix(gateway, "http://"), ":")
	return map[string]deed{
		"loop":      {"endless", "while True: pass", "timed out after 3 s"},
		"fork-bomb": {"endless", "while True:\n try: os.fork()\n except OSError: pass", ""}, // time or memory, whichever ends first
		"memory":    {"hostile", "x = bytearray(10 << 30)", "(--memory)"},
		"exit":      {"hostile", "os._exit(5)", "exit status 5"},
		"segfault":  {"hostile", "ctypes.string_at(0)", "SIGSEGV"},
		"output":    {"hostile", "data = bytes(2 << 20)", "max_output"},
		"disk":      {"hostile", "f = open('x', 'wb')\nwhile True: f.write(bytes(1 << 20))", ""},
		"key":       {"hostile", fmt.Sprintf("raise ValueError([open(f, 'rb').read(9) for f in glob.glob(%q + '/data/**', recursive=True) if os.path.isfile(f)] or 'nothing')", dir), "nothing"},
		"environ":   {"hostile", fmt.Sprintf("open('/proc/%d/environ')", target), "No such file"},
		"dial":      {"hostile", fmt.Sprintf("socket.create_connection((%q, %s), 2)", host, port), "ConnectionRefusedError"},
		"kill":      {"hostile", fmt.Sprintf("os.kill(%d, 9)", target), "ProcessLookupError"},
	}
}

// A cluster serves plain objects and other transformations while functions do their worst, and has nothing of them left.
func TestHostileFunctionsHarmOnlyTheirRequests(t *testing.T) {
	c := start(t, t.TempDir(), "--targets", "1", "--gateways", "1", "--etl-isolation", isolationHere(t))
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	c.mustRun("bucket", "create", "b")
	put := func(key, content string) {
		_, err := c.client.PutObject(ctx, "b", key, strings.NewReader(content), int64(len(content)), api.PutOptions{})
		require.NoError(t, err)
	}
	put("plain", "plain content")
	deploy := func(name, source string, timeout float64) {
		_, err := c.client.PutETL(ctx, api.ETL{
			Name: name, Level: "object", Source: source, Workers: 2, TimeoutS: timeout, Memory: 256 << 20, MaxOutput: 1 << 20,
		})
		require.NoError(t, err)
	}
	deploy("upper", "def transform(data):\n    return data.upper()\n", 60)
	begin := func() {
		deploy("hostile", hostile, 60)
		deploy("endless", hostile, 3) // for what does not end by itself
	}
	end := func() {
		for _, name := range []string{"hostile", "endless"} {
			require.NoError(t, c.client.DeleteETL(t.Context(), name))
			c.eventually("the workers are gone", func() bool { return workersOf(t, name) == 0 })
		}
	}
	begin()
	read := func(ctx context.Context, key string, etl ...string) (string, error) {
		r, err := c.client.GetObject(ctx, "b", key, api.GetOptions{ETL: etl})
		if err != nil {
			return "", err
		}
		defer r.Close()
		data, err := io.ReadAll(r)
		return string(data), err
	}
	pid := c.pid("target-1")
	objects := hostileObjects(c.dir, c.endpoint, pid)
	for key, o := range objects {
		put(key, o.code)
	}
	put("exit-first", "os._exit(1)")
	_, err := read(ctx, "exit-first", "hostile") // and a worker has come and gone once
	require.Error(t, err)
	end()
	for key := range objects { // the target keeps files open that were read
		_, err := read(ctx, key)
		require.NoError(t, err)
	}
	c.eventually("both workers are there", func() bool {
		both, ctx := errgroup.WithContext(ctx)
		for range 2 {
			both.Go(func() error { _, err := read(ctx, "plain", "upper"); return err })
		}
		require.NoError(t, both.Wait())
		return workersOf(t, "upper") == 2
	})
	memory := anonymous(t, pid)
	fds, _ := opened(t, pid)
	begin()

	traffic, ctx := errgroup.WithContext(ctx)
	stop := make(chan struct{})
	for want, etl := range map[string][]string{"plain content": nil, "PLAIN CONTENT": {"upper"}} {
		traffic.Go(func() error {
			for {
				select {
				case <-stop:
					return nil
				default:
				}
				if got, err := read(ctx, "plain", etl...); err != nil || got != want {
					return errors.Join(fmt.Errorf("etl %v gave %q", etl, got), err)
				}
			}
		})
	}
	for key, o := range objects {
		_, err := read(ctx, key, o.etl)
		var fault *api.Error
		require.ErrorAs(t, err, &fault, key)
		require.Contains(t, fault.Message, o.want, key)
		require.Contains(t, fault.Message, key, "the message names the object")
	}
	close(stop)
	require.NoError(t, traffic.Wait(), "other traffic suffered")
	require.Equal(t, pid, c.pid("target-1"), "the target died")

	end()
	c.backTo(pid, memory, fds)
	require.NoError(t, c.client.DeleteETL(t.Context(), "upper"))
	c.eventually("no control group is left", func() bool { return len(controlGroups(pid)) == 0 })
}

// backTo waits until a process has no more memory and descriptors than before. The Go runtime of a process at rest gives
// memory back after the collection that comes every two minutes; connections of clients that are idle stay for a while.
func (c *cluster) backTo(pid int, memory int64, fds int) {
	c.t.Helper()
	var now int64
	var open int
	for deadline := time.Now().Add(3 * time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if now, open = anonymous(c.t, pid), 0; now <= memory+max(memory/20, memorySlack) {
			if open, _ = opened(c.t, pid); open <= fds {
				c.t.Logf("memory: %d MiB before, %d MiB after; descriptors: %d, %d", memory>>20, now>>20, fds, open)
				return
			}
		}
	}
	require.Failf(c.t, "the target keeps what hostile functions have cost", "%d bytes of %d, %d descriptors of %d", now, memory, open, fds)
}

// isolationHere is strict where it can be had.
func isolationHere(t *testing.T) string {
	t.Helper()
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		if _, err := os.Stat(filepath.Join(dir, "bwrap")); err == nil {
			return "strict"
		}
	}
	t.Skip("bubblewrap is not installed: the levels below it are tested beside the workers")
	return ""
}

// workersOf counts the processes whose directory is that of a transformation's worker.
func workersOf(t *testing.T, etl string) (n int) {
	t.Helper()
	environments, err := filepath.Glob("/proc/[0-9]*/environ")
	require.NoError(t, err)
	for _, path := range environments {
		if env, err := os.ReadFile(path); err == nil && strings.Contains(string(env), "/shardstream-etl-"+etl+"-") {
			n++
		}
	}
	return n
}

// controlGroups are the groups that a node has made.
func controlGroups(pid int) []string {
	var found []string
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, entry os.DirEntry, err error) error {
		if err == nil && strings.HasPrefix(entry.Name(), "shardstream-etl.") && strings.Contains(path, fmt.Sprintf(".%d.", pid)) {
			found = append(found, path)
		}
		return nil
	})
	return found
}
