package store

import (
	"errors"
	"io"
	"io/fs"
	"os"
)

// FS is a disk's directory as the store uses it for its data files. All names are relative to it,
// slash-separated, and made by the store. Errors are those of package os. The metadata engine does
// not go through it.
type FS interface {
	OpenFile(name string, flag int, perm fs.FileMode) (File, error)
	Rename(from, to string) error
	Remove(name string) error
	Mkdir(name string, perm fs.FileMode) error
	ReadDir(name string) ([]fs.DirEntry, error)
	// SyncDir makes the entries of a directory durable.
	SyncDir(name string) error
	// Usage is the file system's capacity, and what of it is used and free to us, in bytes.
	Usage() (used, free, capacity int64, err error)
	Close() error
}

// File is an open file of an FS.
type File interface {
	io.ReaderAt
	io.WriterAt
	// StartWrite asks the system to begin to write a range to the disk; it promises nothing.
	StartWrite(off, n int64)
	Truncate(size int64) error
	Sync() error
	Size() (int64, error)
	Close() error
	// OS is the file itself.
	OS() *os.File
}

// DirFS gives access to a directory of the operating system. No name leads out of it, through a link
// neither.
func DirFS(path string) (FS, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	return &dirFS{root: root}, nil
}

type dirFS struct{ root *os.Root }

func (d *dirFS) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	f, err := d.root.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &osFile{f}, nil
}

func (d *dirFS) Rename(from, to string) error              { return d.root.Rename(from, to) }
func (d *dirFS) Remove(name string) error                  { return d.root.Remove(name) }
func (d *dirFS) Mkdir(name string, perm fs.FileMode) error { return d.root.Mkdir(name, perm) }
func (d *dirFS) Close() error                              { return d.root.Close() }

func (d *dirFS) ReadDir(name string) ([]fs.DirEntry, error) {
	f, err := d.root.Open(name)
	if err != nil {
		return nil, err
	}
	entries, err := f.ReadDir(-1)
	return entries, errors.Join(err, f.Close())
}

func (d *dirFS) SyncDir(name string) error {
	f, err := d.root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (d *dirFS) Usage() (used, free, capacity int64, err error) {
	f, err := d.root.Open(".")
	if err != nil {
		return 0, 0, 0, err
	}
	used, free, capacity, err = usage(f)
	return used, free, capacity, errors.Join(err, f.Close())
}

type osFile struct{ *os.File }

func (f *osFile) OS() *os.File { return f.File }

func (f *osFile) StartWrite(off, n int64) { startWrite(f.File, off, n) }

func (f *osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}
