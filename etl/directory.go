package etl

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shardstream/shardstream/etl/sandbox"
)

const (
	dirPrefix  = "shardstream-etl-"
	scriptName = "worker.py"
	codeName   = "code" // directory of the script and what it imports: all of the pool's directory that a worker sees, but for its own
	// sweepAfter is the age at which a directory that nobody holds is debris; a younger one may be in the making.
	sweepAfter = time.Minute
)

// claim writes what workers run into a directory and holds a lock on the script for as long as the file that it
// returns is open: for the life of this process, however it ends.
func claim(dir string) (*os.File, error) {
	code := filepath.Join(dir, codeName)
	if err := errors.Join(os.Chmod(dir, 0o711), os.Mkdir(code, 0o755)); err != nil { //nolint:gosec // workers may run as another user
		return nil, err
	}
	script, err := os.OpenFile(filepath.Join(code, scriptName), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err = unix.Flock(int(script.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
		err = errors.Join(script.Chmod(0o644), unpack(code))
	}
	if err != nil {
		_ = script.Close()
		return nil, err
	}
	return script, nil
}

// unpack writes the workers' files into a directory in which the script is there, and empty.
func unpack(dir string) error {
	return fs.WalkDir(workerFiles, "worker", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		to := filepath.Join(dir, strings.TrimPrefix(path, "worker"))
		if entry.IsDir() {
			return os.MkdirAll(to, 0o755) //nolint:gosec // workers may run as another user
		}
		data, err := workerFiles.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(to, data, 0o644) //nolint:gosec // workers may run as another user
	})
}

// sweep removes the directories of pools whose process was killed: the lock on their script is free.
func sweep(parent string) {
	if parent == "" {
		parent = os.TempDir()
	}
	found, err := filepath.Glob(filepath.Join(parent, dirPrefix+"*", codeName, scriptName))
	if err != nil {
		return
	}
	for _, path := range found {
		sweepOne(path)
	}
}

func sweepOne(path string) {
	script, err := os.Open(path)
	if err != nil {
		return // another user's, or gone meanwhile
	}
	defer func() { _ = script.Close() }()
	info, err := script.Stat()
	if err != nil || time.Since(info.ModTime()) < sweepAfter || unix.Flock(int(script.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return
	}
	_ = sandbox.Remove(filepath.Dir(filepath.Dir(path))) // debris that can't be removed harms nobody
}
