package etl_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/etl"
)

func objects(def *etl.Definition, _ *etl.Options) { def.Level = etl.LevelObject }

const reversing = `
from typing import BinaryIO
def transform(data: BinaryIO, size: int = 100_000):
    while block := data.read(size):
        yield block[::-1]
`

// zeros is n bytes without end in memory.
func zeros(n int64) io.Reader { return io.LimitReader(zeroReader{}, n) }

type zeroReader struct{}

func (zeroReader) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func TestObjectsStreamThroughFunctions(t *testing.T) {
	pool := newPool(t, reversing, objects, workers(2))
	text := strings.Repeat("0123456789", 50_000)
	for _, size := range []int{0, 1, 100_000, 500_000} {
		in := text[:size]
		for _, declared := range []int64{int64(size), -1} {
			out, err := pool.TransformObject(t.Context(), etl.Args(`{"size": 250000}`), etl.Object{Key: "k", Size: declared, Body: strings.NewReader(in)})
			require.NoError(t, err)
			got, err := io.ReadAll(out.Body)
			require.NoError(t, err)
			require.NoError(t, out.Body.Close())
			want := []byte{}
			for at := 0; at < size; at += 250_000 {
				block := []byte(in[at:min(at+250_000, size)])
				for i := len(block) - 1; i >= 0; i-- {
					want = append(want, block[i])
				}
			}
			require.True(t, bytes.Equal(want, got))
		}
	}
	stats := pool.Stats()
	require.EqualValues(t, 8, stats.Samples)
	require.Zero(t, stats.Errors)
	require.EqualValues(t, 2*600_001, stats.BytesIn)
	require.EqualValues(t, 2*600_001, stats.BytesOut)
}

// An object larger than a worker may hold goes through: neither side holds more than a few pieces.
func TestObjectsLargerThanMemory(t *testing.T) {
	pool := newPool(t, `
import io, resource
def transform(data: io.RawIOBase):
    resource.setrlimit(resource.RLIMIT_DATA, (200 << 20, 200 << 20))
    total = 0
    while block := data.read(1 << 20):
        total += len(block)
        yield block
`, objects, func(d *etl.Definition, _ *etl.Options) { d.Limits.Output = 1 << 40 })
	const size = 600 << 20
	out, err := pool.TransformObject(t.Context(), nil, etl.Object{Key: "k", Size: size, Body: zeros(size)})
	require.NoError(t, err)
	require.EqualValues(t, -1, out.Size)
	n, err := io.Copy(io.Discard, out.Body)
	require.NoError(t, err)
	require.EqualValues(t, size, n)
	require.NoError(t, out.Body.Close())
}

func TestFunctionsOfBytesMayYield(t *testing.T) {
	pool := newPool(t, `
def transform(data):
    if data == b"nothing":
        return iter(())
    return (data[i : i + 1] * 3 for i in range(len(data)))
`, objects)
	for in, want := range map[string]string{"abc": "aaabbbccc", "nothing": ""} {
		got, err := transformObject(t, pool, []byte(in))
		require.NoError(t, err)
		require.Equal(t, want, string(got))
	}
}

// However a function fails, its answer is never a clean end.
func TestFailuresInMidStream(t *testing.T) {
	cases := map[string]struct{ fault, want string }{
		"raise":   {`raise ValueError("half way")`, `failed on "k": ValueError: half way`},
		"exit":    {`os._exit(0)`, "ended with exit status 0"},
		"hang":    {`time.sleep(1000)`, "timed out after 0.4 s"},
		"type":    {`yield 5`, "TypeError: the function yielded int"},
		"flood":   {"\n    while True: yield bytes(100_000)", "the function yielded more than 3000000 bytes"},
		"garbage": {`os.write(3, b"x" * 100)`, "malformed frame"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := newPool(t, `
import os, time
def transform(data):
    yield bytes(1_000_000)
    `+c.fault+`
`, objects, timeout(400*time.Millisecond), func(d *etl.Definition, _ *etl.Options) { d.Limits.Output = 3_000_000 })
			out, err := pool.TransformObject(t.Context(), nil, etl.Object{Key: "k", Size: 1, Body: strings.NewReader("x")})
			require.NoError(t, err)
			n, err := io.Copy(io.Discard, out.Body)
			var fault *etl.UserError
			require.ErrorAs(t, err, &fault)
			require.ErrorContains(t, err, c.want)
			require.GreaterOrEqual(t, n, int64(1_000_000))
			require.NoError(t, out.Body.Close())
			require.EqualValues(t, 1, pool.Stats().Errors)
		})
	}
}

func TestObjectsThatCantBeRead(t *testing.T) {
	broken := errors.New("disk on fire")
	for name, source := range map[string]string{
		"stream": reversing,
		"whole":  "def transform(data): return data",
		"blind":  "from typing import BinaryIO\ndef transform(data: BinaryIO):\n    try:\n        return data.read()\n    except OSError:\n        return b'all is well'\n",
	} {
		t.Run(name, func(t *testing.T) {
			pool := newPool(t, source, objects)
			for _, size := range []int64{-1, 300_000} {
				body := io.MultiReader(zeros(200_000), iotest.ErrReader(broken))
				out, err := pool.TransformObject(t.Context(), nil, etl.Object{Key: "k", Size: size, Body: body})
				if err == nil {
					_, err = io.Copy(io.Discard, out.Body)
					require.NoError(t, out.Body.Close())
				}
				require.ErrorIs(t, err, broken)
			}
			require.Zero(t, pool.Stats().Restarts)
		})
	}
}

// A function need not read its object to the end; the next one finds nothing of it.
func TestFunctionsMayStopReading(t *testing.T) {
	pool := newPool(t, "import io\ndef transform(data: io.BufferedReader):\n    return data.read(3) + str(len(data.peek())).encode()\n", objects)
	for _, in := range []string{"abcdef", "xyz", strings.Repeat("q", 5_000_000)} {
		out, err := pool.TransformObject(t.Context(), nil, etl.Object{Key: "k", Size: int64(len(in)), Body: strings.NewReader(in)})
		require.NoError(t, err)
		got, err := io.ReadAll(out.Body)
		require.NoError(t, err)
		require.Equal(t, in[:3], string(got[:3]))
	}
	require.Zero(t, pool.Stats().Restarts)
}

func TestCancelEndsAStream(t *testing.T) {
	for _, how := range []string{"close", "context"} {
		t.Run(how, func(t *testing.T) {
			pool := newPool(t, "def transform(data):\n    while True:\n        yield bytes(100_000)\n", objects)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			out, err := pool.TransformObject(ctx, nil, etl.Object{Key: "k", Size: 1, Body: strings.NewReader("x")})
			require.NoError(t, err)
			_, err = io.CopyN(io.Discard, out.Body, 1_000_000)
			require.NoError(t, err)
			if how == "context" {
				cancel()
				require.Eventually(t, func() bool {
					_, err := io.Copy(io.Discard, out.Body)
					return errors.Is(err, context.Canceled)
				}, 10*time.Second, time.Millisecond)
			}
			require.NoError(t, out.Body.Close())
			_, err = out.Body.Read(make([]byte, 1))
			require.Error(t, err)
			require.Zero(t, pool.Stats().Waiting)
		})
	}
}

// A reader may take its time; that is not the function's.
func TestSlowReadersAreNoTimeout(t *testing.T) {
	pool := newPool(t, reversing, objects, timeout(50*time.Millisecond))
	out, err := pool.TransformObject(t.Context(), nil, etl.Object{Key: "k", Size: 5_000_000, Body: slowReader{zeros(5_000_000)}})
	require.NoError(t, err)
	buf := make([]byte, 1_000_000)
	total := 0
	for {
		time.Sleep(20 * time.Millisecond)
		n, err := io.ReadFull(out.Body, buf)
		total += n
		if err != nil {
			require.ErrorIs(t, err, io.EOF)
			break
		}
	}
	require.Equal(t, 5_000_000, total)
	require.NoError(t, out.Body.Close())
}

type slowReader struct{ io.Reader }

func (r slowReader) Read(b []byte) (int, error) {
	time.Sleep(10 * time.Millisecond)
	return r.Reader.Read(b)
}

func TestShutdownWaitsForStreams(t *testing.T) {
	pool := newPool(t, reversing, objects)
	out, err := pool.TransformObject(t.Context(), nil, etl.Object{Key: "k", Size: 3_000_000, Body: zeros(3_000_000)})
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- pool.Shutdown(context.Background()) }()
	n, err := io.Copy(io.Discard, out.Body)
	require.NoError(t, err)
	require.EqualValues(t, 3_000_000, n)
	require.NoError(t, out.Body.Close())
	require.NoError(t, <-done)
}

func TestCloseEndsStreams(t *testing.T) {
	pool := newPool(t, "def transform(data):\n    while True:\n        yield bytes(100_000)\n", objects)
	out, err := pool.TransformObject(t.Context(), nil, etl.Object{Key: "k", Size: 1, Body: strings.NewReader("x")})
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- pool.Close() }()
	_, err = io.Copy(io.Discard, out.Body)
	require.ErrorIs(t, err, etl.ErrClosed)
	require.NoError(t, out.Body.Close())
	require.NoError(t, <-done)
}

// A function of objects is applied to those fields of samples that its definition names.
func TestObjectFunctionsOnFields(t *testing.T) {
	for name, source := range map[string]string{
		"bytes":  "def transform(data, mark):\n    if data == b'bad':\n        raise ValueError('no')\n    return data[::-1] + mark.encode()\n",
		"stream": "from typing import BinaryIO\ndef transform(data: BinaryIO, mark):\n    if (all := data.read()) == b'bad':\n        raise ValueError('no')\n    yield all[::-1]\n    yield mark\n",
	} {
		t.Run(name, func(t *testing.T) {
			pool := newPool(t, source, objects, workers(2), func(d *etl.Definition, _ *etl.Options) {
				d.Fields, d.Args = []string{"a", "b"}, etl.Args(`{"mark": "."}`)
			})
			in := []etl.Sample{sample("0", "a", "abc", "c", "x"), sample("1", "a", "bad"), sample("2", "b", "12", "a", "34")}
			out := make([]etl.Result, 3)
			require.NoError(t, pool.Transform(t.Context(), etl.Args(`{"mark": "!"}`), in, out))
			require.Equal(t, sample("0", "a", "cba!", "c", "x"), out[0].Sample)
			require.Contains(t, userError(t, out[1]).Summary, "ValueError: no")
			require.Equal(t, sample("2", "b", "21!", "a", "43!"), out[2].Sample)
		})
	}
}

func TestManyObjectsAtOnce(t *testing.T) {
	pool := newPool(t, reversing, objects, workers(2))
	done := make(chan error, 12)
	for i := range cap(done) {
		go func() {
			in := strings.Repeat(fmt.Sprint(i%10), 10_000*(i+1))
			got, err := transformWhole(t.Context(), pool, in)
			if err == nil && got != in {
				err = errors.New("not its own object")
			}
			done <- err
		}()
	}
	for range cap(done) {
		require.NoError(t, <-done)
	}
}

func transformWhole(ctx context.Context, pool *etl.Pool, in string) (string, error) {
	out, err := pool.TransformObject(ctx, nil, etl.Object{Key: "k", Size: int64(len(in)), Body: strings.NewReader(in)})
	if err != nil {
		return "", err
	}
	defer out.Body.Close()
	got, err := io.ReadAll(out.Body)
	return string(got), err
}
