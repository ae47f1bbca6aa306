package streams_test

import (
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/shardstream/shardstream/loader"
)

// holdings are the descriptors and mappings of this process, in which loaders and targets both run. Of
// mappings those of files count: the runtime's own come and go. Loaders' memory is told apart, as targets
// keep it mapped for some seconds.
func holdings(t *testing.T) (files, slots int) {
	t.Helper()
	count := func(name string) {
		switch {
		case strings.Contains(name, "memfd:shardstream"):
			slots++
		case !strings.Contains(name, "/proc/"):
			files++
		}
	}
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	for _, e := range entries {
		if name, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil { // else that of ReadDir
			count(name)
		}
	}
	content, err := os.ReadFile("/proc/self/maps")
	require.NoError(t, err)
	for line := range strings.Lines(string(content)) {
		if strings.Contains(line, "memfd:shardstream") || strings.Contains(line, os.TempDir()) {
			count(line)
		}
	}
	return files, slots
}

// leaks are the ways in which a loader comes to its end.
var leaks = map[string]func(t *testing.T, c *cluster, edit func(*loader.Config)){
	"a whole epoch": func(t *testing.T, c *cluster, edit func(*loader.Config)) {
		l := brief(t, c, edit)
		run(t, l, loader.Run{})
		require.NoError(t, l.Close())
	},
	"never started": func(t *testing.T, c *cluster, edit func(*loader.Config)) {
		require.NoError(t, brief(t, c, edit).Close())
	},
	"given up in the middle": func(t *testing.T, c *cluster, edit func(*loader.Config)) {
		l := brief(t, c, edit)
		require.NoError(t, l.Start(loader.Run{}))
		_, err := next(t, l)
		require.NoError(t, err)
		require.NoError(t, l.Close())
	},
	"with a batch in hand": func(t *testing.T, c *cluster, edit func(*loader.Config)) {
		l := brief(t, c, edit)
		require.NoError(t, l.Start(loader.Run{}))
		_, _, err := l.Next(patience)
		require.NoError(t, err)
		require.NoError(t, l.Close())
	},
	"closed before anything came": func(t *testing.T, c *cluster, edit func(*loader.Config)) {
		l := brief(t, c, edit)
		require.NoError(t, l.Start(loader.Run{}))
		require.NoError(t, l.Close())
	},
	"refused": func(t *testing.T, c *cluster, edit func(*loader.Config)) {
		l := brief(t, c, edit)
		require.NoError(t, l.Start(loader.Run{Snapshot: "another"}))
		_, err := next(t, l)
		require.Error(t, err)
		require.NoError(t, l.Close())
	},
	"an error of the target": func(t *testing.T, c *cluster, edit func(*loader.Config)) {
		l := brief(t, c, func(cfg *loader.Config) { edit(cfg); cfg.ETL = "none" })
		require.NoError(t, l.Start(loader.Run{}))
		_, err := next(t, l)
		require.Error(t, err)
		require.NoError(t, l.Close())
	},
	"connections cut": func(t *testing.T, c *cluster, edit func(*loader.Config)) {
		left := int64(400_000)
		c.targets[0].setWrap(func(nc net.Conn) net.Conn {
			left += 300_000
			return &cutter{Conn: nc, left: left}
		})
		l := brief(t, c, edit)
		run(t, l, loader.Run{})
		require.NoError(t, l.Close())
		c.targets[0].setWrap(nil)
	},
	"a target away": func(t *testing.T, c *cluster, edit func(*loader.Config)) {
		c.targets[0].stop()
		l := brief(t, c, func(cfg *loader.Config) { edit(cfg); cfg.Timeout = 100 * time.Millisecond })
		require.NoError(t, l.Start(loader.Run{}))
		_, err := drain(t, l)
		require.Error(t, err)
		require.NoError(t, l.Close())
		c.targets[0].start()
	},
}

// brief opens a loader that the caller closes.
func brief(t *testing.T, c *cluster, edit func(*loader.Config)) *loader.Loader {
	t.Helper()
	cfg := loader.Config{Sources: []string{"ss://b/"}, BatchSize: 16, Shuffle: "global", Seed: 1, Prefetch: 2, Timeout: 10 * time.Second}
	edit(&cfg)
	l, err := loader.New(cfg, c)
	require.NoError(t, err)
	return l
}

// TestNothingIsLeft: however loaders end, again and again, no goroutine, descriptor or mapping of theirs
// or of the targets' remains.
func TestNothingIsLeft(t *testing.T) {
	for kind, shared := range map[string]bool{"TCP": false, "shared memory": true} {
		t.Run(kind, func(t *testing.T) {
			c := newCluster(t, 2).fill(3, 32, 60_000)
			c.budget(256<<20, time.Minute)
			edit := func(cfg *loader.Config) { cfg.SharedMemory = shared }
			for _, end := range leaks {
				end(t, c, edit) // the store keeps the shards' files
			}
			before, running := c.quiet(t), goleak.IgnoreCurrent()
			for name, end := range leaks {
				for range 3 {
					end(t, c, edit)
				}
				require.LessOrEqual(t, c.quiet(t), before, name)
				require.NoError(t, goleak.Find(append(servers, running)...), name)
			}
			require.Eventually(t, func() bool { _, slots := holdings(t); return slots == 0 }, patience, 50*time.Millisecond)
		})
	}
}

// servers are goroutines of listeners that targets have in place of those they had before.
var servers = []goleak.Option{
	goleak.IgnoreAnyFunction("net/http.(*Server).Serve"), goleak.IgnoreAnyFunction("net/http/httptest.(*Server).goServe.func1"),
}

// quiet waits until the targets' ends of all streams are gone, and counts what files are held.
func (c *cluster) quiet(t *testing.T) (files int) {
	t.Helper()
	c.requireReturned(t)
	last := -1
	require.Eventually(t, func() bool {
		files, _ = holdings(t)
		same := files == last
		last = files
		return same
	}, patience, 20*time.Millisecond)
	return files
}
