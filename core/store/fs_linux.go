package store

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

func usage(dir *os.File) (used, free, capacity int64, err error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &st); err != nil { // a descriptor fits
		return 0, 0, 0, fmt.Errorf("statfs: %w", err)
	}
	unit := st.Bsize
	capacity = int64(st.Blocks) * unit                                             // below 8 EiB
	return capacity - int64(st.Bfree)*unit, int64(st.Bavail) * unit, capacity, nil // as above
}

// startWrite lets the disk work while the rest of the object still comes in, so that the fsync at the
// end has little to wait for.
func startWrite(f *os.File, off, n int64) {
	_ = unix.SyncFileRange(int(f.Fd()), off, n, unix.SYNC_FILE_RANGE_WRITE) // only a hint
}

// lockFile takes the exclusive lock that lives as long as the file is open.
func lockFile(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) // a descriptor fits
	if errors.Is(err, unix.EWOULDBLOCK) {
		return errInUse
	}
	return err
}

// noSpace says whether an error means that the disk, or our share of it, is full.
func noSpace(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// systemDeviceError knows the errors of a broken device that only this system has.
func systemDeviceError(err error) bool {
	return errors.Is(err, unix.EUCLEAN) || errors.Is(err, unix.EREMOTEIO)
}
