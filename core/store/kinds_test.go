package store_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/core/archive"
	"github.com/shardstream/shardstream/core/store"
)

// putCoded puts the whole copy of an erasure-coded object.
func putCoded(t testing.TB, s *store.Store, name string, data []byte, version uint64) store.Info {
	t.Helper()
	info, err := s.Put(ctx, "b", name, bytes.NewReader(data), store.PutOptions{
		Size: int64(len(data)), Version: version, Created: time.Unix(1_700_000_000, 5), Data: 4, Parity: 2, Archive: archive.FormatOf(name),
		ContentType: "application/x-tar", Meta: map[string]string{"k": "v"},
	})
	require.NoError(t, err)
	return info
}

func putSlice(t testing.TB, s *store.Store, key store.SliceKey, data []byte) store.Info {
	t.Helper()
	info, err := s.PutSlice(ctx, key, bytes.NewReader(data), store.PutOptions{Size: int64(len(data)), Data: 4, Parity: 2})
	require.NoError(t, err)
	return info
}

// sound checks that nothing is wrong with the disks, and that they hold as many files as the report counts.
func sound(t testing.TB, s *store.Store, o store.Options, want store.Report) {
	t.Helper()
	report, err := s.Fsck(ctx)
	require.NoError(t, err)
	require.Equal(t, want, report)
	objects, _, err := s.List("b", "", "", 1<<20)
	require.NoError(t, err)
	without := 0 // stubs that are in the index only
	for _, i := range objects {
		_, files, err := s.Locate("b", i.Name)
		require.NoError(t, err)
		if len(files) == 0 {
			require.Equal(t, store.Stub, i.Kind)
			require.Contains(t, i.Meta, store.OriginTag)
			without++
		}
	}
	require.Len(t, dataFiles(t, o), int(want.Objects+want.Slices)-without)
}

func quarantined(t testing.TB, o store.Options) []string {
	t.Helper()
	var out []string
	for _, d := range o.Disks {
		files, err := filepath.Glob(filepath.Join(d.Path, "quarantine", "*"))
		require.NoError(t, err)
		out = append(out, files...)
	}
	return out
}

// TestEvictAndFill: a whole copy becomes a stub that still tells all, and a stub becomes whole by a copy of the very
// version, and by no other. So it is after the index was lost, too.
func TestEvictAndFill(t *testing.T) {
	o := options(t.TempDir(), t.TempDir())
	s := open(t, o)
	data := tarOf(t, map[string][]byte{"a.jpg": payload(1, 200_000)})
	whole := putCoded(t, s, "s.tar", data, 1<<62)
	require.EqualValues(t, 1, whole.Samples)
	reader, err := s.Open("b", "s.tar")
	require.NoError(t, err)

	require.NoError(t, s.Evict(ctx, "b", "s.tar", 77), "another version: nothing to do")
	require.NoError(t, s.Evict(ctx, "b", "s.tar", whole.Version))
	require.NoError(t, s.Evict(ctx, "b", "s.tar", whole.Version), "twice is once")
	stub, known, err := s.State("b", "s.tar")
	require.NoError(t, err)
	require.True(t, known)
	want := whole
	want.Kind = store.Stub
	require.Equal(t, want, stub)
	_, err = s.Open("b", "s.tar")
	require.ErrorIs(t, err, store.ErrStub)
	require.NoError(t, reader.VerifyRange(0, whole.Size), "who has it open keeps it")
	require.NoError(t, reader.Close())
	sound(t, s, o, store.Report{Objects: 1, Stubs: 1})

	loseIndex(t, s, o)
	s = open(t, o)
	stub, _, err = s.State("b", "s.tar")
	require.NoError(t, err)
	require.Equal(t, want, stub)

	other := stub.PutOptions()
	other.XXH3, other.CRC32, other.Archive, other.Size = nil, nil, archive.None, -1
	_, err = s.Put(ctx, "b", "s.tar", strings.NewReader("something else"), other)
	var sum *store.ChecksumError
	require.ErrorAs(t, err, &sum)
	other.Version--
	_, err = s.Put(ctx, "b", "s.tar", bytes.NewReader(data), other)
	require.ErrorIs(t, err, store.ErrSuperseded)
	_, err = s.PutStub(ctx, stub, nil, store.Condition{})
	require.ErrorIs(t, err, store.ErrSuperseded)

	filled, err := s.Put(ctx, "b", "s.tar", bytes.NewReader(data), stub.PutOptions())
	require.NoError(t, err)
	require.Equal(t, whole, filled)
	require.True(t, bytes.Equal(data, read(t, s, "b", "s.tar")))
	_, err = s.Put(ctx, "b", "s.tar", bytes.NewReader(data), stub.PutOptions())
	require.ErrorIs(t, err, store.ErrSuperseded)
	sound(t, s, o, store.Report{Objects: 1})

	mirrored := put(t, s, "b", "mirrored", data)
	require.ErrorIs(t, s.Evict(ctx, "b", "mirrored", mirrored.Version), store.ErrSole)
	require.NoError(t, s.Evict(ctx, "b", "nobody", 1))
	require.Empty(t, quarantined(t, o))
}

// loseIndex closes the store and removes the index of all its disks.
func loseIndex(t testing.TB, s *store.Store, o store.Options) {
	t.Helper()
	require.NoError(t, s.Close())
	for _, d := range o.Disks {
		require.NoError(t, os.RemoveAll(filepath.Join(d.Path, "meta")))
	}
}

func TestPutStub(t *testing.T) {
	s, o := fresh(t)
	whole := putCoded(t, s, "other.tar", tarOf(t, map[string][]byte{"a.jpg": payload(1, 100)}), 1<<62)
	info := whole
	info.Name, info.Kind = "s.tar", store.Stub
	staged, err := s.StageStub(ctx, info, nil)
	require.NoError(t, err)
	_, known, err := s.State("b", "s.tar")
	require.NoError(t, err)
	require.False(t, known, "staged is not there")
	_, err = staged.Commit(info.Version, info.Created, store.Condition{})
	require.NoError(t, err)
	_, err = staged.Commit(info.Version+1, info.Created, store.Condition{})
	require.ErrorIs(t, err, store.ErrDiscarded)
	stub, known, err := s.State("b", "s.tar")
	require.NoError(t, err)
	require.True(t, known)
	info.Disk = stub.Disk
	require.Equal(t, info, stub)
	listed, _, err := s.List("b", "", "", 0)
	require.NoError(t, err)
	require.Equal(t, []store.Info{whole, stub}, listed)

	info.Data = 0
	_, err = s.PutStub(ctx, info, nil, store.Condition{})
	require.ErrorContains(t, err, "has no slices")
	info.Data = 256
	_, err = s.PutStub(ctx, info, nil, store.Condition{})
	require.ErrorContains(t, err, "at most 255")
	sound(t, s, o, store.Report{Objects: 2, Stubs: 1})
	require.NoError(t, s.Delete(ctx, "b", "s.tar", store.Condition{}))
	sound(t, s, o, store.Report{Objects: 1})
}

// TestQuarantine: a damaged copy is put aside; that the object exists is not forgotten, its bytes are asked for
// elsewhere, and a good copy of the version takes its place.
func TestQuarantine(t *testing.T) {
	o := options(t.TempDir(), t.TempDir())
	s := open(t, o)
	data := payload(1, 300_000)
	info := put(t, s, "b", "o", data)
	put(t, s, "b", "p", data)
	reader, err := s.Open("b", "o")
	require.NoError(t, err)
	_, files, err := s.Locate("b", "o")
	require.NoError(t, err)
	flip(t, files[0], 100_000)

	require.NoError(t, s.Quarantine(ctx, "b", "o", info.Version+1), "another version: nothing to do")
	require.NoError(t, s.Quarantine(ctx, "b", "nobody", 1))
	require.Empty(t, quarantined(t, o))
	require.NoError(t, s.Quarantine(ctx, "b", "o", info.Version))
	require.NoError(t, s.Quarantine(ctx, "b", "o", info.Version), "twice is once")
	require.Len(t, quarantined(t, o), 1)
	require.NoError(t, reader.VerifyRange(200_000, 1000), "who has it open keeps it")
	require.NoError(t, reader.Close())

	for range 2 {
		lost, known, err := s.State("b", "o")
		require.NoError(t, err)
		require.True(t, known)
		want := info
		want.Kind = store.Lost
		require.Equal(t, want, lost)
		_, err = s.Open("b", "o")
		require.ErrorIs(t, err, store.ErrLost)
		report, err := s.Fsck(ctx)
		require.NoError(t, err)
		require.Len(t, report.Missing, 1)
		require.Equal(t, "o", report.Missing[0].Name)
		require.Empty(t, report.Stray)
		require.Empty(t, report.Corrupt)
		listed, _, err := s.List("b", "", "", 0)
		require.NoError(t, err)
		require.Len(t, listed, 2, "the object exists")
		loseIndex(t, s, o)
		s = open(t, o)
	}
	_, err = s.Put(ctx, "b", "o", bytes.NewReader(data), info.PutOptions())
	require.NoError(t, err)
	require.True(t, bytes.Equal(data, read(t, s, "b", "o")))
	clean(t, s, o, 2)

	coded := putCoded(t, s, "coded.tar", tarOf(t, map[string][]byte{"a.jpg": payload(1, 200_000)}), 1<<62)
	_, files, err = s.Locate("b", "coded.tar")
	require.NoError(t, err)
	require.NoError(t, os.Remove(files[0]))
	for range 2 { // the whole one, then the stub
		require.NoError(t, s.Quarantine(ctx, "b", "coded.tar", coded.Version))
		stub, _, err := s.State("b", "coded.tar")
		require.NoError(t, err)
		require.Equal(t, store.Stub, stub.Kind, "its bytes are in the slices")
	}
	sound(t, s, o, store.Report{Objects: 3, Stubs: 1})
	require.Len(t, quarantined(t, o), 2)
}

// TestQuarantineIsBounded: the oldest make room.
func TestQuarantineIsBounded(t *testing.T) {
	o := options(t.TempDir())
	s := open(t, o)
	for i := range 70 {
		info := put(t, s, "b", fmt.Sprint(i), []byte("x"))
		require.NoError(t, s.Quarantine(ctx, "b", fmt.Sprint(i), info.Version))
		require.Len(t, quarantined(t, o), min(i+1, 64))
	}
}

// TestSlices: slices have keys of their own, beside the objects.
func TestSlices(t *testing.T) {
	o := options(t.TempDir(), t.TempDir())
	s := open(t, o)
	var keys []store.SliceKey
	for _, name := range []string{"a", "a/b", "b", "ä"} {
		for version := uint64(1); version <= 2; version++ {
			for slice := range 3 {
				key := store.SliceKey{Bucket: "b", Name: name, Version: 1<<40 | version, Slice: 100 * slice}
				keys = append(keys, key)
				info := putSlice(t, s, key, fmt.Append(nil, key))
				require.Equal(t, store.Slice, info.Kind)
			}
		}
	}
	putSlice(t, s, store.SliceKey{Bucket: "c", Name: "a", Version: 1}, nil)
	object := put(t, s, "b", "a", []byte("object"))
	require.NoError(t, s.Bury(ctx, "b", "grave", 1<<62))
	want := store.Report{Objects: 1, Tombstones: 1, Slices: int64(len(keys)) + 1}
	sound(t, s, o, want)

	check := func() {
		t.Helper()
		for _, key := range keys {
			require.Equal(t, fmt.Sprint(key), string(readSlice(t, s, key)))
		}
		var got []store.SliceKey
		for start, more := (store.SliceKey{}), true; more; {
			var infos []store.Info
			var err error
			infos, more, err = s.ListSlices("b", start, 5)
			require.NoError(t, err)
			for _, i := range infos {
				start = store.SliceKey{Bucket: i.Bucket, Name: i.Name, Version: i.Version, Slice: i.Slice}
				got = append(got, start)
			}
		}
		require.Equal(t, keys, got)
		infos, _, err := s.List("b", "", "", 0)
		require.NoError(t, err)
		require.Equal(t, []store.Info{object}, infos)
	}
	check()
	loseIndex(t, s, o)
	s = open(t, o)
	check()
	want.Tombstones = 0 // they are in the index only
	sound(t, s, o, want)

	infos, err := s.HaveSlices("b", "a", 0)
	require.NoError(t, err)
	require.Len(t, infos, 6)
	infos, err = s.HaveSlices("b", "a", keys[3].Version)
	require.NoError(t, err)
	require.Len(t, infos, 3)
	require.Equal(t, []int{0, 100, 200}, []int{infos[0].Slice, infos[1].Slice, infos[2].Slice})

	putSlice(t, s, keys[0], fmt.Append(nil, keys[0])) // again
	reader, err := s.OpenSlice(keys[0])
	require.NoError(t, err)
	for range 2 {
		require.NoError(t, s.DropSlice(ctx, keys[0]))
	}
	require.NoError(t, reader.VerifyRange(0, 1))
	require.NoError(t, reader.Close())
	_, err = s.OpenSlice(keys[0])
	require.ErrorIs(t, err, store.ErrNotFound)
	require.NoError(t, s.QuarantineSlice(ctx, keys[1]))
	require.Len(t, quarantined(t, o), 1)
	want.Slices -= 2
	sound(t, s, o, want)

	for _, bad := range []store.SliceKey{{}, {Bucket: "b", Name: "a"}, {Bucket: "b", Name: "a", Version: 1, Slice: 256}, {Bucket: "b", Name: "a", Version: 1, Slice: -1}} {
		_, err := s.OpenSlice(bad)
		require.Error(t, err)
		_, err = s.PutSlice(ctx, bad, strings.NewReader(""), store.PutOptions{})
		require.Error(t, err)
	}
	staged, err := s.StageSlice(ctx, "b", "a", 1, strings.NewReader("x"), store.PutOptions{Size: 1})
	require.NoError(t, err)
	_, err = staged.Commit(0, time.Time{}, store.Condition{})
	require.Error(t, err, "a slice is of a version that is known")
	sound(t, s, o, want)

	require.NoError(t, s.DropBucket(ctx, "b"))
	sound(t, s, o, store.Report{Slices: 1})
}

func readSlice(t testing.TB, s *store.Store, key store.SliceKey) []byte {
	t.Helper()
	o, err := s.OpenSlice(key)
	require.NoError(t, err)
	var b bytes.Buffer
	_, err = o.WriteRange(&b, 0, o.Info().Size)
	require.NoError(t, err)
	require.NoError(t, o.Close())
	return b.Bytes()
}

// TestStagedEndsOnce: of Commit and Discard, whichever comes first counts.
func TestStagedEndsOnce(t *testing.T) {
	s, o := fresh(t)
	stage := func() *store.Staged {
		staged, err := s.Stage(ctx, "b", "o", strings.NewReader("x"), store.PutOptions{Size: 1})
		require.NoError(t, err)
		return staged
	}
	staged := stage()
	require.NoError(t, staged.Discard())
	require.NoError(t, staged.Discard())
	_, err := staged.Commit(5, time.Unix(1, 0), store.Condition{})
	require.ErrorIs(t, err, store.ErrDiscarded)
	clean(t, s, o, 0)
	staged = stage()
	info, err := staged.Commit(5, time.Unix(1, 0), store.Condition{})
	require.NoError(t, err)
	require.EqualValues(t, 5, info.Version)
	require.NoError(t, staged.Discard())
	staged = stage()
	_, err = staged.Commit(5, time.Unix(1, 0), store.Condition{})
	require.ErrorIs(t, err, store.ErrSuperseded)
	require.NoError(t, staged.Discard())
	clean(t, s, o, 1)
}

// TestReplace: a copy of the very version gives way, be it damaged or of another kind, and no other does.
func TestReplace(t *testing.T) {
	o := options(t.TempDir(), t.TempDir())
	s := open(t, o)
	data := payload(1, 300_000)
	info := put(t, s, "b", "o", data)
	_, files, err := s.Locate("b", "o")
	require.NoError(t, err)
	flip(t, files[0], 100_000)
	replace := func(data []byte, version uint64, damaged bool) error {
		staged, err := s.Stage(ctx, "b", "o", bytes.NewReader(data), store.PutOptions{Size: int64(len(data))})
		require.NoError(t, err)
		_, err = staged.Replace(version, info.Created, damaged)
		return err
	}
	require.ErrorIs(t, replace(data, info.Version-1, true), store.ErrSuperseded)
	var sum *store.ChecksumError
	require.ErrorAs(t, replace(payload(2, 300_000), info.Version, true), &sum)
	require.Empty(t, quarantined(t, o))
	require.NoError(t, replace(data, info.Version, true))
	require.Len(t, quarantined(t, o), 1)
	require.True(t, bytes.Equal(data, read(t, s, "b", "o")))
	clean(t, s, o, 1)
	stat, err := s.Stat("b", "o")
	require.NoError(t, err)
	require.Equal(t, info, stat)

	stub := info
	stub.Data, stub.Parity = 4, 2
	staged, err := s.StageStub(ctx, stub, nil)
	require.NoError(t, err)
	_, err = staged.Replace(info.Version, info.Created, false)
	require.NoError(t, err)
	sound(t, s, o, store.Report{Objects: 1, Stubs: 1})
	require.NoError(t, replace(data, info.Version, false))
	require.NoError(t, replace(data, info.Version+1, true), "a newer version is a commit like any other")
	clean(t, s, o, 1)
	require.NoError(t, s.Bury(ctx, "b", "o", info.Version+2))
	require.ErrorIs(t, replace(data, info.Version+2, false), store.ErrSuperseded)
	require.NoError(t, replace(data, info.Version+3, false))
	require.Len(t, quarantined(t, o), 1)
}
