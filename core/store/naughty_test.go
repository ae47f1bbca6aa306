package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/core/store"
)

// naughty is a disk whose nth operation of a kind fails, once armed.
type naughty struct {
	mu    sync.Mutex
	op    string // "open", "write", "sync", "rename", "syncdir", "close", "read"; "" is a good disk
	nth   int
	err   error
	hits  int
	calls []string
	hook  func(op string) // before each operation
}

// strike says whether this operation fails.
func (n *naughty) strike(op string) error {
	n.mu.Lock()
	hook := n.hook
	n.mu.Unlock()
	if hook != nil {
		hook(op)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.calls = append(n.calls, op)
	if n.op != op {
		return nil
	}
	if n.nth--; n.nth != 0 {
		return nil
	}
	n.hits++
	return n.err
}

func (n *naughty) arm(op string, nth int, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.op, n.nth, n.err, n.hits, n.calls = op, nth, err, 0, nil
}

// heard are the operations since arm, and how many of them failed.
func (n *naughty) heard() (calls string, hits int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return strings.Join(n.calls, " "), n.hits
}

func (n *naughty) open(path string) (store.FS, error) {
	inner, err := store.DirFS(path)
	return &naughtyFS{inner, n}, err
}

type naughtyFS struct {
	store.FS
	n *naughty
}

func (d *naughtyFS) OpenFile(name string, flag int, perm fs.FileMode) (store.File, error) {
	if err := d.n.strike("open"); err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	f, err := d.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &naughtyFile{f, d.n}, nil
}

func (d *naughtyFS) Rename(from, to string) error {
	if err := d.n.strike("rename"); err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return d.FS.Rename(from, to)
}

func (d *naughtyFS) SyncDir(name string) error {
	if err := d.n.strike("syncdir"); err != nil {
		return &fs.PathError{Op: "sync", Path: name, Err: err}
	}
	return d.FS.SyncDir(name)
}

type naughtyFile struct {
	store.File
	n *naughty
}

func (f *naughtyFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.n.strike("write"); err != nil {
		n, _ := f.File.WriteAt(p[:len(p)/2], off) // as a full disk does
		return n, &fs.PathError{Op: "write", Path: "x", Err: err}
	}
	return f.File.WriteAt(p, off)
}

func (f *naughtyFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.n.strike("read"); err != nil {
		return 0, &fs.PathError{Op: "read", Path: "x", Err: err}
	}
	return f.File.ReadAt(p, off)
}

func (f *naughtyFile) Sync() error {
	if err := f.n.strike("sync"); err != nil {
		return &fs.PathError{Op: "sync", Path: "x", Err: err}
	}
	return f.File.Sync()
}

func (f *naughtyFile) Close() error {
	err := f.File.Close()
	return errors.Join(f.n.strike("close"), err)
}

// steps are the operations of a PUT that touch the disk.
var steps = []struct {
	op  string
	nth int
}{{"open", 1}, {"write", 1}, {"write", 2}, {"write", 3}, {"sync", 1}, {"close", 1}, {"rename", 1}, {"syncdir", 1}}

// TestNaughtyDisk fails each operation of a PUT in turn: the PUT fails with that error, is not tried again, and
// leaves the object as it was and no file behind.
func TestNaughtyDisk(t *testing.T) {
	n := &naughty{}
	o := options(t.TempDir())
	o.FS = n.open
	s := open(t, o)
	data := payload(1, 1<<20)
	before := put(t, s, "b", "o", data)
	_, err := s.Open("b", "o")
	require.NoError(t, err)
	for _, fault := range []error{syscall.ENOSPC, syscall.EDQUOT} {
		for _, c := range steps {
			t.Run(fmt.Sprintf("%s %d: %v", c.op, c.nth, fault), func(t *testing.T) {
				n.arm(c.op, c.nth, fault)
				_, err := s.Put(ctx, "b", "o", bytes.NewReader(payload(2, 1<<20)), store.PutOptions{Size: 1 << 20})
				require.ErrorIs(t, err, fault)
				require.Equal(t, 1, n.hits)
				require.LessOrEqual(t, strings.Count(strings.Join(n.calls, " "), "sync"), 2, "a failed sync is not tried again")
				var full *store.NoSpaceError
				require.ErrorAs(t, err, &full)
				require.Equal(t, "disk-1", full.Disk)
				require.Positive(t, full.Capacity)
				n.arm("", 0, nil)
				after, err := s.Stat("b", "o")
				require.NoError(t, err)
				require.Equal(t, before, after)
				require.True(t, bytes.Equal(data, read(t, s, "b", "o")))
				clean(t, s, o, 1)
			})
		}
	}
}

// TestUnreadableFiles: a file that the device can't read is damaged, and the others are not; where that happens to
// several, the disk is out of use.
func TestUnreadableFiles(t *testing.T) {
	n := &naughty{}
	o := options(t.TempDir())
	o.FS = n.open
	s := open(t, o)
	const objects = 8
	for i := range objects {
		put(t, s, "b", fmt.Sprint(i), []byte("x"))
	}
	for i := range objects {
		require.Equal(t, store.DiskOK, s.Disks()[0].State)
		obj, err := s.Open("b", fmt.Sprint(i))
		require.NoError(t, err)
		for range 2 { // the same file twice is one
			n.arm("read", 1, syscall.EIO)
			err = obj.VerifyRange(0, 1)
			require.ErrorIs(t, err, syscall.EIO)
			if i == objects-1 {
				break
			}
			var bad *store.CorruptError
			require.ErrorAs(t, err, &bad)
			require.Equal(t, []string{"b", fmt.Sprint(i), "disk-1"}, []string{bad.Bucket, bad.Name, bad.Disk})
			require.NoError(t, obj.VerifyRange(0, 1), "the device can read it after all")
		}
		require.NoError(t, obj.Close())
	}
	require.Equal(t, store.DiskFailed, s.Disks()[0].State)
	_, err := s.Open("b", "0")
	require.ErrorIs(t, err, store.ErrDiskFailed)
}

// TestSyncOrder holds the order that durability rests on.
func TestSyncOrder(t *testing.T) {
	n := &naughty{}
	o := options(t.TempDir())
	o.FS = n.open
	s := open(t, o)
	n.arm("", 0, nil)
	put(t, s, "b", "o", payload(1, 1<<20))
	require.Equal(t, "open write write write sync close rename syncdir", strings.Join(n.calls, " "))
}

// TestOvertakenPut: a PUT of the same name commits between another's fsync and its commit. The later one gets a
// newer version, in its file too.
func TestOvertakenPut(t *testing.T) {
	n := &naughty{}
	o := options(t.TempDir())
	o.FS = n.open
	s := open(t, o)
	var once atomic.Bool
	var fast store.Info
	n.hook = func(op string) {
		if op == "sync" && !once.Swap(true) {
			fast = put(t, s, "b", "o", []byte("fast"))
		}
	}
	slow := put(t, s, "b", "o", []byte("slow"))
	require.Greater(t, slow.Version, fast.Version)
	require.Equal(t, "slow", string(read(t, s, "b", "o")))
	clean(t, s, o, 1) // which compares the version in the file
	require.NoError(t, s.Close())
	s = open(t, o)
	stat, err := s.Stat("b", "o")
	require.NoError(t, err)
	require.Equal(t, slow.Version, stat.Version)
}

// TestConditionAtCommit: the condition held when the PUT began, and holds no more when it commits.
func TestConditionAtCommit(t *testing.T) {
	n := &naughty{}
	o := options(t.TempDir())
	o.FS = n.open
	s := open(t, o)
	var once atomic.Bool
	n.hook = func(op string) {
		if op == "sync" && !once.Swap(true) {
			put(t, s, "b", "o", []byte("fast"))
		}
	}
	_, err := s.Put(ctx, "b", "o", strings.NewReader("slow"), store.PutOptions{Size: 4, Condition: store.Condition{IfNoneMatch: "*"}})
	require.ErrorIs(t, err, store.ErrPrecondition)
	require.Equal(t, "fast", string(read(t, s, "b", "o")))
	clean(t, s, o, 1)
}

// TestFullDisk fills a real file system.
func TestFullDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to mount a small tmpfs")
	}
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", dir).CombinedOutput(); err != nil {
		t.Skipf("can't mount a tmpfs: %s", out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %s", out)
		}
	})
	o := options(dir)
	s, err := store.Open(o)
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	const size = 1 << 20
	stored := 0
	var full *store.NoSpaceError
	for ; full == nil; stored++ {
		// Without a length, so that the room runs out in mid-body.
		_, err := s.Put(ctx, "b", fmt.Sprint(stored), bytes.NewReader(payload(uint64(stored), size)), store.PutOptions{Size: -1})
		if err != nil {
			require.ErrorAs(t, err, &full)
			break
		}
		require.Less(t, stored, 24)
	}
	require.Greater(t, stored, 10) // but for what is reserved
	require.Equal(t, "disk-1", full.Disk)
	require.EqualValues(t, 24<<20, full.Capacity)
	_, err = s.Put(ctx, "b", "x", bytes.NewReader(payload(1, 4*size)), store.PutOptions{Size: 4 * size})
	require.ErrorAs(t, err, &full)
	clean(t, s, o, stored)
	for i := range stored {
		require.True(t, bytes.Equal(payload(uint64(i), size), read(t, s, "b", fmt.Sprint(i))))
	}
	for i := range 3 { // room again, without a restart
		require.NoError(t, s.Delete(ctx, "b", fmt.Sprint(i), store.Condition{}))
	}
	put(t, s, "b", "again", payload(7, size))
	clean(t, s, o, stored-2)
}
