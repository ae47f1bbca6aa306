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
	if os.Getenv(engineChild) != "" {
		os.Exit(m.Run())
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
	o := store.Options{Logger: quiet(), ProbeEvery: -1, StrayGrace: -1}
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

var errBody = errors.New("the network is down")
