package sandbox

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Remove removes a directory that a program could write to, whatever the program has made of it: a tree deeper than
// there are descriptors, directories that are closed to their owner, links. Nothing that runs may use it any more.
func Remove(dir string) error {
	root, err := openDir(unix.AT_FDCWD, dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOTDIR):
		return os.Remove(dir)
	case err != nil:
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	defer func() { _ = root.Close() }()
	t := &tree{root: root, prefix: "." + rand.Text() + "."}
	if err := t.clear(); err != nil {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	return os.Remove(dir)
}

// tree is a directory that is being emptied. What lies in a directory below it is moved up before that is removed, so
// that no more than two are ever open.
type tree struct {
	root   *os.File
	prefix string // of the names of what was moved up
	moved  int
}

func (t *tree) clear() error {
	for {
		n, err := each(t.root, t.drop)
		if n == 0 || err != nil {
			return err
		}
		if _, err := t.root.Seek(0, io.SeekStart); err != nil {
			return err
		}
	}
}

// drop removes an entry of the root.
func (t *tree) drop(name string) error {
	root := int(t.root.Fd())
	if err := unlink(root, name); !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) {
		return err
	}
	for {
		dir, err := openDir(root, name)
		if err != nil {
			return err
		}
		n, err := each(dir, func(inner string) error { return t.lift(int(dir.Fd()), inner) })
		if err := errors.Join(err, dir.Close()); err != nil {
			return err
		}
		if n == 0 {
			return unlink(root, name)
		}
	}
}

// lift removes an entry of a directory, or moves it up to the root.
func (t *tree) lift(dir int, name string) error {
	err := unlink(dir, name)
	if !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) {
		return err
	}
	inner, err := openDir(dir, name) // makes it writable, which a directory has to be to be moved
	if err != nil {
		return err
	}
	_ = inner.Close()
	t.moved++
	return unix.Renameat(dir, name, int(t.root.Fd()), fmt.Sprintf("%s%d", t.prefix, t.moved))
}

// each calls do for the entries that a directory has, some at a time, and returns how many there were.
func each(dir *os.File, do func(name string) error) (int, error) {
	count := 0
	for {
		names, err := dir.Readdirnames(256)
		for _, name := range names {
			if err := do(name); err != nil {
				return count, err
			}
		}
		count += len(names)
		if errors.Is(err, io.EOF) {
			return count, nil
		}
		if err != nil {
			return count, err
		}
	}
}

// unlink removes a file or an empty directory. What is gone already is no error.
func unlink(dir int, name string) error {
	err := unix.Unlinkat(dir, name, 0)
	if errors.Is(err, unix.EISDIR) || errors.Is(err, unix.EPERM) {
		err = unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// openDir opens a directory, no link to one, and makes it its owner's to change.
func openDir(at int, name string) (*os.File, error) {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(at, name, flags, 0)
	if errors.Is(err, unix.EACCES) && unix.Fchmodat(at, name, 0o700, unix.AT_SYMLINK_NOFOLLOW) == nil {
		fd, err = unix.Openat(at, name, flags, 0)
	}
	if err != nil {
		return nil, err
	}
	_ = unix.Fchmod(fd, 0o700) // where that fails, removing says why
	return os.NewFile(uintptr(fd), filepath.Base(name)), nil
}
