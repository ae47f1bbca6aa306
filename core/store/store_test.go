package store_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zeebo/xxh3"
	"go.uber.org/goleak"

	"github.com/shardstream/shardstream/core/archive"
	"github.com/shardstream/shardstream/core/store"
)

func TestMain(m *testing.M) {
	if dirs := os.Getenv(crashDirs); dirs != "" {
		putUntilKilled(strings.Split(dirs, ","))
		return
	}
	// Each step of the model is a durable write: fewer runs than rapid's 100, unless asked for by the flag.
	if err := flag.Set("rapid.checks", "12"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

var ctx = context.Background()

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func options(paths ...string) store.Options {
	o := store.Options{Logger: quiet()}
	for i, p := range paths {
		o.Disks = append(o.Disks, store.Disk{ID: fmt.Sprintf("disk-%d", i+1), Path: p})
	}
	return o
}

func open(t testing.TB, o store.Options) *store.Store {
	t.Helper()
	s, err := store.Open(o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// fresh opens a store on two new disks.
func fresh(t testing.TB) (*store.Store, store.Options) {
	t.Helper()
	o := options(t.TempDir(), t.TempDir())
	return open(t, o), o
}

func payload(seed uint64, n int) []byte {
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)})
	b := make([]byte, n)
	_, _ = r.Read(b)
	return b
}

func put(t testing.TB, s *store.Store, bucket, name string, data []byte) store.Info {
	t.Helper()
	info, err := s.Put(ctx, bucket, name, bytes.NewReader(data), store.PutOptions{Size: int64(len(data))})
	require.NoError(t, err)
	return info
}

func read(t testing.TB, s *store.Store, bucket, name string) []byte {
	t.Helper()
	o, err := s.Open(bucket, name)
	require.NoError(t, err)
	var b bytes.Buffer
	_, err = o.WriteRange(&b, 0, o.Info().Size)
	require.NoError(t, err)
	require.NoError(t, o.Close())
	return b.Bytes()
}

// clean checks that nothing is wrong with the disks, and that they hold n objects and no other files.
func clean(t testing.TB, s *store.Store, o store.Options, n int) {
	t.Helper()
	report, err := s.Fsck(ctx)
	require.NoError(t, err)
	require.Equal(t, store.Report{Objects: int64(n)}, report)
	require.Len(t, dataFiles(t, o), n)
}

// dataFiles are all files that could hold an object's bytes.
func dataFiles(t testing.TB, o store.Options) []string {
	t.Helper()
	var out []string
	for _, d := range o.Disks {
		for _, dir := range []string{"data", "tmp"} {
			require.NoError(t, filepath.WalkDir(filepath.Join(d.Path, dir), func(p string, e fs.DirEntry, err error) error {
				if err == nil && !e.IsDir() {
					out = append(out, p)
				}
				return err
			}))
		}
	}
	return out
}

func TestRoundTrip(t *testing.T) {
	s, o := fresh(t)
	sizes := []int{0, 1, store.BlockSize - 1, store.BlockSize, store.BlockSize + 1, 1 << 20, 1<<20 + 7, 9 << 20}
	for i, n := range sizes {
		data, name := payload(uint64(i), n), fmt.Sprintf("dir/%d.bin", i)
		info, err := s.Put(ctx, "b", name, bytes.NewReader(data), store.PutOptions{
			Size: int64(n), ContentType: "application/x-test", Meta: map[string]string{"k": "v", "a": ""},
		})
		require.NoError(t, err)
		require.EqualValues(t, n, info.Size)
		require.Equal(t, xxh3.Hash(data), info.XXH3)
		require.Equal(t, crc32.ChecksumIEEE(data), info.CRC32)
		require.WithinDuration(t, time.Now(), info.Created, time.Minute)
		require.True(t, bytes.Equal(data, read(t, s, "b", name)))
		stat, err := s.Stat("b", name)
		require.NoError(t, err)
		require.Equal(t, info, stat)
		located, files, err := s.Locate("b", name)
		require.NoError(t, err)
		require.Equal(t, info, located)
		require.Len(t, files, 1)
		raw, err := os.ReadFile(files[0])
		require.NoError(t, err)
		require.True(t, bytes.Equal(data, raw[:n]))
	}
	clean(t, s, o, len(sizes))
	require.NoError(t, s.Close())
	s = open(t, o)
	clean(t, s, o, len(sizes))
	for i, n := range sizes {
		require.True(t, bytes.Equal(payload(uint64(i), n), read(t, s, "b", fmt.Sprintf("dir/%d.bin", i))))
	}
}

func TestRanges(t *testing.T) {
	s, _ := fresh(t)
	data := payload(1, 3<<20+1234)
	put(t, s, "b", "o", data)
	o, err := s.Open("b", "o")
	require.NoError(t, err)
	r := rand.New(rand.NewPCG(3, 4))
	for range 300 {
		off := r.Int64N(int64(len(data)) + 1)
		n := r.Int64N(int64(len(data)) - off + 1)
		if r.IntN(2) == 0 {
			n = min(n, r.Int64N(200_000))
		}
		p := make([]byte, n)
		m, err := o.ReadAt(p, off)
		if err != nil {
			require.ErrorIs(t, err, io.EOF)
		}
		require.EqualValues(t, n, m)
		require.True(t, bytes.Equal(data[off:off+n], p))
		var b bytes.Buffer
		w, err := o.WriteRange(&b, off, n)
		require.NoError(t, err)
		require.Equal(t, n, w)
		require.True(t, bytes.Equal(data[off:off+n], b.Bytes()))
		require.NoError(t, o.VerifyRange(off, n))
	}
	p := make([]byte, 100)
	n, err := o.ReadAt(p, int64(len(data))-10)
	require.Equal(t, 10, n)
	require.ErrorIs(t, err, io.EOF)
	n, err = o.ReadAt(p, 1<<60)
	require.Zero(t, n)
	require.ErrorIs(t, err, io.EOF)
	for _, bad := range [][2]int64{{-1, 1}, {0, -1}, {0, int64(len(data)) + 1}, {int64(len(data)) + 1, 0}, {1, 1<<63 - 1}} {
		_, err := o.WriteRange(io.Discard, bad[0], bad[1])
		require.ErrorIs(t, err, store.ErrRange)
	}
	_, err = o.ReadAt(p, -1)
	require.ErrorIs(t, err, store.ErrRange)
	require.NoError(t, o.Close())
	require.NoError(t, o.Close())
	_, err = o.ReadAt(p, 0)
	require.ErrorIs(t, err, os.ErrClosed)
}

func TestNames(t *testing.T) {
	s, o := fresh(t)
	for _, name := range []string{
		"a", "a/b", "ä/✓.tar", "a b", "a\\b", "-rf", "...", "a..b", "%2e%2e/x", strings.Repeat("n", 1024), "C:/x", ".hidden", "data/../x"[:7] + "x",
	} {
		put(t, s, "b", name, []byte(name))
		require.Equal(t, name, string(read(t, s, "b", name)))
	}
	before := len(dataFiles(t, o))
	for _, name := range []string{
		"", "..", "../x", "a/../b", "a/..", "./a", "a/./b", "/etc/passwd", "a//b", "a/", "a\x00b", "a\nb", "a\x7fb", "a\u0085b", "\xff\xfe",
		strings.Repeat("n", 1025),
	} {
		_, err := s.Put(ctx, "b", name, strings.NewReader("x"), store.PutOptions{Size: 1})
		var bad *store.NameError
		require.ErrorAs(t, err, &bad, "%q", name)
		_, err = s.Open("b", name)
		require.ErrorAs(t, err, &bad, "%q", name)
		require.ErrorAs(t, s.Delete(ctx, "b", name, store.Condition{}), &bad, "%q", name)
	}
	for _, bucket := range []string{"", ".", "..", "a..b", "A", "a/b", "-a", "a-", ".a", "a\x00", "a b", strings.Repeat("b", 64)} {
		_, err := s.Put(ctx, bucket, "o", strings.NewReader("x"), store.PutOptions{Size: 1})
		var bad *store.NameError
		require.ErrorAs(t, err, &bad, "%q", bucket)
		_, _, err = s.List(bucket, "", "", 0)
		require.ErrorAs(t, err, &bad, "%q", bucket)
	}
	for _, bucket := range []string{"a", "0", "my.data_set-2", strings.Repeat("b", 63)} {
		require.NoError(t, store.CheckBucket(bucket))
	}
	require.Len(t, dataFiles(t, o), before)
}

func TestConditions(t *testing.T) {
	s, o := fresh(t)
	with := func(c store.Condition) (store.Info, error) {
		return s.Put(ctx, "b", "o", strings.NewReader("x"), store.PutOptions{Size: 1, Condition: c})
	}
	_, err := with(store.Condition{IfMatch: "*"})
	require.ErrorIs(t, err, store.ErrPrecondition)
	first, err := with(store.Condition{IfNoneMatch: "*"})
	require.NoError(t, err)
	_, err = with(store.Condition{IfNoneMatch: "*"})
	require.ErrorIs(t, err, store.ErrPrecondition)
	_, err = with(store.Condition{IfNoneMatch: first.ETag()})
	require.ErrorIs(t, err, store.ErrPrecondition)
	_, err = with(store.Condition{IfMatch: `"other"`})
	require.ErrorIs(t, err, store.ErrPrecondition)
	second, err := with(store.Condition{IfMatch: `"other", ` + first.ETag()})
	require.NoError(t, err)
	require.NotEqual(t, first.ETag(), second.ETag(), "same bytes, another version")
	require.ErrorIs(t, s.Delete(ctx, "b", "o", store.Condition{IfMatch: first.ETag()}), store.ErrPrecondition)
	require.NoError(t, s.Delete(ctx, "b", "o", store.Condition{IfMatch: second.ETag()}))
	require.ErrorIs(t, s.Delete(ctx, "b", "o", store.Condition{}), store.ErrNotFound)
	require.ErrorIs(t, s.Delete(ctx, "b", "o", store.Condition{IfMatch: "*"}), store.ErrPrecondition)
	clean(t, s, o, 0)
}

func TestVersionsRise(t *testing.T) {
	o := options(t.TempDir())
	now := time.Unix(1_000_000, 0)
	o.Now = func() time.Time { return now }
	s := open(t, o)
	var last uint64
	step := func() {
		info := put(t, s, "b", "o", []byte("x"))
		require.Greater(t, info.Version, last)
		last = info.Version
	}
	step()
	step() // the clock stands still
	require.EqualValues(t, now.UnixNano()+1, last)
	require.NoError(t, s.Delete(ctx, "b", "o", store.Condition{}))
	step()
	now = now.Add(-time.Hour)
	require.NoError(t, s.Close())
	s = open(t, o)
	step() // the clock went back, and the process is another
}

func TestOldVersionStaysReadable(t *testing.T) {
	s, o := fresh(t)
	old, fresh := payload(1, 2<<20), payload(2, 1<<20)
	put(t, s, "b", "o", old)
	pinned, err := s.Open("b", "o")
	require.NoError(t, err)
	put(t, s, "b", "o", fresh)
	require.True(t, bytes.Equal(fresh, read(t, s, "b", "o")))
	clean(t, s, o, 1)
	require.NoError(t, s.Delete(ctx, "b", "o", store.Condition{}))
	clean(t, s, o, 0)
	_, err = s.Open("b", "o")
	require.ErrorIs(t, err, store.ErrNotFound)
	_, err = s.Stat("b", "o")
	require.ErrorIs(t, err, store.ErrNotFound)
	got := make([]byte, len(old))
	_, err = pinned.ReadAt(got, 0)
	require.NoError(t, err)
	require.True(t, bytes.Equal(old, got))
	require.EqualValues(t, len(old), pinned.Info().Size)
	require.NoError(t, pinned.Close())
}

func TestList(t *testing.T) {
	s, o := fresh(t)
	var names []string
	for i := range 60 {
		names = append(names, fmt.Sprintf("a/%03d", i))
		put(t, s, "b", names[i], []byte("x"))
	}
	put(t, s, "b", "z", []byte("x"))
	put(t, s, "b0", "a/other", []byte("x")) // a bucket that sorts right behind
	list := func(bucket, prefix, after string, limit int) (out []string, more bool) {
		infos, more, err := s.List(bucket, prefix, after, limit)
		require.NoError(t, err)
		for _, i := range infos {
			require.Equal(t, bucket, i.Bucket)
			out = append(out, i.Name)
		}
		return out, more
	}
	all, more := list("b", "", "", 0)
	require.Equal(t, append(names[:60:60], "z"), all)
	require.False(t, more)
	var paged []string
	for after, more := "", true; more; {
		var page []string
		page, more = list("b", "a/", after, 7)
		require.LessOrEqual(t, len(page), 7)
		paged = append(paged, page...)
		after = page[len(page)-1]
	}
	require.Equal(t, names, paged)
	page, more := list("b", "", "", 61)
	require.Len(t, page, 61)
	require.False(t, more, "a full last page is the last")
	page, _ = list("b", "a/05", "a", 0)
	require.Equal(t, names[50:60], page)
	page, _ = list("b", "a/05", "a/058", 0)
	require.Equal(t, names[59:60], page)
	page, _ = list("b", "a/05", "b", 0)
	require.Empty(t, page)
	page, _ = list("b", "nobody", "", 0)
	require.Empty(t, page)

	empty, err := s.Empty("b")
	require.NoError(t, err)
	require.False(t, empty)
	require.NoError(t, s.DropBucket(ctx, "b"))
	empty, err = s.Empty("b")
	require.NoError(t, err)
	require.True(t, empty)
	page, _ = list("b0", "", "", 0)
	require.Equal(t, []string{"a/other"}, page)
	clean(t, s, o, 1)
}

func TestDropOlder(t *testing.T) {
	s, o := fresh(t)
	info := put(t, s, "b", "o", []byte("x"))
	require.NoError(t, s.DropOlder(ctx, "b", "o", info.Version))
	clean(t, s, o, 1)
	require.NoError(t, s.DropOlder(ctx, "b", "o", info.Version+1))
	clean(t, s, o, 0)
	require.NoError(t, s.DropOlder(ctx, "b", "nobody", 1))
}

func TestArchive(t *testing.T) {
	s, o := fresh(t)
	data := tarOf(t, map[string][]byte{"a.cls": []byte("1"), "a.jpg": payload(1, 100_000), "b.jpg": payload(2, 5)})
	info, err := s.Put(ctx, "b", "s.tar", bytes.NewReader(data), store.PutOptions{Size: -1, Archive: archive.Tar})
	require.NoError(t, err)
	require.Equal(t, []int64{3, 2, 100_001}, []int64{info.Members, info.Samples, info.MaxSample})
	put(t, s, "b", "opaque", data)
	for range 2 {
		obj, err := s.Open("b", "s.tar")
		require.NoError(t, err)
		x, err := obj.Index()
		require.NoError(t, err)
		m, ok := x.Lookup("a.jpg")
		require.True(t, ok)
		got := make([]byte, m.Size)
		_, err = obj.ReadAt(got, m.Offset)
		require.NoError(t, err)
		require.Equal(t, payload(1, 100_000), got)
		require.Equal(t, m.Sum, xxh3.Hash(got))
		require.NoError(t, obj.Close())

		obj, err = s.Open("b", "opaque")
		require.NoError(t, err)
		x, err = obj.Index()
		require.NoError(t, err)
		require.Nil(t, x)
		require.NoError(t, obj.Close())
		require.NoError(t, s.Close())
		s = open(t, o)
	}
	clean(t, s, o, 2)
}

func TestReadSample(t *testing.T) {
	s, _ := fresh(t)
	files := map[string][]byte{"a.cls": []byte("1"), "a.jpg": payload(1, 1000), "b.cls": nil, "b.jpg": payload(2, 200_000)}
	_, err := s.Put(ctx, "b", "s.tar", bytes.NewReader(tarOf(t, files)), store.PutOptions{Size: -1, Archive: archive.Tar})
	require.NoError(t, err)
	obj, err := s.Open("b", "s.tar")
	require.NoError(t, err)
	defer func() { require.NoError(t, obj.Close()) }()
	x, err := obj.Index()
	require.NoError(t, err)
	buf := make([]byte, 10_000)
	for i := range 2 {
		span, base, err := obj.ReadSample(i, buf)
		require.NoError(t, err)
		first, count := x.Sample(i)
		for m := first; m < first+count; m++ {
			at := x.Member(m).Offset - base
			require.True(t, bytes.Equal(files[x.Member(m).Name], span[at:at+x.Member(m).Size]))
		}
	}
	_, _, err = obj.ReadSample(2, buf)
	require.ErrorIs(t, err, store.ErrRange)
	_, files2, err := s.Locate("b", "s.tar")
	require.NoError(t, err)
	m, _ := x.Lookup("b.jpg")
	flip(t, files2[0], m.Offset+150_000)
	_, _, err = obj.ReadSample(1, buf)
	var bad *store.CorruptError
	require.ErrorAs(t, err, &bad)
	require.Contains(t, err.Error(), "member b.jpg")
	_, _, err = obj.ReadSample(0, buf)
	require.NoError(t, err)
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
	defer store.MendDisks(s)
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

var errBody = errors.New("the network is down")
