package sandbox_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/shardstream/shardstream/etl/sandbox"
)

func TestRemove(t *testing.T) {
	dir := tree(t, "victim/file", "gone/a/b/c", "gone/a/d", "gone/closed/e/f", "gone/wide/1/x", "gone/wide/2/x", "gone/wide/3/x")
	gone := filepath.Join(dir, "gone")
	require.NoError(t, os.Symlink(dir+"/victim", gone+"/link"))
	require.NoError(t, os.Symlink(dir+"/victim", gone+"/a/b/link"))
	require.NoError(t, os.Link(dir+"/victim/file", gone+"/a/hard"))
	require.NoError(t, unix.Mkfifo(gone+"/a/pipe", 0o600))
	require.NoError(t, os.Chmod(gone+"/closed/e", 0))
	require.NoError(t, os.Chmod(gone+"/closed", 0))
	require.NoError(t, sandbox.Remove(gone))
	require.NoDirExists(t, gone)
	require.FileExists(t, dir+"/victim/file")
	require.NoError(t, sandbox.Remove(gone), "what is gone is no error")

	require.NoError(t, os.Symlink(dir+"/victim", gone))
	require.NoError(t, sandbox.Remove(gone))
	require.FileExists(t, dir+"/victim/file")
}

// A program may nest directories deeper than a process can have descriptors, and paths be long.
func TestRemoveDeep(t *testing.T) {
	var old unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &old))
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 200, Max: old.Max}))
	defer func() { require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &old)) }()
	dir := filepath.Join(t.TempDir(), "deep")
	require.NoError(t, os.Mkdir(dir, 0o700))
	at, err := unix.Open(dir, unix.O_DIRECTORY, 0)
	require.NoError(t, err)
	for range 5000 {
		require.NoError(t, unix.Mkdirat(at, "d", 0o700))
		next, err := unix.Openat(at, "d", unix.O_DIRECTORY, 0)
		require.NoError(t, err)
		require.NoError(t, unix.Close(at))
		at = next
	}
	require.NoError(t, unix.Close(at))
	require.NoError(t, sandbox.Remove(dir))
	require.NoDirExists(t, dir)
}
