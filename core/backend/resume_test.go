package backend_test

import (
	"bytes"
	"context"
	"crypto/md5"
	"errors"
	"io"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	"github.com/zeebo/xxh3"
	"pgregory.net/rapid"

	"github.com/shardstream/shardstream/core/backend"
)

func md5Of(data []byte) backend.Sums {
	sum := md5.Sum(data)
	return backend.Sums{MD5: sum[:]}
}

func xxh3Of(data []byte) backend.Sums {
	sum := xxh3.Hash(data)
	return backend.Sums{XXH3: &sum}
}

// However a body is cut, stalled or ended early, what is read is the range, or an error: never less, never other bytes.
func TestBodiesAreWholeOrAnError(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		data := rapid.SliceOfN(rapid.Byte(), 1, 400_000).Draw(rt, "data")
		size := int64(len(data))
		offset := rapid.Int64Range(0, size-1).Draw(rt, "offset")
		length := rapid.Int64Range(0, size).Draw(rt, "length")
		if rapid.Bool().Draw(rt, "whole") {
			offset, length = 0, 0
		}
		want := data[offset:]
		if length > 0 {
			want = want[:min(length, int64(len(want)))]
		}
		faults := rapid.SliceOfN(rapid.SampledFrom([]string{"", "cut", "short", "stall", "changed", "passing", "busy"}), 0, 9).Draw(rt, "faults")
		where := rapid.SliceOfN(rapid.Int64Range(0, size), 9, 9).Draw(rt, "where")
		damaged := rapid.Bool().Draw(rt, "damaged") && offset == 0 && length == 0
		tagless := rapid.Bool().Draw(rt, "tagless")
		piece := rapid.IntRange(1, 300_000).Draw(rt, "piece")
		synctest.Test(t, func(t *testing.T) {
			f := newFake(map[string][]byte{"a": data})
			f.sums = md5Of
			if damaged {
				f.sums = func([]byte) backend.Sums { return xxh3Of([]byte("something else")) }
			}
			if tagless {
				f.tag = ""
			}
			fault := func(call int) string {
				if call < len(faults) {
					return faults[call]
				}
				return ""
			}
			f.answer = func(_ string, call int) error {
				switch fault(call) {
				case "passing":
					return failure(backend.Passing)
				case "busy":
					return busy(0)
				case "changed":
					if call > 0 {
						f.tag = "tag-2"
					}
				}
				return nil
			}
			f.body = func(call int, r io.Reader) io.Reader {
				switch fault(call) {
				case "cut":
					return cut(r, where[call], errors.New("connection reset by peer"))
				case "short":
					return io.LimitReader(r, where[call])
				case "stall":
					return &stalling{r, where[call]}
				}
				return r
			}
			b := backend.WithRetries(f, policy)
			body, err := b.Open(t.Context(), "a", backend.OpenOptions{Offset: offset, Length: length})
			if err != nil {
				return
			}
			var got []byte
			buffer := make([]byte, piece)
			for err == nil {
				var n int
				n, err = body.Read(buffer)
				got = append(got, buffer[:n]...)
			}
			require.NoError(t, body.Close())
			if errors.Is(err, io.EOF) {
				require.Equal(t, want, got)
				require.False(t, damaged)
				return
			}
			require.True(t, bytes.HasPrefix(want, got))
			if damaged {
				require.Less(t, len(got), len(want), "all of a damaged object was handed out")
			}
			var typed *backend.Error
			require.ErrorAs(t, err, &typed)
			for i, o := range f.opens {
				require.True(t, i == 0 || tagless && o.Offset == 0 || o.Tag == "tag-1", "resumed on other bytes: %+v", f.opens)
			}
		})
	})
}

func TestCutsWithoutEndAreBounded(t *testing.T) {
	for name, each := range map[string]int64{"nothing": 0, "a byte": 1, "much": 128 << 10} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				data := bytes.Repeat([]byte("0123456789abcdef"), 128<<10)
				f := newFake(map[string][]byte{"a": data})
				f.sums = xxh3Of
				f.body = func(_ int, r io.Reader) io.Reader { return cut(r, each, errors.New("reset")) }
				body, err := backend.WithRetries(f, policy).Open(t.Context(), "a", backend.OpenOptions{})
				require.NoError(t, err)
				got, err := io.ReadAll(body)
				require.NoError(t, body.Close())
				if name == "much" {
					require.NoError(t, err)
					require.Equal(t, data, got)
					return
				}
				require.Equal(t, backend.Passing, backend.KindOf(err), "%v", err)
				require.Equal(t, 6, f.count("open"))
			})
		})
	}
}

func TestABodyOfUnknownLength(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		data := bytes.Repeat([]byte("x"), 100_000)
		f := newFake(map[string][]byte{"a": data})
		f.unsized, f.sums = true, md5Of
		f.body = func(call int, r io.Reader) io.Reader {
			if call == 0 {
				return cut(r, 70_000, io.ErrUnexpectedEOF)
			}
			return r
		}
		body, err := backend.WithRetries(f, policy).Open(t.Context(), "a", backend.OpenOptions{})
		require.NoError(t, err)
		require.Equal(t, int64(-1), body.Length)
		got, err := io.ReadAll(body)
		require.NoError(t, err)
		require.Equal(t, data, got)
	})
}

// An answer that does not say how long it is, and ends early as if that were all.
func TestAShortAnswerIsNotTakenForWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		data := bytes.Repeat([]byte("x"), 100_000)
		f := &shortAnswers{newFake(map[string][]byte{"a": data})}
		f.body = func(call int, r io.Reader) io.Reader {
			if call == 0 {
				return io.LimitReader(r, 70_000)
			}
			return r
		}
		body, err := backend.WithRetries(f, policy).Open(t.Context(), "a", backend.OpenOptions{})
		require.NoError(t, err)
		require.Equal(t, int64(100_000), body.Length)
		got, err := io.ReadAll(body)
		require.NoError(t, err)
		require.Equal(t, data, got)
		require.Equal(t, 2, f.count("open"))
	})
}

// shortAnswers is a backend that says how large objects are where it is asked for that alone.
type shortAnswers struct{ *fake }

func (s *shortAnswers) Open(ctx context.Context, name string, o backend.OpenOptions) (*backend.Body, error) {
	b, err := s.fake.Open(ctx, name, o)
	if err == nil {
		b.Entry.Size, b.Length = -1, -1
	}
	return b, err
}
