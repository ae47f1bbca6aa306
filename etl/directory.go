package etl

import (
	"errors"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	dirPrefix  = "shardstream-etl-"
	scriptName = "worker.py"
	// sweepAfter is the age at which a directory that nobody holds is debris; a younger one may be in the making.
	sweepAfter = time.Minute
)

// claim writes the worker script into a directory and holds a lock on it for as long as the file that it
// returns is open: for the life of this process, however it ends.
func claim(dir string) (*os.File, error) {
	script, err := os.OpenFile(filepath.Join(dir, scriptName), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	// Workers may run as another user, who must find the script.
	err = errors.Join(script.Chmod(0o644), os.Chmod(dir, 0o711)) //nolint:gosec // as said
	if err == nil {
		_, err = script.Write(workerSource)
	}
	if err == nil {
		err = unix.Flock(int(script.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		_ = script.Close()
		return nil, err
	}
	return script, nil
}

// sweep removes the directories of pools whose process was killed: the lock on their script is free.
func sweep(parent string) {
	if parent == "" {
		parent = os.TempDir()
	}
	found, err := filepath.Glob(filepath.Join(parent, dirPrefix+"*", scriptName))
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
	_ = os.RemoveAll(filepath.Dir(path)) // debris that can't be removed harms nobody
}
