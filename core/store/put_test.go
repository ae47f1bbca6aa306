package store_test

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/core/archive"
	"github.com/shardstream/shardstream/core/store"
)

func tarOf(t testing.TB, files map[string][]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		require.NoError(t, w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(files[name])), Typeflag: tar.TypeReg}))
		_, err := w.Write(files[name])
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return b.Bytes()
}

// TestAbortedPut: whatever ends a PUT early, the object is as before and nothing is left.
func TestAbortedPut(t *testing.T) {
	data := payload(1, 3<<20)
	wrong64, wrong32 := uint64(1), uint32(1)
	good := tarOf(t, map[string][]byte{"a.jpg": data})
	for name, c := range map[string]struct {
		body  io.Reader
		o     store.PutOptions
		check func(t *testing.T, err error)
	}{
		"reader fails": {
			io.MultiReader(bytes.NewReader(data), iotest.ErrReader(errBody)),
			store.PutOptions{Size: -1},
			func(t *testing.T, err error) { require.ErrorIs(t, err, errBody) },
		},
		"cut off, length unknown": {
			io.MultiReader(bytes.NewReader(data), iotest.ErrReader(io.ErrUnexpectedEOF)),
			store.PutOptions{Size: -1},
			func(t *testing.T, err error) { require.ErrorIs(t, err, io.ErrUnexpectedEOF) },
		},
		"cut off": {
			io.MultiReader(bytes.NewReader(data[:100]), iotest.ErrReader(io.ErrUnexpectedEOF)),
			store.PutOptions{Size: int64(len(data))},
			func(t *testing.T, err error) {
				var short *store.ShortBodyError
				require.ErrorAs(t, err, &short)
				require.EqualValues(t, 100, short.Got)
			},
		},
		"short": {
			bytes.NewReader(data[:len(data)-1]),
			store.PutOptions{Size: int64(len(data))},
			func(t *testing.T, err error) {
				var short *store.ShortBodyError
				require.ErrorAs(t, err, &short)
				require.Equal(t, int64(len(data)-1), short.Got)
				require.Equal(t, int64(len(data)), short.Want)
			},
		},
		"long": {
			bytes.NewReader(data),
			store.PutOptions{Size: int64(len(data) - 1)},
			func(t *testing.T, err error) {
				var short *store.ShortBodyError
				require.ErrorAs(t, err, &short)
				require.Equal(t, int64(len(data)), short.Got)
			},
		},
		"stuck": {
			stuckReader{},
			store.PutOptions{Size: 10},
			func(t *testing.T, err error) { require.ErrorIs(t, err, io.ErrNoProgress) },
		},
		"xxh3": {
			bytes.NewReader(data),
			store.PutOptions{Size: -1, XXH3: &wrong64},
			func(t *testing.T, err error) {
				var sum *store.ChecksumError
				require.ErrorAs(t, err, &sum)
				require.Equal(t, "xxh3", sum.Algorithm)
			},
		},
		"crc32": {
			bytes.NewReader(data),
			store.PutOptions{Size: -1, CRC32: &wrong32},
			func(t *testing.T, err error) {
				var sum *store.ChecksumError
				require.ErrorAs(t, err, &sum)
				require.Equal(t, "crc32", sum.Algorithm)
			},
		},
		"garbage archive": {
			bytes.NewReader(data),
			store.PutOptions{Size: -1, Archive: archive.Tar},
			func(t *testing.T, err error) {
				var bad *archive.FormatError
				require.ErrorAs(t, err, &bad)
			},
		},
		"truncated archive": {
			bytes.NewReader(good[:len(good)-1024]),
			store.PutOptions{Size: -1, Archive: archive.Tar},
			func(t *testing.T, err error) {
				var bad *archive.FormatError
				require.ErrorAs(t, err, &bad)
			},
		},
		"unknown archive": {
			bytes.NewReader(data),
			store.PutOptions{Size: -1, Archive: "rar"},
			func(t *testing.T, err error) { require.ErrorContains(t, err, "rar") },
		},
		"negative size": {
			bytes.NewReader(data),
			store.PutOptions{Size: -2},
			func(t *testing.T, err error) { require.ErrorContains(t, err, "size -2") },
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, o := fresh(t)
			before := put(t, s, "b", "o", []byte("before"))
			_, err := s.Put(ctx, "b", "o", c.body, c.o)
			c.check(t, err)
			after, err := s.Stat("b", "o")
			require.NoError(t, err)
			require.Equal(t, before, after)
			clean(t, s, o, 1)
		})
	}
	t.Run("cancelled", func(t *testing.T) {
		s, o := fresh(t)
		ctx, cancel := context.WithCancelCause(ctx)
		body := &countingReader{at: 2 << 20, then: func() { cancel(errBody) }}
		_, err := s.Put(ctx, "b", "o", body, store.PutOptions{Size: -1})
		require.ErrorIs(t, err, errBody)
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorIs(t, s.DropBucket(ctx, "b"), context.Canceled)
		clean(t, s, o, 0)
	})
}

type stuckReader struct{}

func (stuckReader) Read([]byte) (int, error) { return 0, nil }

// countingReader never ends; it calls then once at bytes were read.
type countingReader struct {
	n, at int
	then  func()
}

func (r *countingReader) Read(p []byte) (int, error) {
	r.n += len(p)
	if r.n >= r.at && r.then != nil {
		r.then()
		r.then = nil
	}
	return len(p), nil
}

func TestPutTakesSmallReads(t *testing.T) {
	s, o := fresh(t)
	data := payload(9, 200_001)
	for _, body := range []io.Reader{
		iotest.OneByteReader(bytes.NewReader(data)), iotest.HalfReader(bytes.NewReader(data)), iotest.DataErrReader(bytes.NewReader(data)),
	} {
		_, err := s.Put(ctx, "b", "o", body, store.PutOptions{Size: int64(len(data))})
		require.NoError(t, err)
		require.True(t, bytes.Equal(data, read(t, s, "b", "o")))
	}
	clean(t, s, o, 1)
}

// TestFasterPutIsFollowed: of two PUTs, the one that commits last is the newer version, whichever began first.
func TestFasterPutIsFollowed(t *testing.T) {
	s, o := fresh(t)
	var between store.Info
	slow := io.MultiReader(strings.NewReader("slow"), &callReader{func() { between = put(t, s, "b", "o", []byte("fast")) }})
	info, err := s.Put(ctx, "b", "o", slow, store.PutOptions{Size: -1})
	require.NoError(t, err)
	require.Greater(t, info.Version, between.Version)
	require.Equal(t, "slow", string(read(t, s, "b", "o")))
	clean(t, s, o, 1)
}

// callReader is empty, and calls a function when that is found out.
type callReader struct{ call func() }

func (r *callReader) Read([]byte) (int, error) {
	r.call()
	return 0, io.EOF
}
