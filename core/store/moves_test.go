package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/core/store"
)

// TestDisksComeAndGo adds a disk and empties two others, while objects are read, written and deleted. At the end each
// object is whole and on a disk that is left, and the removed disks have none.
func TestDisksComeAndGo(t *testing.T) {
	o := options(t.TempDir(), t.TempDir())
	s := open(t, o)
	spread(t, s)
	require.NoError(t, s.Bury(ctx, "b", "buried", s.NextVersion()))
	_, err := s.PutSlice(ctx, store.SliceKey{Bucket: "b", Name: "ec", Version: 7, Slice: 2},
		bytes.NewReader(payload(9, 300_000)), store.PutOptions{Size: 300_000, Data: 4, Parity: 2})
	require.NoError(t, err)

	workers, stop := context.WithCancel(ctx)
	var wait sync.WaitGroup
	defer wait.Wait()
	defer stop()
	wait.Go(func() { // reads what nobody changes
		for n := 0; workers.Err() == nil; n++ {
			i := n % 40
			obj, err := s.Open("b", fmt.Sprint(i))
			if err != nil || obj.VerifyRange(0, 100_000) != nil {
				t.Errorf("object %d: %v", i, err)
				return
			}
			_ = obj.Close()
		}
	})
	kept := map[string][]byte{}
	wait.Go(func() { // writes and deletes
		for n := 0; workers.Err() == nil; n++ {
			name := fmt.Sprint("w", n%20)
			data := payload(uint64(n), n*37%50_000)
			if _, err := s.Put(ctx, "b", name, bytes.NewReader(data), store.PutOptions{Size: int64(len(data))}); err != nil {
				t.Error(err)
				return
			}
			if kept[name] = data; n%3 == 0 {
				if err := s.Delete(ctx, "b", name, store.Condition{}); err != nil {
					t.Error(err)
					return
				}
				delete(kept, name)
			}
		}
	})
	third := store.Disk{ID: "disk-3", Path: t.TempDir()}
	require.NoError(t, s.AddDisk(third))
	require.ErrorIs(t, s.AddDisk(third), store.ErrDiskExists)
	await(t, "the new disk gets objects", func() bool {
		infos, _, err := s.List("b", "w", "", 0)
		require.NoError(t, err)
		for _, i := range infos {
			if i.Disk == "disk-3" {
				return true
			}
		}
		return false
	})
	var last store.DiskMove
	for _, id := range []string{"disk-1", "disk-2"} {
		require.NoError(t, s.EmptyDisk(ctx, id, func(m store.DiskMove) { last = m }))
		require.Positive(t, last.Moved)
		require.Positive(t, last.Bytes)
	}
	stop()
	wait.Wait()
	require.Len(t, s.Disks(), 1)
	require.Empty(t, dataFiles(t, o), "what was removed has no objects left")
	o.Disks = []store.Disk{third}
	for i := range 40 {
		require.True(t, bytes.Equal(payload(uint64(i), 100_000), read(t, s, "b", fmt.Sprint(i))))
	}
	for name, data := range kept {
		require.True(t, bytes.Equal(data, read(t, s, "b", name)), name)
	}
	_, known, err := s.State("b", "buried")
	require.NoError(t, err)
	require.True(t, known)
	obj, err := s.OpenSlice(store.SliceKey{Bucket: "b", Name: "ec", Version: 7, Slice: 2})
	require.NoError(t, err)
	require.NoError(t, obj.VerifyRange(0, 300_000))
	require.NoError(t, obj.Close())
	report, err := s.Fsck(ctx)
	require.NoError(t, err)
	require.Empty(t, report.Corrupt)
	require.Empty(t, report.Missing)
	require.Empty(t, report.Stray)
	require.EqualValues(t, 40+len(kept), report.Objects)
	require.Len(t, dataFiles(t, o), 40+len(kept)+1)

	require.ErrorIs(t, s.EmptyDisk(ctx, "disk-3", nil), store.ErrDiskInUse, "the last one can't leave")
	require.ErrorIs(t, s.EmptyDisk(ctx, "disk-1", nil), store.ErrNoDisk)
	put(t, s, "b", "still", nil)
}

// TestDamagedObjectKeepsItsDisk: an object that can't be verified is not moved, and its disk stays until it is gone.
func TestDamagedObjectKeepsItsDisk(t *testing.T) {
	o := options(t.TempDir(), t.TempDir())
	s := open(t, o)
	at := spread(t, s)
	victim := at["disk-1"][1]
	_, files, err := s.Locate("b", victim)
	require.NoError(t, err)
	flip(t, files[0], 70_000)
	var m store.DiskMove
	err = s.EmptyDisk(ctx, "disk-1", func(now store.DiskMove) { m = now })
	require.ErrorIs(t, err, store.ErrDiskInUse)
	require.ErrorContains(t, err, "b/"+victim)
	require.EqualValues(t, 1, m.Failed)
	require.Equal(t, store.DiskLeaving, stateOf(t, s, "disk-1"))
	require.FileExists(t, files[0])
	require.Len(t, dataFiles(t, o), 40, "the copy that did not verify is gone")
	require.ErrorIs(t, s.ForgetDisk("disk-1"), store.ErrDiskInUse)
	require.NoError(t, s.Delete(ctx, "b", victim, store.Condition{}))
	require.NoError(t, s.EmptyDisk(ctx, "disk-1", nil))
	require.Len(t, s.Disks(), 1)
	clean(t, s, o, 39)
}

// TestADiskWithObjectsIsNotAdded: what was deleted while a disk was no part of the store must not come back with it.
func TestADiskWithObjectsIsNotAdded(t *testing.T) {
	o := options(t.TempDir(), t.TempDir())
	s := open(t, o)
	spread(t, s)
	require.NoError(t, s.DisableDisk("disk-2"))
	require.NoError(t, s.ForgetDisk("disk-2"))
	for i := range 40 {
		_ = s.Delete(ctx, "b", fmt.Sprint(i), store.Condition{}) // those of the other disk are not found
	}
	var err error
	await(t, "the disk is let go, and refused", func() bool {
		err = s.AddDisk(o.Disks[1])
		require.Error(t, err)
		return errors.Is(err, store.ErrDiskInUse)
	})
	require.ErrorContains(t, err, "give an empty directory")
	infos, _, err := s.List("b", "", "", 0)
	require.NoError(t, err)
	require.Empty(t, infos)
	require.NoError(t, os.RemoveAll(o.Disks[1].Path))
	require.NoError(t, s.AddDisk(o.Disks[1]))
	require.NoError(t, s.EmptyDisk(ctx, "disk-2", nil))
	await(t, "it is let go and added again: it is empty, though not new", func() bool { return s.AddDisk(o.Disks[1]) == nil })
}

// TestInterruptedMove: a move that is stopped, and a crash after the new record, lose nothing; the next one goes on.
func TestInterruptedMove(t *testing.T) {
	o := options(t.TempDir(), t.TempDir())
	s := open(t, o)
	spread(t, s)
	moving, cancel := context.WithCancel(ctx)
	err := s.EmptyDisk(moving, "disk-1", func(m store.DiskMove) {
		if m.Moved == 3 {
			cancel()
		}
	})
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, s.EnableDisk("disk-1", false), "it is to stay after all")
	require.Equal(t, store.DiskOK, stateOf(t, s, "disk-1"))
	clean(t, s, o, 40)
	require.NoError(t, s.Close())
	o.Disks[0].Known, o.Disks[1].Known, o.Disks[0].State = true, true, store.DiskLeaving
	s = open(t, o)
	require.Equal(t, store.DiskLeaving, stateOf(t, s, "disk-1"))
	require.Equal(t, "disk-2", put(t, s, "b", "new", nil).Disk)
	require.NoError(t, s.EmptyDisk(ctx, "disk-1", nil))
	clean(t, s, o, 41)
}

// TestStrayFiles: files that nobody claims go once they are old, with a line in the audit log; a dry run says which.
// What is young, in use or not named by the store stays.
func TestStrayFiles(t *testing.T) {
	var log []string
	o := options(t.TempDir())
	o.Audit = func(_, file string) error {
		require.FileExists(t, file, "it is said before it is done")
		log = append(log, file)
		return nil
	}
	s := open(t, o)
	data := filepath.Join(o.Disks[0].Path, "data")
	info := put(t, s, "b", "o", payload(1, 100))
	_, files, err := s.Locate("b", info.Name)
	require.NoError(t, err)
	staged, err := s.Stage(ctx, "b", "later", strings.NewReader("x"), store.PutOptions{Size: 1})
	require.NoError(t, err)
	old := []string{
		filepath.Join(data, "ab", strings.Repeat("ab", 16)),
		filepath.Join(o.Disks[0].Path, "tmp", strings.Repeat("cd", 16)),
	}
	young := filepath.Join(data, "ef", strings.Repeat("ef", 16))
	foreign := filepath.Join(data, "ab", "notes.txt")
	for _, path := range append([]string{young, foreign}, old...) {
		require.NoError(t, os.WriteFile(path, []byte("x"), 0o600))
	}
	long := time.Now().Add(-2 * time.Hour)
	for _, path := range append([]string{foreign, files[0]}, old...) {
		require.NoError(t, os.Chtimes(path, long, long))
	}
	for _, path := range dataFiles(t, o) {
		if strings.HasPrefix(path, filepath.Dir(old[1])) {
			require.NoError(t, os.Chtimes(path, long, long)) // what is staged, for long
		}
	}
	found, err := s.CleanStrays(ctx, time.Hour, true)
	require.NoError(t, err)
	require.Len(t, found, 2)
	require.Empty(t, log)
	for _, path := range old {
		require.FileExists(t, path)
	}
	found, err = s.CleanStrays(ctx, time.Hour, false)
	require.NoError(t, err)
	require.Len(t, found, 2)
	for _, path := range old {
		require.NoFileExists(t, path)
		require.Contains(t, log, path)
	}
	require.FileExists(t, young)
	require.FileExists(t, foreign)
	read(t, s, "b", "o")
	_, err = staged.Commit(0, time.Time{}, store.Condition{})
	require.NoError(t, err)
	require.Equal(t, "x", string(read(t, s, "b", "later")))
}
