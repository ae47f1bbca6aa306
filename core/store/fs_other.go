//go:build !linux

package store

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

func usage(dir *os.File) (used, free, capacity int64, err error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &st); err != nil {
		return 0, 0, 0, fmt.Errorf("statfs: %w", err)
	}
	unit := int64(st.Bsize)
	capacity = int64(st.Blocks) * unit
	return capacity - int64(st.Bfree)*unit, int64(st.Bavail) * unit, capacity, nil
}

func startWrite(*os.File, int64, int64) {}

func lockFile(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return errInUse
	}
	return err
}

func noSpace(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

func systemDeviceError(error) bool { return false }
