package store_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/core/archive"
	"github.com/shardstream/shardstream/core/store"
)

// scanned is the index of an archive as it is known without the members' bytes.
func scanned(t testing.TB, data []byte) *archive.Index {
	t.Helper()
	read := func(_ context.Context, p []byte, off int64) (int, error) { return bytes.NewReader(data).ReadAt(p, off) }
	x, err := archive.Scan(ctx, read, int64(len(data)), archive.ScanOptions{})
	require.NoError(t, err)
	return x
}

// unread describes an object of an origin that nobody has read.
func unread(name, tag string, size int) store.Info {
	return store.Info{
		Bucket: "b", Name: name, Size: int64(size), Created: created, ContentType: "application/x-tar",
		Meta: map[string]string{store.OriginTag: tag, store.UnreadMark: "1", "k": "v"},
	}
}

// fill puts the bytes of what a stub describes.
func fill(s *store.Store, stub store.Info, data []byte) (store.Info, error) {
	o := stub.PutOptions()
	o.Archive = archive.FormatOf(stub.Name)
	return s.Put(ctx, "b", stub.Name, bytes.NewReader(data), o)
}

// TestOriginLife: described, read, evicted and read again, an object has one version, and one entity tag. Its member
// index is there at all times.
func TestOriginLife(t *testing.T) {
	o := options(t.TempDir(), t.TempDir())
	s := open(t, o)
	data := tarOf(t, map[string][]byte{"a.jpg": payload(1, 200_000), "b.jpg": payload(2, 70_000)})
	described := unread("s.tar", "etag-1", len(data))
	described.Archive = archive.Tar
	stub, err := s.PutStub(ctx, described, scanned(t, data), store.Condition{})
	require.NoError(t, err)
	require.True(t, stub.Unread())
	require.Equal(t, []any{store.Stub, int64(2), int64(2), int64(200_000), uint64(0)}, []any{stub.Kind, stub.Members, stub.Samples, stub.MaxSample, stub.XXH3})
	_, err = s.Open("b", "s.tar")
	require.ErrorIs(t, err, store.ErrStub)

	check := func(kind store.Kind, checked bool) {
		t.Helper()
		for range 2 {
			info, x, err := s.Describe("b", "s.tar")
			require.NoError(t, err)
			require.Equal(t, []any{kind, stub.Version, stub.ETag(), 2, checked}, []any{info.Kind, info.Version, info.ETag(), x.NumMembers(), x.Checked()})
			m, ok := x.Lookup("b.jpg")
			require.True(t, ok)
			require.Equal(t, payload(2, 70_000), data[m.Offset:m.Offset+m.Size])
			want := store.Report{Objects: 1}
			if kind == store.Stub {
				want.Stubs = 1
			}
			sound(t, s, o, want)
			loseIndex(t, s, o)
			s = open(t, o)
		}
	}
	check(store.Stub, false)
	whole, err := fill(s, stub, data)
	require.NoError(t, err)
	require.False(t, whole.Unread())
	require.Equal(t, map[string]string{store.OriginTag: "etag-1", "k": "v"}, whole.Meta)
	require.True(t, bytes.Equal(data, read(t, s, "b", "s.tar")))
	check(store.Whole, true)
	require.NoError(t, s.Evict(ctx, "b", "s.tar", stub.Version))
	check(store.Stub, true)

	evicted, err := s.Stat("b", "s.tar")
	require.NoError(t, err)
	require.Equal(t, whole.XXH3, evicted.XXH3)
	var sum *store.ChecksumError
	other := bytes.Clone(data)
	other[600] ^= 1
	_, err = fill(s, evicted, other)
	require.ErrorAs(t, err, &sum, "its checksums are known now")
	check(store.Stub, true)
	_, err = fill(s, evicted, data)
	require.NoError(t, err)
	check(store.Whole, true)
}

// TestFillMustAgree: a description is a promise. Bytes that do not keep it are an error, and change nothing.
func TestFillMustAgree(t *testing.T) {
	s, o := fresh(t)
	data := tarOf(t, map[string][]byte{"a.jpg": payload(1, 2000), "b.jpg": payload(2, 700)})
	other := tarOf(t, map[string][]byte{"a.jpg": payload(1, 2000), "a.cls": payload(2, 700)})
	require.Len(t, other, len(data))
	described := unread("s.tar", "t", len(data))
	described.Archive = archive.Tar
	stub, err := s.PutStub(ctx, described, scanned(t, data), store.Condition{})
	require.NoError(t, err)

	_, err = fill(s, stub, other)
	require.ErrorIs(t, err, store.ErrDiffers)
	require.ErrorContains(t, err, "samples")
	for _, meta := range []map[string]string{{store.OriginTag: "u"}, {}} {
		retagged := stub.PutOptions()
		retagged.Meta = meta
		_, err = s.Put(ctx, "b", "s.tar", bytes.NewReader(data), retagged)
		require.ErrorIs(t, err, store.ErrDiffers)
		require.ErrorContains(t, err, "tag")
	}
	opaque := stub.PutOptions()
	opaque.Archive = archive.None
	_, err = s.Put(ctx, "b", "s.tar", bytes.NewReader(data), opaque)
	require.ErrorIs(t, err, store.ErrDiffers)
	short := stub.PutOptions()
	short.Size, short.Archive = -1, archive.None
	_, err = s.Put(ctx, "b", "s.tar", strings.NewReader("short"), short)
	require.ErrorIs(t, err, store.ErrDiffers)
	now, _, err := s.Describe("b", "s.tar")
	require.NoError(t, err)
	require.Equal(t, stub, now)

	next := unread("s.tar", "t2", 5) // the origin has another by now
	fresh, err := s.PutStub(ctx, next, nil, store.Condition{})
	require.NoError(t, err)
	require.Greater(t, fresh.Version, stub.Version)
	require.NotEqual(t, stub.ETag(), fresh.ETag())
	sound(t, s, o, store.Report{Objects: 1, Stubs: 1})
}

// TestStubThatTellsMore: an archive may be described before it is scanned, and once more, under its version, when it was.
func TestStubThatTellsMore(t *testing.T) {
	s, _ := fresh(t)
	data := tarOf(t, map[string][]byte{"a.jpg": payload(1, 2000)})
	bare := unread("s.tar", "t", len(data))
	bare.Archive = archive.Tar
	_, err := s.PutStub(ctx, bare, nil, store.Condition{})
	require.ErrorContains(t, err, "as an opaque object")
	bare.Archive = archive.None
	first, err := s.PutStub(ctx, bare, nil, store.Condition{})
	require.NoError(t, err)
	_, x, err := s.Describe("b", "s.tar")
	require.NoError(t, err)
	require.Nil(t, x)
	_, err = s.PutStub(ctx, first, nil, store.Condition{})
	require.ErrorIs(t, err, store.ErrSuperseded, "the same again")

	more := first
	more.Archive = archive.Tar
	second, err := s.PutStub(ctx, more, scanned(t, data), store.Condition{})
	require.NoError(t, err)
	require.Equal(t, first.Version, second.Version)
	require.EqualValues(t, 1, second.Samples)
	_, err = s.PutStub(ctx, first, nil, store.Condition{})
	require.ErrorIs(t, err, store.ErrSuperseded, "less")
	whole, err := fill(s, first, data)
	require.NoError(t, err)
	require.EqualValues(t, 1, whole.Samples)
	_, err = s.PutStub(ctx, second, scanned(t, data), store.Condition{})
	require.ErrorIs(t, err, store.ErrSuperseded)
}

// TestOwnAndForget: what is nowhere else is never given up; what is, leaves no trace.
func TestOwnAndForget(t *testing.T) {
	s, o := fresh(t)
	own := put(t, s, "b", "own", payload(1, 100))
	require.ErrorIs(t, s.Evict(ctx, "b", "own", own.Version), store.ErrSole)
	require.ErrorIs(t, s.Forget(ctx, "b", "own", own.Version), store.ErrSole)
	require.NoError(t, s.Forget(ctx, "b", "nobody", 1))
	stub, err := s.PutStub(ctx, unread("x", "t", 4), nil, store.Condition{})
	require.NoError(t, err)
	require.NoError(t, s.Forget(ctx, "b", "x", stub.Version+1), "another version")
	whole, err := fill(s, stub, []byte("data"))
	require.NoError(t, err)
	require.NoError(t, s.Forget(ctx, "b", "x", whole.Version))
	_, known, err := s.State("b", "x")
	require.NoError(t, err)
	require.False(t, known)
	late := stub.PutOptions()
	late.Condition.IfMatch = stub.ETag()
	_, err = s.Put(ctx, "b", "x", strings.NewReader("data"), late)
	require.ErrorIs(t, err, store.ErrPrecondition, "who fetched it meanwhile can tell")
	again, err := s.PutStub(ctx, unread("x", "t", 4), nil, store.Condition{})
	require.NoError(t, err)
	require.Greater(t, again.Version, stub.Version)
	sound(t, s, o, store.Report{Objects: 2, Stubs: 1})
}

// TestQuarantineOfCached: a damaged copy of what its origin has is no loss: a stub remains, to be filled again.
func TestQuarantineOfCached(t *testing.T) {
	s, o := fresh(t)
	data := tarOf(t, map[string][]byte{"a.jpg": payload(1, 200_000)})
	stub, err := s.PutStub(ctx, unread("s.tar", "t", len(data)), nil, store.Condition{})
	require.NoError(t, err)
	whole, err := fill(s, stub, data)
	require.NoError(t, err)
	_, files, err := s.Locate("b", "s.tar")
	require.NoError(t, err)
	flip(t, files[0], 100_000)
	require.NoError(t, s.Quarantine(ctx, "b", "s.tar", whole.Version))
	now, x, err := s.Describe("b", "s.tar")
	require.NoError(t, err)
	require.Equal(t, []any{store.Stub, whole.XXH3, true}, []any{now.Kind, now.XXH3, x.Checked()})
	sound(t, s, o, store.Report{Objects: 1, Stubs: 1})
	_, files, err = s.Locate("b", "s.tar")
	require.NoError(t, err)
	flip(t, files[0], 10)
	report, err := s.Fsck(ctx)
	require.NoError(t, err)
	require.Len(t, report.Corrupt, 1)
	require.NoError(t, s.Quarantine(ctx, "b", "s.tar", whole.Version))
	now, x, err = s.Describe("b", "s.tar")
	require.NoError(t, err)
	require.Equal(t, store.Stub, now.Kind)
	require.Nil(t, x, "the index went with the damage")
	_, err = fill(s, now, data)
	require.NoError(t, err)
	require.True(t, bytes.Equal(data, read(t, s, "b", "s.tar")))
	require.Len(t, quarantined(t, o), 2)
}

// TestLenient: an archive that can't be indexed is kept, where it may be, and says why it has no samples.
func TestLenient(t *testing.T) {
	s, o := fresh(t)
	cut := tarOf(t, map[string][]byte{"a.jpg": payload(1, 2000)})[:1500]
	for n, data := range [][]byte{cut, bytes.Repeat([]byte("no tar "), 1000)} {
		name := fmt.Sprintf("%d.tar", n)
		_, err := s.Put(ctx, "b", name, bytes.NewReader(data), store.PutOptions{Size: -1, Archive: archive.Tar})
		var bad *archive.FormatError
		require.ErrorAs(t, err, &bad)
		info, err := s.Put(ctx, "b", name, bytes.NewReader(data), store.PutOptions{Size: -1, Archive: archive.Tar, Lenient: true})
		require.NoError(t, err)
		require.Equal(t, archive.None, info.Archive)
		require.Equal(t, bad.Error(), info.Meta[store.UnindexedMark])
		require.True(t, bytes.Equal(data, read(t, s, "b", name)))
	}
	sound(t, s, o, store.Report{Objects: 2})
}

// TestPutStubs: many objects are described at once; what can't be is told of each.
func TestPutStubs(t *testing.T) {
	s, o := fresh(t)
	const n = 2500
	infos := make([]store.Info, n)
	for i := range infos {
		infos[i] = unread(fmt.Sprintf("%05d.jpg", i), fmt.Sprint("tag-", i), 1000+i)
	}
	own := put(t, s, "b", "own", payload(1, 100))
	old, err := fill(s, must(s.PutStub(ctx, unread("00007.jpg", "older", 4), nil, store.Condition{})), []byte("data"))
	require.NoError(t, err)
	infos[5].Meta = nil
	infos[6] = infos[8]
	infos[9].Name = "../x"
	infos[10].Version, infos[10].Created = s.NextVersion(), created
	infos[11].Version = 5
	newer, err := s.PutStub(ctx, unread("00011.jpg", "newer", 4), nil, store.Condition{})
	require.NoError(t, err)

	got, failed := s.PutStubs(ctx, infos)
	require.Len(t, got, n)
	for i, err := range failed {
		switch i {
		case 5, 8, 9:
			require.Error(t, err)
		case 11:
			require.ErrorIs(t, err, store.ErrSuperseded)
		default:
			require.NoError(t, err, i)
			now, err := s.Stat("b", infos[i].Name)
			require.NoError(t, err)
			require.Equal(t, got[i], now)
			require.Equal(t, []any{store.Stub, infos[i].Size, infos[i].Meta}, []any{now.Kind, now.Size, now.Meta})
		}
	}
	require.Greater(t, got[7].Version, old.Version)
	require.Equal(t, []any{infos[10].Version, created.UTC()}, []any{got[10].Version, got[10].Created})
	require.Equal(t, newer, must(s.Stat("b", "00011.jpg")))
	require.Equal(t, own, must(s.Stat("b", "own")))
	sound(t, s, o, store.Report{Objects: n - 3 + 1, Stubs: n - 3})

	_, again := s.PutStubs(ctx, got[20:30])
	for _, err := range again {
		require.ErrorIs(t, err, store.ErrSuperseded, "the very version is there")
	}
	require.NoError(t, s.Close())
	s = open(t, o)
	sound(t, s, o, store.Report{Objects: n - 3 + 1, Stubs: n - 3})
	whole, err := fill(s, got[7], payload(1, 1007))
	require.NoError(t, err)
	require.Equal(t, got[7].Version, whole.Version)
	require.NoError(t, s.Evict(ctx, "b", whole.Name, whole.Version))
	sound(t, s, o, store.Report{Objects: n - 3 + 1, Stubs: n - 3})

	var scrubbed int
	require.NoError(t, s.Scrub(ctx, store.ScrubOptions{}, func(one store.Scrubbed) error {
		scrubbed++
		return one.Err
	}))
	require.Equal(t, n-3+1, scrubbed)
	require.NoError(t, s.DropBucket(ctx, "b"))
	sound(t, s, o, store.Report{})
	ended, cancel := context.WithCancel(ctx)
	cancel()
	_, failed = s.PutStubs(ended, infos[20:22])
	require.ErrorIs(t, failed[1], context.Canceled)
}

// TestStubsMoveAndVanish: a stub that is in the index only moves with a disk that is emptied, and is gone with the index.
func TestStubsMoveAndVanish(t *testing.T) {
	s, o := fresh(t)
	var infos []store.Info
	for i := range 50 {
		infos = append(infos, unread(fmt.Sprint(i), "t", 10))
	}
	got, _ := s.PutStubs(ctx, infos)
	require.NoError(t, s.BeginLeaving(o.Disks[0].ID))
	require.NoError(t, s.EmptyDisk(ctx, o.Disks[0].ID, nil))
	for i := range got {
		now := must(s.Stat("b", got[i].Name))
		require.Equal(t, o.Disks[1].ID, now.Disk)
		now.Disk = got[i].Disk
		require.Equal(t, got[i], now)
	}
	whole, err := fill(s, must(s.Stat("b", "7")), payload(1, 10))
	require.NoError(t, err)
	o.Disks = o.Disks[1:]
	sound(t, s, o, store.Report{Objects: 50, Stubs: 49})
	loseIndex(t, s, o)
	s = open(t, o)
	sound(t, s, o, store.Report{Objects: 1})
	require.Equal(t, whole, must(s.Stat("b", "7")))
}

func must(i store.Info, err error) store.Info {
	if err != nil {
		panic(err)
	}
	return i
}
