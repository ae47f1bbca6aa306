package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/core/store"
)

// await polls until the condition holds.
func await(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		require.True(t, time.Now().Before(deadline), "not in time: %s", what)
	}
}

func stateOf(t testing.TB, s *store.Store, id string) string {
	t.Helper()
	for _, d := range s.Disks() {
		if d.ID == id {
			return d.State
		}
	}
	t.Fatalf("no disk %s", id)
	return ""
}

// spread puts objects until each disk has some, and says what is on which.
func spread(t testing.TB, s *store.Store) map[string][]string {
	t.Helper()
	at := map[string][]string{}
	for i := range 40 {
		info := put(t, s, "b", fmt.Sprint(i), payload(uint64(i), 100_000))
		at[info.Disk] = append(at[info.Disk], info.Name)
	}
	require.Len(t, at, len(s.Disks()))
	return at
}

// naughtyOn has one of the disks be a naughty one.
func naughtyOn(o *store.Options, n *naughty, disk int) {
	bad := o.Disks[disk].Path
	o.FS = func(path string) (store.FS, error) {
		if path == bad {
			return n.open(path)
		}
		return store.DirFS(path)
	}
}

// onlyOn finds a name that is not taken and that goes to a disk.
func onlyOn(t testing.TB, s *store.Store, disk string) string {
	t.Helper()
	for i := 0; ; i++ {
		name := fmt.Sprint("probe", i)
		info := put(t, s, "b", name, nil)
		require.NoError(t, s.Delete(ctx, "b", name, store.Condition{}))
		if info.Disk == disk {
			return name
		}
	}
}

// TestDiskTakenOut: an I/O error of any step of a PUT fails the PUT, is not tried again, and takes the disk out of use.
// The other disk goes on; what only the bad one has is not "not found"; and enabled again, the disk has all it had.
func TestDiskTakenOut(t *testing.T) {
	for _, c := range steps {
		t.Run(fmt.Sprintf("%s %d", c.op, c.nth), func(t *testing.T) {
			n := &naughty{}
			o := options(t.TempDir(), t.TempDir())
			naughtyOn(&o, n, 0)
			var told atomic.Int64
			o.OnDiskChange = func() { told.Add(1) }
			s := open(t, o)
			at := spread(t, s)
			victim := onlyOn(t, s, "disk-1")
			losses := s.Losses()

			n.arm(c.op, c.nth, syscall.EIO)
			_, err := s.Put(ctx, "b", victim, bytes.NewReader(payload(2, 1<<20)), store.PutOptions{Size: 1 << 20})
			require.ErrorIs(t, err, syscall.EIO)
			require.ErrorIs(t, err, store.ErrDiskFailed)
			calls, hits := n.heard()
			require.Equal(t, 1, hits)
			require.LessOrEqual(t, strings.Count(calls, "sync"), 2, "a failed sync is not tried again")
			n.arm("", 0, nil)
			require.Equal(t, store.DiskFailed, stateOf(t, s, "disk-1"))
			require.Equal(t, losses+1, s.Losses())
			require.Len(t, s.Lost(), 1)
			await(t, "the change is told", func() bool { return told.Load() > 0 })

			for _, name := range at["disk-1"] {
				_, err := s.Stat("b", name)
				require.ErrorIs(t, err, store.ErrDiskFailed)
				_, err = s.Open("b", name)
				require.ErrorIs(t, err, store.ErrDiskFailed)
			}
			_, err = s.Stat("b", "never")
			require.ErrorIs(t, err, store.ErrDiskFailed, "it may be on the disk that is out of use")
			for _, name := range at["disk-2"] {
				read(t, s, "b", name)
			}
			infos, _, err := s.List("b", "", "", 0)
			require.ErrorIs(t, err, store.ErrDiskFailed)
			require.Len(t, infos, len(at["disk-2"]), "what the other disk has comes with the error")
			require.Equal(t, "disk-2", put(t, s, "b", victim, []byte("new")).Disk)
			calls, _ = n.heard()
			require.Empty(t, strings.Trim(calls, " close"), "nothing touches the disk any more")
			report, err := s.Fsck(ctx)
			require.NoError(t, err)
			require.Len(t, report.Missing, 1)
			require.Equal(t, "disk-1", report.Missing[0].Disk)

			require.NoError(t, s.EnableDisk("disk-1", false))
			require.Equal(t, store.DiskOK, stateOf(t, s, "disk-1"))
			require.Empty(t, s.Lost())
			require.Equal(t, "new", string(read(t, s, "b", victim)))
			clean(t, s, o, 41)
		})
	}
}

// badMeta is the file system of a disk's metadata that fails calls on files of a kind.
type badMeta struct {
	vfs.FS
	mu   sync.Mutex
	op   string // "sync", "write", "create"
	kind string // part of the files' names
}

func (b *badMeta) arm(op, kind string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.op, b.kind = op, kind
}

func (b *badMeta) strike(op, name string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.op == op && strings.Contains(filepath.Base(name), b.kind) {
		return &fs.PathError{Op: op, Path: name, Err: syscall.EIO}
	}
	return nil
}

func (b *badMeta) wrap(f vfs.File, err error, name string) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &badMetaFile{f, b, name}, nil
}

func (b *badMeta) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := b.strike("create", name); err != nil {
		return nil, err
	}
	f, err := b.FS.Create(name, c)
	return b.wrap(f, err, name)
}

func (b *badMeta) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := b.FS.ReuseForWrite(from, to, c)
	return b.wrap(f, err, to)
}

type badMetaFile struct {
	vfs.File
	b    *badMeta
	name string
}

func (f *badMetaFile) Write(p []byte) (int, error) {
	if err := f.b.strike("write", f.name); err != nil {
		return 0, err
	}
	return f.File.Write(p)
}

func (f *badMetaFile) sync(g func() error) error {
	if err := f.b.strike("sync", f.name); err != nil {
		return err
	}
	return g()
}

func (f *badMetaFile) Sync() error     { return f.sync(f.File.Sync) }
func (f *badMetaFile) SyncData() error { return f.sync(f.File.SyncData) }

func (f *badMetaFile) SyncTo(n int64) (full bool, err error) {
	err = f.sync(func() error { full, err = f.File.SyncTo(n); return err })
	return full, err
}

// engineChild has the test binary run TestMetadataEngineFails itself.
const engineChild = "SHARDSTREAM_TEST_ENGINE"

// TestMetadataEngineFails fails the metadata engine where it expects its process to end: in a caller's hands, and in
// those of its own background work. The process lives, no lock is left held, the other disk goes on, and with the
// engine opened anew all that was acknowledged is there.
func TestMetadataEngineFails(t *testing.T) {
	if os.Getenv(engineChild) == "" { // an engine that failed may leave goroutines behind that wait for one another
		child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
		child.Env = append(os.Environ(), engineChild+"=1")
		out, err := child.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return
	}
	for _, c := range []struct {
		op, kind string
		flush    bool
	}{
		{"sync", ".log", false},
		{"write", ".log", false},
		{"create", ".sst", true},
		{"write", ".sst", true},
		{"sync", ".sst", true},
		{"write", "MANIFEST", true},
		{"sync", "MANIFEST", true},
	} {
		t.Run(c.op+" "+c.kind, func(t *testing.T) {
			b := &badMeta{FS: vfs.Default}
			o := options(t.TempDir(), t.TempDir())
			o.MetaFS = func(path string) vfs.FS {
				if path == o.Disks[0].Path {
					return b
				}
				return vfs.Default
			}
			s := open(t, o)
			at := spread(t, s)
			victim := onlyOn(t, s, "disk-1")
			b.arm(c.op, c.kind)
			if c.flush {
				err := store.FlushMeta(s, "disk-1")
				require.ErrorIs(t, err, store.ErrDiskFailed)
			} else {
				_, err := s.Put(ctx, "b", victim, strings.NewReader("x"), store.PutOptions{Size: 1})
				require.ErrorIs(t, err, store.ErrDiskFailed)
			}
			await(t, "the disk is out of use", func() bool { return stateOf(t, s, "disk-1") == store.DiskFailed })
			for i := range 50 { // on the same stripes, too
				require.Equal(t, "disk-2", put(t, s, "b", fmt.Sprint("more", i), nil).Disk)
			}
			put(t, s, "b", victim, []byte("new"))
			b.arm("", "")
			require.NoError(t, s.EnableDisk("disk-1", false))
			for disk, names := range at {
				for _, name := range names {
					info, err := s.Stat("b", name)
					require.NoError(t, err)
					require.Equal(t, disk, info.Disk)
				}
			}
			require.Equal(t, "new", string(read(t, s, "b", victim)))
			clean(t, s, o, 40+50+1)
		})
	}
}

// TestHungDisk: a disk stops answering in the middle of an fsync. That is noticed, the PUT fails, others go on, and the
// store closes.
func TestHungDisk(t *testing.T) {
	n := &naughty{}
	o := options(t.TempDir(), t.TempDir())
	naughtyOn(&o, n, 0)
	o.ProbeEvery, o.ProbeTimeout = 20*time.Millisecond, 200*time.Millisecond
	s, err := store.Open(o)
	require.NoError(t, err)
	victim := onlyOn(t, s, "disk-1")
	answer := make(chan struct{})
	var hung atomic.Int64
	n.mu.Lock()
	n.hook = func(op string) {
		if op == "sync" {
			hung.Add(1)
			<-answer
			hung.Add(-1)
		}
	}
	n.mu.Unlock()
	_, err = s.Put(ctx, "b", victim, strings.NewReader("x"), store.PutOptions{Size: 1})
	require.ErrorIs(t, err, store.ErrDiskFailed)
	require.Equal(t, store.DiskFailed, stateOf(t, s, "disk-1"))
	require.Equal(t, "disk-2", put(t, s, "b", victim, []byte("x")).Disk)
	require.NoError(t, s.Close())
	close(answer)
	await(t, "the disk lets go", func() bool { return hung.Load() == 0 })
}

// TestVanishedDisk: the directory is moved away, or removed, under the store's hands. Nobody uses the disk; the probe
// finds out.
func TestVanishedDisk(t *testing.T) {
	for name, vanish := range map[string]func(path string) error{
		"moved": func(path string) error { return os.Rename(path, path+".elsewhere") },
		"removed": func(path string) (err error) {
			for range 100 { // the probe writes there meanwhile
				if err = os.RemoveAll(path); err == nil {
					break
				}
			}
			return err
		},
		"replaced": func(path string) error { return errors.Join(os.Rename(path, path+".elsewhere"), os.Mkdir(path, 0o700)) },
	} {
		t.Run(name, func(t *testing.T) {
			o := options(filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b"))
			o.ProbeEvery = 20 * time.Millisecond
			s := open(t, o)
			at := spread(t, s)
			bad := o.Disks[0].Path
			require.NoError(t, vanish(bad))
			await(t, "the disk is out of use", func() bool { return stateOf(t, s, "disk-1") == store.DiskFailed })
			for _, name := range at["disk-2"] {
				read(t, s, "b", name)
			}
			_, err := s.Stat("b", at["disk-1"][0])
			require.ErrorIs(t, err, store.ErrDiskFailed)
			require.Error(t, s.EnableDisk("disk-1", false), "what is there now is not the disk")
			require.Equal(t, store.DiskFailed, stateOf(t, s, "disk-1"))
			if name == "moved" {
				require.NoError(t, os.Rename(bad+".elsewhere", bad))
				require.NoError(t, s.EnableDisk("disk-1", false))
				clean(t, s, o, 40)
				return
			}
			require.NoError(t, s.EnableDisk("disk-1", true), "it was replaced")
			_, err = s.Stat("b", at["disk-1"][0])
			require.ErrorIs(t, err, store.ErrNotFound, "that was given up by hand")
			clean(t, s, o, len(at["disk-2"]))
		})
	}
}

// TestDeletedWhileOut: what is deleted or overwritten while a disk is out of use does not come back with it.
func TestDeletedWhileOut(t *testing.T) {
	o := options(t.TempDir(), t.TempDir())
	s := open(t, o)
	at := spread(t, s)
	old := at["disk-1"]
	require.NoError(t, s.DisableDisk("disk-1"))
	require.Equal(t, store.DiskDisabled, stateOf(t, s, "disk-1"))
	for i, name := range old {
		require.ErrorIs(t, s.Delete(ctx, "b", name, store.Condition{}), store.ErrDiskFailed)
		put(t, s, "b", name, []byte("new"))
		if i%2 == 0 {
			require.NoError(t, s.Delete(ctx, "b", name, store.Condition{}))
			info, known, err := s.State("b", name)
			require.NoError(t, err)
			require.True(t, known && info.Kind == store.Tombstone)
			require.NoError(t, s.Drop(ctx, "b", name, info.Version))
			_, known, err = s.State("b", name)
			require.NoError(t, err)
			require.True(t, known, "the tombstone outlives the disk's absence")
		}
	}
	require.NoError(t, s.Close())
	o.Disks[0].Known, o.Disks[1].Known, o.Disks[0].State = true, true, store.DiskDisabled
	s = open(t, o)
	require.Equal(t, store.DiskDisabled, stateOf(t, s, "disk-1"), "also after a restart")
	require.NoError(t, s.EnableDisk("disk-1", false))
	for i, name := range old {
		if i%2 == 0 {
			_, err := s.Stat("b", name)
			require.ErrorIs(t, err, store.ErrNotFound)
		} else {
			require.Equal(t, "new", string(read(t, s, "b", name)))
		}
	}
}

// TestOpenWithoutADisk: a store opens with the known disks that work, whatever is wrong with the others, and formats
// none in their place.
func TestOpenWithoutADisk(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"gone":        os.RemoveAll,
		"not mounted": func(path string) error { return errors.Join(os.RemoveAll(path), os.Mkdir(path, 0o700)) },
		"no metadata": func(path string) error {
			return errors.Join(os.RemoveAll(filepath.Join(path, "meta")), os.WriteFile(filepath.Join(path, "meta"), nil, 0o600))
		},
		"another": func(path string) error {
			return os.WriteFile(filepath.Join(path, "FORMAT"), []byte("shardstream disk 1\nid: disk-9\n"), 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := options(t.TempDir(), t.TempDir(), t.TempDir())
			s := open(t, o)
			at := spread(t, s)
			require.NoError(t, s.Close())
			require.NoError(t, spoil(o.Disks[1].Path))
			for i := range o.Disks {
				o.Disks[i].Known = true
			}
			s = open(t, o)
			require.Equal(t, store.DiskFailed, stateOf(t, s, "disk-2"))
			require.Len(t, s.Lost(), 1)
			for _, disk := range []string{"disk-1", "disk-3"} {
				for _, name := range at[disk] {
					read(t, s, "b", name)
				}
			}
			_, err := s.Stat("b", at["disk-2"][0])
			require.ErrorIs(t, err, store.ErrDiskFailed)
			if name == "gone" || name == "not mounted" {
				require.NoFileExists(t, filepath.Join(o.Disks[1].Path, "FORMAT"))
			}
			require.NotEqual(t, "disk-2", put(t, s, "b", at["disk-2"][0], []byte("new")).Disk)
			require.NoError(t, s.ForgetDisk("disk-2"))
			_, err = s.Stat("b", at["disk-2"][1])
			require.ErrorIs(t, err, store.ErrNotFound, "that was given up by hand")
			require.Empty(t, s.Lost())
		})
	}
	t.Run("all", func(t *testing.T) {
		o := options(filepath.Join(t.TempDir(), "x"))
		o.Disks[0].Known = true
		_, err := store.Open(o)
		require.ErrorContains(t, err, "no such file or directory")
	})
	t.Run("newer", func(t *testing.T) {
		o := options(t.TempDir(), t.TempDir())
		s := open(t, o)
		require.NoError(t, s.Close())
		require.NoError(t, os.WriteFile(filepath.Join(o.Disks[0].Path, "FORMAT"), []byte("shardstream disk 2\nid: disk-1\n"), 0o600))
		o.Disks[0].Known = true
		_, err := store.Open(o)
		require.ErrorContains(t, err, "newer release", "the wrong release must not go on without its disks")
	})
}
