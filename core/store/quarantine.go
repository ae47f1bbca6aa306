package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// Bounds of what a disk keeps of damaged files.
const (
	maxQuarantined      = 64
	maxQuarantinedBytes = 1 << 30
)

// putAside moves the files of damaged copies to their disk's quarantine.
func (s *Store) putAside(old []copyOf) {
	for _, c := range old {
		if c.bare() {
			c.disk.done(c.file)
			continue
		}
		to, err := c.disk.quarantine(c.file, uint64(s.o.Now().UnixNano()))
		switch {
		case errors.Is(err, fs.ErrNotExist): // it was damaged by being gone
		case err != nil:
			s.log.Warn("damaged data file could not be put aside; the next start will remove it",
				"disk", c.disk.ID, "file", c.file.path(), "error", err)
		default:
			s.log.Warn("damaged data file is put aside", "disk", c.disk.ID, "object", c.info.Bucket+"/"+c.info.Name, "file", to)
		}
		c.disk.done(c.file)
	}
}

// quarantine moves a file into the quarantine, and makes room for it there. The names begin with the time, in
// nanoseconds since 1970: they sort by age.
func (k *disk) quarantine(id fileID, now uint64) (string, error) {
	if err := k.fs.Mkdir(quarantineDir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	to := fmt.Sprintf("%s/%016x-%s", quarantineDir, now, id)
	if err := k.fs.Rename(id.path(), to); err != nil {
		return "", err
	}
	atQuarantine.Hit()
	return to, k.trimQuarantine()
}

// trimQuarantine removes the oldest files until the rest, or the newest alone, are within the bounds.
func (k *disk) trimQuarantine() error {
	entries, err := k.fs.ReadDir(quarantineDir)
	if err != nil {
		return err
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(b.Name(), a.Name()) }) // newest first
	var bytes int64
	for n, e := range entries {
		name := quarantineDir + "/" + e.Name()
		size, err := k.sizeOf(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // trimmed by another call
			return err
		}
		if bytes += size; n == 0 || n < maxQuarantined && bytes <= maxQuarantinedBytes {
			continue
		}
		if err := k.fs.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (k *disk) sizeOf(name string) (int64, error) {
	f, err := k.fs.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return 0, err
	}
	size, err := f.Size()
	return size, errors.Join(err, f.Close())
}
