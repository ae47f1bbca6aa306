package outputs

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// usage asks the file system of a directory what it has left for an ordinary user, and what it has.
func usage(dir string) (free, capacity int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, fmt.Errorf("statfs %s: %w", dir, err)
	}
	unit := int64(st.Bsize)
	return int64(st.Bavail) * unit, int64(st.Blocks) * unit, nil
}
