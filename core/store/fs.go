package store

import (
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

// DirFS gives access to a directory of the operating system. No name leads out of it.
func DirFS(path string) (FS, error) { return nil, nil }
