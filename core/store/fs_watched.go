package store

import (
	"errors"
	"io/fs"
	"os"
)

// watchedFS is the way of all calls to a disk's data files. It takes note of errors, refuses to change a disk that is
// out of use, and lets nobody wait for a disk that has stopped answering once that is known.
type watchedFS struct {
	FS
	k *disk
}

func (w *watchedFS) change(what string, f func() error) error {
	if w.k.isOut() {
		return w.k.outError()
	}
	return w.k.sawWrite(what, w.k.do(f))
}

func (w *watchedFS) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	if w.k.isOut() {
		return nil, w.k.outError()
	}
	f, err := await(w.k, func() (File, error) { return w.FS.OpenFile(name, flag, perm) }, func(f File) { _ = f.Close() })
	switch {
	case err == nil:
		return &watchedFile{File: f, k: w.k, name: name}, nil
	case flag&(os.O_CREATE|os.O_WRONLY|os.O_RDWR) != 0:
		return nil, w.k.sawWrite("create", err)
	case errors.Is(err, fs.ErrNotExist):
		_ = w.k.sawWrite("open", err) // is it the file that is missing, or the disk?
		if w.k.isOut() {
			return nil, w.k.outError()
		}
	}
	return nil, w.k.sawRead(name, 0, err)
}

func (w *watchedFS) Rename(from, to string) error {
	return w.change("rename", func() error { return w.FS.Rename(from, to) })
}

func (w *watchedFS) Remove(name string) error {
	return w.change("remove", func() error { return w.FS.Remove(name) })
}

func (w *watchedFS) Mkdir(name string, perm fs.FileMode) error {
	return w.change("mkdir", func() error { return w.FS.Mkdir(name, perm) })
}

func (w *watchedFS) SyncDir(name string) error {
	if w.k.isOut() {
		return w.k.outError()
	}
	return w.k.sawSync(w.k.do(func() error { return w.FS.SyncDir(name) }))
}

func (w *watchedFS) ReadDir(name string) ([]fs.DirEntry, error) {
	if w.k.isOut() {
		return nil, w.k.outError()
	}
	entries, err := await(w.k, func() ([]fs.DirEntry, error) { return w.FS.ReadDir(name) }, nil)
	return entries, w.k.sawWrite("read directory", err) // without its directories a disk is of no use
}

func (w *watchedFS) Usage() (used, free, capacity int64, err error) {
	if w.k.isOut() {
		return 0, 0, 0, w.k.outError()
	}
	type room struct{ used, free, capacity int64 }
	r, err := await(w.k, func() (r room, err error) {
		r.used, r.free, r.capacity, err = w.FS.Usage()
		return r, err
	}, nil)
	if err == nil {
		w.k.lastUsed.Store(r.used)
		w.k.lastCapacity.Store(r.capacity)
	}
	return r.used, r.free, r.capacity, w.k.sawWrite("statfs", err)
}

// watchedFile is an open file of a watchedFS. Reads go straight to it, and are not given up on a disk that hangs: what
// they read into is the caller's.
type watchedFile struct {
	File
	k    *disk
	name string
}

func (f *watchedFile) change(what string, g func() error) error {
	if f.k.isOut() {
		return f.k.outError()
	}
	return f.k.sawWrite(what, f.k.do(g))
}

func (f *watchedFile) ReadAt(p []byte, off int64) (int, error) {
	if f.k.cond.Load().state == DiskFailed {
		return 0, f.k.outError()
	}
	n, err := f.File.ReadAt(p, off)
	return n, f.k.sawRead(f.name, off, err)
}

// WriteAt may read p after it has returned, where the disk was taken out meanwhile: what is written then is never read.
func (f *watchedFile) WriteAt(p []byte, off int64) (int, error) {
	if f.k.isOut() {
		return 0, f.k.outError()
	}
	n, err := await(f.k, func() (int, error) { return f.File.WriteAt(p, off) }, nil)
	return n, f.k.sawWrite("write", err)
}

func (f *watchedFile) Truncate(size int64) error {
	return f.change("truncate", func() error { return f.File.Truncate(size) })
}

func (f *watchedFile) Sync() error {
	if f.k.isOut() {
		return f.k.outError()
	}
	return f.k.sawSync(f.k.do(f.File.Sync))
}

// Close reports errors of writing that came late; of a disk that hangs it is left to the system.
func (f *watchedFile) Close() error {
	if f.k.isOut() {
		go func() { _ = f.File.Close() }() // ends when the disk answers
		return nil
	}
	return f.k.sawWrite("close", f.k.do(f.File.Close))
}
