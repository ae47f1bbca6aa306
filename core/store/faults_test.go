package store_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/core/store"
)

// mount mounts a file system for the test; it skips the test where that can't be done.
func mount(t testing.TB, dir string, args ...string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root to mount a file system")
	}
	if out, err := exec.Command("mount", append(args, dir)...).CombinedOutput(); err != nil {
		t.Skipf("can't mount: %s", out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", "--lazy", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %s", out)
		}
	})
}

// TestFullDisks fills one of two real file systems, and then both: PUTs go to the other disk, then they are refused with
// numbers; the cluster's own work has room for longer; reads and deletes go on; and there is room again after deletes.
func TestFullDisks(t *testing.T) {
	dirs := []string{t.TempDir(), t.TempDir()}
	for _, dir := range dirs {
		mount(t, dir, "-t", "tmpfs", "-o", "size=32m", "tmpfs")
	}
	o := options(dirs...)
	o.ProbeEvery = 20 * time.Millisecond
	s, err := store.Open(o)
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	const largest = 1 << 20
	fill := func(internal bool) (names []string, full *store.NoSpaceError) {
		for size := int64(largest); size > 1000; {
			name := fmt.Sprint(internal, len(names))
			_, err := s.Put(ctx, "b", name, bytes.NewReader(payload(1, int(size))), store.PutOptions{Size: size, Internal: internal})
			if err != nil {
				require.ErrorAs(t, err, &full)
				size /= 2
				continue
			}
			names = append(names, name)
			require.Less(t, len(names), 200)
		}
		return names, full
	}
	users, cluster := store.RoomOf(32 << 20)
	require.Greater(t, users, cluster)
	names, full := fill(false)
	require.Greater(t, len(names), 40, "both disks took their share")
	require.EqualValues(t, 32<<20, full.Capacity)
	require.Equal(t, users, full.Reserved)
	require.ErrorContains(t, full, fmt.Sprintf("%d of %d bytes used, %d reserved", full.Used, full.Capacity, full.Reserved))
	await(t, "they are seen to be full", func() bool {
		return stateOf(t, s, "disk-1") == store.DiskFull && stateOf(t, s, "disk-2") == store.DiskFull
	})
	require.Empty(t, s.Lost(), "nothing is lost on a full disk")
	more, full := fill(true)
	require.NotEmpty(t, more, "copies that are missing are made before users' objects take the last of the room")
	require.Equal(t, cluster, full.Reserved)
	names = append(names, more...)
	clean(t, s, o, len(names))
	for i, name := range names {
		read(t, s, "b", name)
		if i%2 == 0 {
			require.NoError(t, s.Delete(ctx, "b", name, store.Condition{}))
		} else {
			require.NoError(t, s.Bury(ctx, "b", name, s.NextVersion()))
		}
	}
	await(t, "there is room again", func() bool {
		return stateOf(t, s, "disk-1") == store.DiskOK && stateOf(t, s, "disk-2") == store.DiskOK
	})
	put(t, s, "b", "again", payload(7, largest))
	require.Len(t, dataFiles(t, o), 1)
}

// TestOthersFillTheDisk: somebody else takes all of the room, the reserve included. PUTs are refused, what is there is
// read, and all is as before once there is room again, without a restart.
func TestOthersFillTheDisk(t *testing.T) {
	dir := t.TempDir()
	mount(t, dir, "-t", "tmpfs", "-o", "size=32m", "tmpfs")
	o := options(filepath.Join(dir, "disk"))
	o.ProbeEvery = 20 * time.Millisecond
	s, err := store.Open(o)
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	data := payload(1, 1<<20)
	for i := range 8 {
		put(t, s, "b", fmt.Sprint(i), data)
	}
	hog := filepath.Join(dir, "hog")
	require.Error(t, os.WriteFile(hog, make([]byte, 40<<20), 0o600), "that fills it")
	var full *store.NoSpaceError
	_, err = s.Put(ctx, "b", "x", bytes.NewReader(data), store.PutOptions{Size: -1})
	require.ErrorAs(t, err, &full)
	for i := range 8 {
		if i%2 == 1 {
			err := s.Delete(ctx, "b", fmt.Sprint(i), store.Condition{}) // which may find no room for its record
			require.True(t, err == nil || errors.Is(err, store.ErrDiskFailed) || errors.As(err, &full), "%v", err)
		}
	}
	await(t, "what is there is read", func() bool {
		for i := 0; i < 8; i += 2 {
			obj, err := s.Open("b", fmt.Sprint(i))
			if err != nil {
				return false
			}
			err = obj.VerifyRange(0, 1<<20)
			require.NoError(t, errors.Join(err, obj.Close()))
		}
		return true
	})
	require.NoError(t, os.Remove(hog))
	await(t, "there is room again", func() bool {
		_, err := s.Put(ctx, "b", "x", bytes.NewReader(data), store.PutOptions{Size: 1 << 20})
		return err == nil
	})
	require.Equal(t, store.DiskOK, stateOf(t, s, "disk-1"))
	report, err := s.Fsck(ctx)
	require.NoError(t, err)
	require.Empty(t, report.Corrupt)
	require.Empty(t, report.Missing)
}

// TestReadOnlyDisk: the system makes a file system read-only, as ext4 does after an error of its journal. The disk is
// read on, and what is put goes to the other one.
func TestReadOnlyDisk(t *testing.T) {
	image, dir := filepath.Join(t.TempDir(), "image"), t.TempDir()
	require.NoError(t, os.WriteFile(image, nil, 0o600))
	require.NoError(t, os.Truncate(image, 64<<20))
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", image).CombinedOutput(); err != nil {
		t.Skipf("can't make an ext4: %v %s", err, out)
	}
	mount(t, dir, "-o", "loop,errors=remount-ro", image)
	o := options(dir, t.TempDir())
	o.ProbeEvery = 20 * time.Millisecond
	s := open(t, o)
	at := spread(t, s)
	if out, err := exec.Command("mount", "-o", "remount,abort", dir).CombinedOutput(); err != nil {
		t.Skipf("can't make it fail: %s", out)
	}
	ioError := false // by which ext4 may answer the first writes, too: the disk has failed then
	await(t, "the disk is read-only", func() bool {
		d := s.Disks()[0]
		ioError = d.State == store.DiskFailed && strings.Contains(d.Reason, "input/output error")
		return d.State == store.DiskReadOnly || ioError
	})
	if ioError {
		t.Skip("the file system reported I/O errors before it was read-only")
	}
	for _, names := range at {
		for _, name := range names {
			read(t, s, "b", name)
		}
	}
	_, err := s.Stat("b", "never")
	require.ErrorIs(t, err, store.ErrNotFound, "what is on the disk is known")
	for i := range 20 {
		require.Equal(t, "disk-2", put(t, s, "b", fmt.Sprint("new", i), nil).Disk)
	}
	victim, gone := at["disk-1"][0], at["disk-1"][1]
	require.Equal(t, "disk-2", put(t, s, "b", victim, []byte("new")).Disk)
	require.Equal(t, "new", string(read(t, s, "b", victim)))
	require.NoError(t, s.Delete(ctx, "b", gone, store.Condition{}))
	_, err = s.Stat("b", gone)
	require.ErrorIs(t, err, store.ErrNotFound)
	require.ErrorIs(t, s.EmptyDisk(ctx, "disk-1", nil), store.ErrDiskInUse)
	infos, _, err := s.List("b", "", "", 0)
	require.NoError(t, err)
	require.Len(t, infos, 40+20-1)
}

// TestFsyncFails has strace fail fsyncs of a process that puts to three disks, one after the other, until no disk is
// left. What it acknowledged is all there.
func TestFsyncFails(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("needs strace")
	}
	o := options(t.TempDir(), t.TempDir(), t.TempDir())
	var dirs []string
	for i := range o.Disks {
		dirs = append(dirs, o.Disks[i].Path)
	}
	s := open(t, o)
	require.NoError(t, s.Close())
	child := exec.Command(strace, "-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync",
		"-e", "inject=fsync,fdatasync:error=EIO:when=60", os.Args[0], "-test.run=^$")
	child.Env = append(os.Environ(), crashDirs+"="+strings.Join(dirs, ","))
	out, err := child.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, child.Start())
	stop := time.AfterFunc(30*time.Second, func() { _ = child.Process.Kill() })
	defer stop.Stop()
	acked, pending := map[string]string{}, map[string]string{}
	failed := ""
	for lines := bufio.NewScanner(out); lines.Scan(); {
		word := strings.Fields(lines.Text())
		switch word[0] {
		case "try":
			pending[word[1]] = word[2]
		case "ack":
			acked[word[1]] = word[2]
			delete(pending, word[1])
		case "fail":
			failed = lines.Text()
		}
	}
	_ = child.Wait() // it ends when it can put no more
	if failed == "" {
		t.Skip("strace could not inject a fault here")
	}
	require.Contains(t, failed, store.ErrDiskFailed.Error())
	require.NotEmpty(t, acked)
	s = open(t, o)
	for name, n := range acked {
		allowed := []string{n}
		if p, ok := pending[name]; ok {
			allowed = append(allowed, p)
		}
		got, _ := held(t, s, name)
		require.Contains(t, allowed, got, "object %s", name)
	}
	report, err := s.Fsck(ctx)
	require.NoError(t, err)
	require.Empty(t, report.Corrupt)
	require.Empty(t, report.Missing)
	require.Empty(t, report.Stray)
}
