package etl_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/etl"
)

// nodeDirEnv makes this test binary play a node that is busy until it is killed.
const nodeDirEnv = "ETL_TEST_NODE_DIR"

func runNode(dir string) {
	pool, err := etl.NewPool(etl.Definition{Name: "busy", Workers: 2, Source: `
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
def transform(sample):
    while True:
        pass
`}, etl.Options{Dir: dir})
	if err != nil {
		panic(err)
	}
	in := []etl.Sample{{Key: "a"}, {Key: "b"}}
	_ = pool.Transform(context.Background(), nil, in, make([]etl.Result, 2))
}

// A node that is killed takes its workers with it, and the next one clears up what it left on disk.
func TestWorkersDieWithTheirNode(t *testing.T) {
	dir := t.TempDir()
	node := exec.Command(os.Args[0])
	node.Env = append(os.Environ(), nodeDirEnv+"="+dir)
	require.NoError(t, node.Start())
	require.Eventually(t, func() bool { return len(processesIn(dir)) == 2 }, 30*time.Second, 5*time.Millisecond)
	require.NoError(t, node.Process.Kill())
	_ = node.Wait()
	require.Eventually(t, func() bool { return len(processesIn(dir)) == 0 }, 10*time.Second, 5*time.Millisecond)

	left, err := filepath.Glob(filepath.Join(dir, "*", "code", "worker.py"))
	require.NoError(t, err)
	require.Len(t, left, 1)
	old := time.Now().Add(-time.Hour)
	require.NoError(t, os.Chtimes(left[0], old, old))
	def := etl.Definition{Name: "next", Source: "def transform(s): return s"}
	require.NoError(t, ready(t.Context(), def, etl.Options{Dir: dir}))
	require.NoFileExists(t, left[0])
}

// What is in use is never taken for debris, however old it is.
func TestDirectoriesInUseAreKept(t *testing.T) {
	var dir string
	pool := newPool(t, "def transform(s): return s", func(_ *etl.Definition, o *etl.Options) { dir = o.Dir })
	transform(t, pool, sample("k"))
	scripts, err := filepath.Glob(filepath.Join(dir, "*", "code", "worker.py"))
	require.NoError(t, err)
	require.Len(t, scripts, 1)
	old := time.Now().Add(-time.Hour)
	require.NoError(t, os.Chtimes(scripts[0], old, old))
	require.NoError(t, ready(t.Context(), etl.Definition{Name: "x", Source: "def transform(s): return s"}, etl.Options{Dir: dir}))
	require.FileExists(t, scripts[0])
}
