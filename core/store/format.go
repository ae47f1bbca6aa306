package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// The first line of FORMAT is formatName of the layout and its number; the second is "id: <disk id>".
const (
	formatPrefix  = "shardstream disk "
	formatVersion = 1 // that this release writes, and the newest that it reads
)

// errNewerFormat is the error for a disk that a newer release has written: a node that is started by the wrong release
// must not go on without its disks.
var errNewerFormat = errors.New("written by a newer release")

// format checks the FORMAT file, or makes a new disk.
func (k *disk) format() error {
	f, err := k.raw.OpenFile(formatName, os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		if k.Known {
			return fmt.Errorf("it has no %s file, though it was this node's disk before: is it mounted? "+
				"If it was replaced or wiped, enable it by hand, which begins it anew", formatName)
		}
		k.isNew = true
		err = k.formatNew()
		k.formatted = err == nil
		return err
	}
	if err != nil {
		return err
	}
	text, err := io.ReadAll(io.NewSectionReader(f, 0, 4096))
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := checkFormat(string(text), k.ID); err != nil {
		return err
	}
	k.formatted = true
	return nil
}

func checkFormat(text, id string) error {
	first, rest, _ := strings.Cut(text, "\n")
	number, ok := strings.CutPrefix(first, formatPrefix)
	version, err := strconv.Atoi(number)
	if !ok || err != nil || version < 1 {
		return fmt.Errorf("its %s file says %q, which no release writes", formatName, first)
	}
	if version > formatVersion {
		return fmt.Errorf("its %s file says %q, and this release reads up to %d: it was %w; start that one",
			formatName, first, formatVersion, errNewerFormat)
	}
	if was, _, _ := strings.Cut(strings.TrimPrefix(rest, "id: "), "\n"); was != id {
		return fmt.Errorf("it was formatted as disk %s: is the wrong disk mounted there?", was)
	}
	return nil
}

// present says whether the disk's directory is still where it was: its files can be open long after it was moved away,
// removed or unmounted.
func (k *disk) present() error {
	lost := func(err error) error { return fmt.Errorf("the directory is gone from %s: %w", k.Path, err) }
	f, err := k.raw.OpenFile(formatName, os.O_RDONLY, 0)
	if err != nil {
		return lost(err)
	}
	defer func() { _ = f.Close() }() // only read
	inside, err := f.OS().Stat()
	if err != nil {
		return lost(err)
	}
	outside, err := os.Stat(filepath.Join(k.Path, formatName))
	if err != nil {
		return lost(err)
	}
	if !os.SameFile(inside, outside) {
		return lost(errors.New("another has taken its place"))
	}
	return nil
}

// formatNew makes an empty directory a disk. FORMAT comes last: with it the disk is whole.
func (k *disk) formatNew() error {
	entries, err := k.fs.ReadDir(".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		switch e.Name() {
		case dataDir, tmpDir, lockName, "lost+found": // of an earlier attempt
		default:
			return fmt.Errorf("it is not empty (%s) and has no %s file: give an empty directory", e.Name(), formatName)
		}
	}
	dirs := []string{tmpDir, dataDir}
	for i := range 256 {
		dirs = append(dirs, fmt.Sprintf("%s/%02x", dataDir, i))
	}
	for _, dir := range dirs {
		if err := k.fs.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	if err := k.fs.SyncDir(dataDir); err != nil {
		return err
	}
	tmp := tmpDir + "/" + formatName
	f, err := k.fs.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(formatPrefix+strconv.Itoa(formatVersion)+"\nid: "+k.ID+"\n"), 0)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := k.fs.Rename(tmp, formatName); err != nil {
		return err
	}
	return k.fs.SyncDir(".")
}
