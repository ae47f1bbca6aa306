package store

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// engineFS is the metadata engine's way to its disk. It takes note of errors, and cuts the engine off once the disk is
// out of use: an engine that was given up, and may still have work to do, must not touch what another has opened since.
type engineFS struct {
	vfs.FS
	k *disk
}

// refusedPause keeps an engine that is cut off from trying over and over.
const refusedPause = 100 * time.Millisecond

func (e *engineFS) refuse() error {
	if !e.k.isOut() {
		return nil
	}
	time.Sleep(refusedPause)
	return e.k.outError()
}

func (e *engineFS) change(what string, f func() error) error {
	if err := e.refuse(); err != nil {
		return err
	}
	return e.k.sawWrite("metadata: "+what, f())
}

func (e *engineFS) file(what string, open func() (vfs.File, error)) (vfs.File, error) {
	if err := e.refuse(); err != nil {
		return nil, err
	}
	f, err := open()
	if err != nil {
		return nil, e.k.sawWrite("metadata: "+what, err)
	}
	return &engineFile{File: f, e: e}, nil
}

func (e *engineFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return e.file("create", func() (vfs.File, error) { return e.FS.Create(name, c) })
}

func (e *engineFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return e.file("open", func() (vfs.File, error) { return e.FS.OpenReadWrite(name, c, opts...) })
}

func (e *engineFS) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return e.file("reuse", func() (vfs.File, error) { return e.FS.ReuseForWrite(from, to, c) })
}

func (e *engineFS) OpenDir(name string) (vfs.File, error) {
	return e.file("open directory", func() (vfs.File, error) { return e.FS.OpenDir(name) })
}

func (e *engineFS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := e.FS.Open(name, opts...)
	if err != nil {
		return nil, e.sawRead(err)
	}
	return &engineFile{File: f, e: e}, nil
}

func (e *engineFS) Link(from, to string) error {
	return e.change("link", func() error { return e.FS.Link(from, to) })
}

func (e *engineFS) Remove(name string) error {
	return e.change("remove", func() error { return e.FS.Remove(name) })
}

func (e *engineFS) RemoveAll(name string) error {
	return e.change("remove", func() error { return e.FS.RemoveAll(name) })
}

func (e *engineFS) Rename(from, to string) error {
	return e.change("rename", func() error { return e.FS.Rename(from, to) })
}

func (e *engineFS) MkdirAll(dir string, perm os.FileMode) error {
	return e.change("mkdir", func() error { return e.FS.MkdirAll(dir, perm) })
}

// Lock has nothing to lock: the disk's own lock covers the engine's directory, and the next engine must not wait for
// one that was given up.
func (e *engineFS) Lock(string) (io.Closer, error) { return io.NopCloser(nil), nil }

func (e *engineFS) Unwrap() vfs.FS { return e.FS }

// sawRead: where the index of a disk can't be read, nobody knows what is on it.
func (e *engineFS) sawRead(err error) error {
	if err != nil && deviceError(err) {
		e.k.takeOut(DiskFailed, fmt.Sprintf("metadata can't be read: %v", err), err)
	}
	return err
}

type engineFile struct {
	vfs.File
	e *engineFS
}

func (f *engineFile) Read(p []byte) (int, error) {
	n, err := f.File.Read(p)
	return n, f.e.sawRead(err)
}

func (f *engineFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(p, off)
	return n, f.e.sawRead(err)
}

func (f *engineFile) Write(p []byte) (n int, err error) {
	err = f.e.change("write", func() (err error) {
		n, err = f.File.Write(p)
		return err
	})
	return n, err
}

func (f *engineFile) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.e.change("write", func() (err error) {
		n, err = f.File.WriteAt(p, off)
		return err
	})
	return n, err
}

func (f *engineFile) Preallocate(off, n int64) error {
	if err := f.e.refuse(); err != nil {
		return err
	}
	return f.File.Preallocate(off, n)
}

func (f *engineFile) sync(g func() error) error {
	if err := f.e.refuse(); err != nil {
		return err
	}
	return f.e.k.sawSync(g())
}

func (f *engineFile) Sync() error { return f.sync(f.File.Sync) }

func (f *engineFile) SyncData() error { return f.sync(f.File.SyncData) }

func (f *engineFile) SyncTo(length int64) (full bool, err error) {
	err = f.sync(func() (err error) {
		full, err = f.File.SyncTo(length)
		return err
	})
	return full, err
}
