package store_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/core/store"
)

func TestRefusedDisks(t *testing.T) {
	_, err := store.Open(store.Options{})
	require.ErrorContains(t, err, "no disks")

	dir := t.TempDir()
	s := open(t, options(dir))
	_, err = store.Open(options(dir))
	require.ErrorContains(t, err, "in use by another process")
	require.NoError(t, s.Close())

	o := options(dir)
	o.Disks[0].ID = "disk-7"
	_, err = store.Open(o)
	require.ErrorContains(t, err, "formatted as disk disk-1")

	require.NoError(t, os.WriteFile(filepath.Join(dir, "FORMAT"), []byte("shardstream disk 2\nid: disk-1\n"), 0o600))
	_, err = store.Open(options(dir))
	require.ErrorContains(t, err, "newer release")

	other := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(other, "thesis.doc"), nil, 0o600))
	_, err = store.Open(options(other))
	require.ErrorContains(t, err, "not empty (thesis.doc)")

	_, err = store.Open(options(dir, dir))
	require.ErrorContains(t, err, "given twice")
}

func TestDisksShareObjects(t *testing.T) {
	o := options(t.TempDir(), t.TempDir(), t.TempDir())
	o.Disks[2].Weight = 2
	s := open(t, o)
	count := map[string]int{}
	for i := range 400 {
		count[put(t, s, "b", fmt.Sprint(i), nil).Disk]++
	}
	require.InDelta(t, 100, count["disk-1"], 40)
	require.InDelta(t, 100, count["disk-2"], 40)
	require.InDelta(t, 200, count["disk-3"], 40)
	for _, d := range s.Disks() {
		require.Equal(t, "ok", d.State)
		require.Positive(t, d.Capacity)
		require.LessOrEqual(t, d.Used, d.Capacity)
	}
	// With a disk more, an object may be written to another disk than before.
	require.NoError(t, s.Close())
	o.Disks = append(o.Disks, store.Disk{ID: "disk-4", Path: t.TempDir(), Weight: 4})
	s = open(t, o)
	moved := 0
	for i := range 100 {
		before, err := s.Stat("b", fmt.Sprint(i))
		require.NoError(t, err)
		after := put(t, s, "b", fmt.Sprint(i), []byte("new"))
		if after.Disk != before.Disk {
			moved++
			require.Equal(t, "disk-4", after.Disk)
		}
		require.Equal(t, "new", string(read(t, s, "b", fmt.Sprint(i))))
	}
	require.Positive(t, moved)
	clean(t, s, o, 400)
}

// TestFailedDisk: what can't be known without the disk is an error, and not "not found".
func TestFailedDisk(t *testing.T) {
	s, _ := fresh(t)
	at := map[string]string{}
	for i := range 40 {
		info := put(t, s, "b", fmt.Sprint(i), []byte("x"))
		at[info.Disk] = info.Name
	}
	store.FailDisk(s, "disk-1")
	require.Equal(t, "failed", s.Disks()[0].State)
	_, err := s.Stat("b", at["disk-1"])
	require.ErrorIs(t, err, store.ErrDiskFailed)
	_, err = s.Stat("b", at["disk-2"])
	require.NoError(t, err)
	_, _, err = s.List("b", "", "", 0)
	require.ErrorIs(t, err, store.ErrDiskFailed)
	require.Equal(t, "disk-2", put(t, s, "b", at["disk-1"], []byte("new")).Disk, "another disk takes it")
	require.Equal(t, "new", string(read(t, s, "b", at["disk-1"])))
	_, err = s.Put(ctx, "b", "fresh", strings.NewReader(""), store.PutOptions{Condition: store.Condition{IfNoneMatch: "*"}})
	require.ErrorIs(t, err, store.ErrDiskFailed)
	store.FailDisk(s, "disk-2")
	_, err = s.Put(ctx, "b", "o", strings.NewReader(""), store.PutOptions{})
	require.ErrorIs(t, err, store.ErrDiskFailed)
}

// TestTwoCopies: a crash left an older copy on another disk. The newer one counts, and the older one goes.
func TestTwoCopies(t *testing.T) {
	o := options(t.TempDir(), t.TempDir())
	for i, text := range []string{"old", "new"} {
		one := o
		one.Disks = o.Disks[i : i+1]
		s := open(t, one)
		put(t, s, "b", "o", []byte(text))
		require.NoError(t, s.Close())
	}
	s := open(t, o)
	require.Equal(t, "new", string(read(t, s, "b", "o")))
	clean(t, s, o, 1)
	require.NoError(t, s.Delete(ctx, "b", "o", store.Condition{}))
	_, err := s.Stat("b", "o")
	require.ErrorIs(t, err, store.ErrNotFound)
}

func TestSmallCaches(t *testing.T) {
	o := options(t.TempDir(), t.TempDir())
	o.OpenFiles, o.CacheBytes = 2, 2000
	s := open(t, o)
	for i := range 20 {
		put(t, s, "b", fmt.Sprint(i), payload(uint64(i), 200_000))
	}
	var pinned []*store.Object
	for range 2 {
		for i := range 20 {
			obj, err := s.Open("b", fmt.Sprint(i))
			require.NoError(t, err)
			pinned = append(pinned, obj)
		}
	}
	for i, obj := range pinned {
		got := make([]byte, 200_000)
		_, err := obj.ReadAt(got, 0)
		require.NoError(t, err)
		require.True(t, bytes.Equal(payload(uint64(i%20), 200_000), got))
		require.NoError(t, obj.Close())
	}
}

func TestClosed(t *testing.T) {
	s, _ := fresh(t)
	put(t, s, "b", "o", []byte("x"))
	obj, err := s.Open("b", "o")
	require.NoError(t, err)
	require.NoError(t, s.Close())
	require.NoError(t, s.Close())
	_, err = s.Open("b", "o")
	require.ErrorIs(t, err, store.ErrClosed)
	_, err = s.Put(ctx, "b", "o", strings.NewReader(""), store.PutOptions{})
	require.ErrorIs(t, err, store.ErrClosed)
	require.NoError(t, obj.VerifyRange(0, 1), "what is open stays readable")
	require.NoError(t, obj.Close())
}
