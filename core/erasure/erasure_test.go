package erasure_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/klauspost/reedsolomon"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/shardstream/shardstream/core/erasure"
)

// bytesOf makes an object that compresses to nothing and is the same for the same seed.
func bytesOf(size int, seed uint64) []byte {
	p := make([]byte, size)
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	_, _ = rand.NewChaCha8(key).Read(p) // never fails
	return p
}

// encode cuts an object that is written in pieces of so many bytes.
func encode(t require.TestingT, c *erasure.Code, object []byte, piece int) [][]byte {
	buffers := make([]bytes.Buffer, c.Slices())
	writers := make([]io.Writer, c.Slices())
	for i := range writers {
		writers[i] = &buffers[i]
	}
	e, err := c.Encoder(writers, c.Slices())
	require.NoError(t, err)
	for p := object; len(p) > 0; {
		n := min(piece, len(p))
		scratch := bytes.Clone(p[:n])
		m, err := e.Write(scratch)
		require.NoError(t, err)
		require.Equal(t, n, m)
		clear(scratch) // nothing of it may be kept
		p = p[n:]
	}
	require.NoError(t, e.Close())
	require.EqualValues(t, len(object), e.Size())
	out := make([][]byte, c.Slices())
	for i := range out {
		out[i] = buffers[i].Bytes()
	}
	return out
}

// stored is a Source over slices in memory. Bad ones fail at an offset.
type stored struct {
	slices [][]byte
	bad    map[int]int64
	opened atomic.Int32
	closed atomic.Int32
}

var errBad = errors.New("block does not match its checksum")

func (s *stored) source(order ...int) erasure.Source {
	return erasure.Source{Order: order, Open: func(_ context.Context, slice int, offset int64) (erasure.Reader, error) {
		bad, isBad := s.bad[slice]
		if isBad && bad <= offset {
			return nil, errBad
		}
		s.opened.Add(1)
		r := &storedReader{s: s, p: s.slices[slice][offset:], bad: -1}
		if isBad {
			r.bad = int(bad - offset)
		}
		return r, nil
	}}
}

type storedReader struct {
	s   *stored
	p   []byte
	bad int
	buf []byte
}

func (r *storedReader) Next(n int) ([]byte, error) {
	if r.bad >= 0 && r.bad < n {
		return nil, errBad
	}
	r.bad -= n
	n = min(n, len(r.p))
	clear(r.buf) // what was given out before is no longer valid
	r.buf = append(r.buf[:0], r.p[:n]...)
	r.p = r.p[n:]
	return r.buf, nil
}

func (r *storedReader) Close() error { r.s.closed.Add(1); return nil }

// sizes are drawn around the edges of units, stripes and batches.
func sizes(data int) *rapid.Generator[int] {
	return rapid.Custom(func(t *rapid.T) int {
		edge := rapid.SampledFrom([]int{
			0, data, 1000, erasure.UnitSize, data * erasure.UnitSize, 2 * data * erasure.UnitSize, 3 << 20, 5 << 20,
		}).Draw(t, "edge")
		return max(0, edge+rapid.IntRange(-3, 3).Draw(t, "beside"))
	})
}

// TestAnySlicesMakeTheObject is the promise: from any Data slices, the object and every slice, bit for bit.
func TestAnySlicesMakeTheObject(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		data, parity := rapid.IntRange(1, 12).Draw(t, "data"), rapid.IntRange(1, 6).Draw(t, "parity")
		c, err := erasure.New(data, parity)
		require.NoError(t, err)
		object := bytesOf(sizes(data).Draw(t, "size"), rapid.Uint64().Draw(t, "seed"))
		piece := rapid.SampledFrom([]int{1 << 10, 64<<10 - 1, 512 << 10, 3<<20 + 5, 1 << 30}).Draw(t, "piece")
		s := &stored{slices: encode(t, c, object, piece), bad: map[int]int64{}}
		for _, slice := range s.slices {
			require.EqualValues(t, c.SliceSize(int64(len(object))), len(slice))
		}
		order := rapid.Permutation(numbers(c.Slices())).Draw(t, "order")
		lost := order[:rapid.IntRange(0, parity).Draw(t, "lost")]
		order = order[len(lost):]
		// Of those that are there, as many as may be spared fail on the way.
		for _, i := range order[:rapid.IntRange(0, parity-len(lost)).Draw(t, "failing")] {
			s.bad[i] = rapid.Int64Range(0, c.SliceSize(int64(len(object)))).Draw(t, "fails at")
		}
		var whole *bytes.Buffer
		var dst io.Writer
		if rapid.Bool().Draw(t, "whole") {
			whole = &bytes.Buffer{}
			dst = whole
		}
		rebuilt, writers := make([]bytes.Buffer, c.Slices()), make([]io.Writer, c.Slices())
		for i := range writers {
			if slices.Contains(lost, i) || rapid.Bool().Draw(t, "rebuild") {
				writers[i] = &rebuilt[i]
			}
		}
		require.NoError(t, c.Decode(context.Background(), int64(len(object)), s.source(order...), dst, writers))
		if whole != nil {
			require.True(t, bytes.Equal(object, whole.Bytes()))
		}
		for i, w := range writers {
			if w != nil {
				require.True(t, bytes.Equal(s.slices[i], rebuilt[i].Bytes()), "slice %d", i)
			}
		}
		require.Equal(t, s.opened.Load(), s.closed.Load())
	})
}

// TestSlicesAreThoseOfTheLibrary: what is stored can be read by anybody who has the library and this sentence: unit j
// of stripe s is the object's bytes from (s*data+j) units on.
func TestSlicesAreThoseOfTheLibrary(t *testing.T) {
	c, err := erasure.New(4, 2)
	require.NoError(t, err)
	lib, err := reedsolomon.New(4, 2)
	require.NoError(t, err)
	object := bytesOf(3*4*erasure.UnitSize+10, 1)
	got := encode(t, c, object, 100_000)
	padded := append(bytes.Clone(object), 0, 0) // the last stripe's units are of three bytes
	for s := range 4 {
		unit, at := erasure.UnitSize, s*erasure.UnitSize
		if s == 3 {
			unit = 3
		}
		shards := make([][]byte, 6)
		for i := range 4 {
			from := s*4*erasure.UnitSize + i*unit
			shards[i] = padded[from : from+unit]
			require.True(t, bytes.Equal(shards[i], got[i][at:at+unit]))
		}
		shards[4], shards[5] = make([]byte, unit), make([]byte, unit)
		require.NoError(t, lib.Encode(shards))
		for i := 4; i < 6; i++ {
			require.True(t, bytes.Equal(shards[i], got[i][at:at+unit]))
		}
	}
}

func TestTooFewSlices(t *testing.T) {
	c, err := erasure.New(4, 2)
	require.NoError(t, err)
	object := bytesOf(3<<20, 2)
	s := &stored{slices: encode(t, c, object, 1<<20), bad: map[int]int64{1: 300_000, 4: 0}}
	err = c.Decode(t.Context(), int64(len(object)), s.source(0, 1, 2, 3, 4), io.Discard, nil)
	require.ErrorIs(t, err, erasure.ErrTooFew)
	require.ErrorIs(t, err, errBad)
	require.ErrorContains(t, err, "slice 1")
	require.Equal(t, s.opened.Load(), s.closed.Load())
	require.NoError(t, c.Decode(t.Context(), int64(len(object)), s.source(0, 1, 2, 3, 5), io.Discard, nil))
}

// TestShortSlice: a slice that ends early is a slice that failed, not the end of the object.
func TestShortSlice(t *testing.T) {
	c, err := erasure.New(2, 1)
	require.NoError(t, err)
	object := bytesOf(500_000, 3)
	s := &stored{slices: encode(t, c, object, 1<<20)}
	s.slices[0] = s.slices[0][:len(s.slices[0])-1]
	require.ErrorIs(t, c.Decode(t.Context(), int64(len(object)), s.source(0, 1), io.Discard, nil), io.ErrUnexpectedEOF)
	var whole bytes.Buffer
	require.NoError(t, c.Decode(t.Context(), int64(len(object)), s.source(0, 1, 2), &whole, nil))
	require.True(t, bytes.Equal(object, whole.Bytes()))
}

type failingWriter struct{ after int }

var errFull = errors.New("no space")

func (w *failingWriter) Write(p []byte) (int, error) {
	if w.after -= len(p); w.after < 0 {
		return 0, errFull
	}
	return len(p), nil
}

// TestFailingWriters: slices that can't be written are left out as long as enough are left.
func TestFailingWriters(t *testing.T) {
	c, err := erasure.New(4, 2)
	require.NoError(t, err)
	object := bytesOf(2<<20, 4)
	for _, test := range []struct {
		name          string
		failing, need int
		fails         bool
	}{{"none", 0, 6, false}, {"one, all needed", 1, 6, true}, {"two, five needed", 2, 5, true}, {"two, four needed", 2, 4, false}} {
		t.Run(test.name, func(t *testing.T) {
			writers := make([]io.Writer, 6)
			var buffers [6]bytes.Buffer
			for i := range writers {
				writers[i] = &buffers[i]
				if i < test.failing {
					writers[i] = &failingWriter{after: 100_000 * (i + 1)}
				}
			}
			e, err := c.Encoder(writers, test.need)
			require.NoError(t, err)
			_, err = io.Copy(struct{ io.Writer }{e}, bytes.NewReader(object))
			if test.fails {
				require.ErrorIs(t, err, erasure.ErrTooFew)
				require.ErrorIs(t, err, errFull)
				e.Abort()
				_, err = e.Write(object)
				require.Error(t, err)
				return
			}
			require.NoError(t, err)
			require.NoError(t, e.Close())
			s := &stored{slices: make([][]byte, 6)}
			var good []int
			for i := range writers {
				s.slices[i] = buffers[i].Bytes()
				if failed := e.Failed()[i]; i < test.failing {
					require.ErrorIs(t, failed, errFull)
				} else {
					require.NoError(t, failed)
					good = append(good, i)
				}
			}
			var whole bytes.Buffer
			require.NoError(t, c.Decode(t.Context(), int64(len(object)), s.source(good...), &whole, nil))
			require.True(t, bytes.Equal(object, whole.Bytes()))
		})
	}
}

// TestNewReader reads slices as a network gives them: in pieces of any length.
func TestNewReader(t *testing.T) {
	c, err := erasure.New(3, 2)
	require.NoError(t, err)
	object := bytesOf(1_000_001, 5)
	parts := encode(t, c, object, 77_777)
	from := erasure.Source{Order: []int{4, 2, 1}, Open: func(_ context.Context, slice int, offset int64) (erasure.Reader, error) {
		return erasure.NewReader(io.NopCloser(&dribble{parts[slice][offset:]})), nil
	}}
	var whole bytes.Buffer
	require.NoError(t, c.Decode(t.Context(), int64(len(object)), from, &whole, nil))
	require.True(t, bytes.Equal(object, whole.Bytes()))
}

type dribble struct{ p []byte }

func (d *dribble) Read(p []byte) (int, error) {
	n := copy(p[:min(len(p), 10_007)], d.p)
	if d.p = d.p[n:]; n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func TestCancelled(t *testing.T) {
	c, err := erasure.New(2, 1)
	require.NoError(t, err)
	s := &stored{slices: encode(t, c, bytesOf(100_000, 6), 1<<20)}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, c.Decode(ctx, 100_000, s.source(0, 1, 2), io.Discard, nil), context.Canceled)
}

func TestBounds(t *testing.T) {
	for _, bad := range [][2]int{{0, 1}, {1, 0}, {-1, 2}, {200, 57}} {
		_, err := erasure.New(bad[0], bad[1])
		require.Error(t, err, "%v", bad)
	}
	c, err := erasure.New(2, 1)
	require.NoError(t, err)
	_, err = c.Encoder(make([]io.Writer, 2), 2)
	require.Error(t, err)
	require.Error(t, c.Decode(t.Context(), 10, erasure.Source{}, nil, make([]io.Writer, 4)))
	s := &stored{slices: encode(t, c, bytesOf(10, 7), 10)}
	require.Error(t, c.Decode(t.Context(), 10, s.source(1, 1, 2), io.Discard, nil), "a slice that is given twice")
	require.Error(t, c.Decode(t.Context(), 10, s.source(3, 1), io.Discard, nil), "a slice that there can't be")
}

func numbers(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

func ExampleCode() {
	code, _ := erasure.New(2, 1)
	var parts [3]bytes.Buffer
	encoder, _ := code.Encoder([]io.Writer{&parts[0], &parts[1], &parts[2]}, 3)
	_, _ = io.WriteString(encoder, "any two of three")
	_ = encoder.Close()
	from := erasure.Source{Order: []int{1, 2}, Open: func(_ context.Context, slice int, offset int64) (erasure.Reader, error) {
		return erasure.NewReader(io.NopCloser(bytes.NewReader(parts[slice].Bytes()[offset:]))), nil
	}}
	var whole bytes.Buffer
	_ = code.Decode(context.Background(), encoder.Size(), from, &whole, nil)
	fmt.Println(whole.String())
	// Output: any two of three
}
