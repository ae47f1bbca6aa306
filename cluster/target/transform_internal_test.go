package target

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/zeebo/xxh3"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/etl"
)

const kib, mib = 1 << 10, 1 << 20

func noise(size int) []byte {
	data := make([]byte, size)
	_, _ = rand.New(rand.NewSource(int64(size))).Read(data)
	return data
}

func sums(data []byte) string {
	sum, crc := xxh3.Hash(data), crc32.ChecksumIEEE(data)
	return api.Checksums{XXH3: &sum, CRC32: &crc}.String()
}

// gives is a transformation whose output is always the same, of known size or not.
func gives(data []byte, known bool) *fake {
	return &fake{object: func(_ context.Context, _ etl.Args, o etl.Object) (*etl.Output, error) {
		_, _ = io.Copy(io.Discard, o.Body)
		size := int64(-1)
		if known {
			size = int64(len(data))
		}
		return outputOf(bytes.NewReader(data), size), nil
	}}
}

// upper streams: what it is given leaves it as it comes.
func upper() *fake {
	return &fake{object: func(_ context.Context, _ etl.Args, o etl.Object) (*etl.Output, error) {
		return outputOf(upperReader{o.Body}, -1), nil
	}}
}

type upperReader struct{ r io.Reader }

func (u upperReader) Read(p []byte) (int, error) {
	n, err := u.r.Read(p[:min(len(p), 10_000)])
	copy(p, bytes.ToUpper(p[:n]))
	return n, err
}

// broken gives some bytes and fails.
type broken struct{ left int }

func (f *broken) Read(p []byte) (int, error) {
	if f.left == 0 {
		return 0, &etl.UserError{ETL: "x", Key: "o", Summary: "ValueError: in the middle"}
	}
	n := min(len(p), f.left)
	f.left -= n
	return n, nil
}

func TestWholeAnswers(t *testing.T) {
	b := newBench(t)
	b.put("o", []byte("hello"))
	for _, size := range []int{0, 1, 100, 64 * kib, 64*kib + 1, 4 * mib, 4*mib + 1, 9 * mib} {
		for _, known := range []bool{true, false} {
			t.Run(fmt.Sprint(size, known), func(t *testing.T) {
				data := noise(size)
				b.deploy("x", etl.LevelObject, gives(data, known))
				r, body := b.get(200, "o?etl=x")
				require.True(t, bytes.Equal(data, body))
				require.Equal(t, "text/x-fake", r.Header.Get("Content-Type"))
				switch {
				case known && size > 4*mib: // the sum can't be known, the end can't be mistaken
					require.EqualValues(t, size, r.ContentLength)
					require.Empty(t, r.Header.Get(api.HeaderBodyChecksum))
				case known || size < 64*kib:
					require.EqualValues(t, size, r.ContentLength)
					require.Equal(t, sums(data), r.Header.Get(api.HeaderBodyChecksum))
				default:
					require.EqualValues(t, -1, r.ContentLength)
					require.Equal(t, sums(data), r.Trailer.Get(api.HeaderBodyChecksum))
				}
				reader, err := b.client.GetObject(t.Context(), "b", "o", api.GetOptions{ETL: []string{"x"}})
				require.NoError(t, err)
				body, err = io.ReadAll(reader)
				require.NoError(t, err)
				require.NoError(t, reader.Close())
				require.True(t, bytes.Equal(data, body))
			})
		}
	}
}

func TestBytesLeaveAsTheyCome(t *testing.T) {
	b := newBench(t)
	b.put("o", []byte("hello"))
	source, sink := io.Pipe()
	b.deploy("x", etl.LevelObject, &fake{object: func(context.Context, etl.Args, etl.Object) (*etl.Output, error) { return outputOf(source, -1), nil }})
	b.deploy("upper", etl.LevelObject, upper())
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, b.url+"/v1/objects/b/o?etl=x,upper", http.NoBody)
	require.NoError(t, err)
	go func() { _, _ = sink.Write(bytes.Repeat([]byte("a"), firstBytes)) }() // what is awaited
	r, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer func() { _ = r.Body.Close() }()
	got := make([]byte, firstBytes)
	_, err = io.ReadFull(r.Body, got)
	require.NoError(t, err)
	for range 20 { // each piece arrives before the next one is made
		_, err = sink.Write([]byte("piece"))
		require.NoError(t, err)
		_, err = io.ReadFull(r.Body, got[:5])
		require.NoError(t, err)
		require.Equal(t, "PIECE", string(got[:5]))
	}
	require.NoError(t, sink.Close())
	rest, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	require.Empty(t, rest)
	require.NotEmpty(t, r.Trailer.Get(api.HeaderBodyChecksum))
}

func TestFailures(t *testing.T) {
	b := newBench(t)
	b.put("o", []byte("hello"))
	fails := func(after int, size int64) *fake {
		return &fake{object: func(context.Context, etl.Args, etl.Object) (*etl.Output, error) {
			return outputOf(&broken{left: after}, size), nil
		}}
	}
	for name, x := range map[string]struct {
		f    *fake
		code string
		says string
	}{
		"at once":           {fails(0, -1), api.CodeETLFailed, "in the middle"},
		"early":             {fails(firstBytes-1, -1), api.CodeETLFailed, "in the middle"},
		"at the end":        {fails(mib, mib), api.CodeETLFailed, "in the middle"},
		"of a small answer": {fails(mib, 2*mib), api.CodeETLFailed, "in the middle"},
	} {
		t.Run(name, func(t *testing.T) {
			b.deploy("x", etl.LevelObject, x.f)
			r, body := b.get(422, "o?etl=x")
			require.Contains(t, string(body), x.says)
			require.Equal(t, x.code, r.Header.Get(api.HeaderError))
			require.Empty(t, r.Header.Get("ETag"))
			r, _ = b.get(422, "o?etl=x&cache=true")
			require.Empty(t, r.Header.Get("ETag"))
		})
	}
	for name, f := range map[string]*fake{
		"late, in chunks":     fails(3*mib, -1),
		"late, of known size": fails(5*mib, 6*mib),
		"with its last byte":  fails(5*mib, 5*mib),
		"fewer than promised": {object: func(context.Context, etl.Args, etl.Object) (*etl.Output, error) {
			return outputOf(bytes.NewReader(noise(5*mib)), 5*mib+1), nil
		}},
	} {
		t.Run(name, func(t *testing.T) {
			b.deploy("x", etl.LevelObject, f)
			_, _, err := b.do(http.MethodGet, "o?etl=x")
			require.ErrorIs(t, err, io.ErrUnexpectedEOF)
			reader, err := b.client.GetObject(t.Context(), "b", "o", api.GetOptions{ETL: []string{"x"}})
			require.NoError(t, err)
			_, err = io.ReadAll(reader)
			require.ErrorContains(t, err, "through x: broke off")
			require.NoError(t, reader.Close())
		})
	}
	t.Run("statuses", func(t *testing.T) {
		for status, failure := range map[int]error{
			413: &etl.SizeError{Key: "o", Size: 10, Limit: 5},
			422: &etl.UserError{ETL: "x", Summary: "took longer than its time limit of 1s"},
			503: etl.ErrNoPython,
			400: &etl.DefinitionError{Field: "args", Reason: "are odd"},
			500: errors.New("of our own"),
		} {
			b.deploy("x", etl.LevelObject, &fake{object: func(context.Context, etl.Args, etl.Object) (*etl.Output, error) { return nil, failure }})
			b.get(status, "o?etl=x")
		}
		b.get(404, "o?etl=nope")
		b.get(404, "nope?etl=x")
	})
}

func TestRangesOfOutputs(t *testing.T) {
	b := newBench(t)
	b.put("o", []byte("hello"))
	for name, x := range map[string]struct {
		size   int
		known  bool
		cached string
	}{
		"small": {100 * kib, false, ""}, "small, known": {100 * kib, true, ""}, "small, kept": {100 * kib, false, "&cache=true"},
		"large": {6 * mib, false, ""}, "large, known": {6 * mib, true, ""}, "large, kept": {6 * mib, false, "&cache=true"},
	} {
		t.Run(name, func(t *testing.T) {
			data := noise(x.size)
			b.deploy("x", etl.LevelObject, gives(data, x.known))
			path := "o?etl=x" + x.cached
			r, _, err := b.do(http.MethodHead, path)
			require.NoError(t, err)
			etag := r.Header.Get("ETag")
			for _, part := range [][2]int{{0, 1}, {0, x.size}, {17, 80 * kib}, {x.size - 1, x.size}, {70 * kib, x.size}} {
				spec := fmt.Sprintf("bytes=%d-%d", part[0], part[1]-1)
				r, body := b.get(206, path, "Range", spec, "If-Range", etag)
				require.True(t, bytes.Equal(data[part[0]:part[1]], body), spec)
				require.Equal(t, fmt.Sprintf("bytes %d-%d/%d", part[0], part[1]-1, x.size), r.Header.Get("Content-Range"))
				require.Equal(t, etag, r.Header.Get("ETag"))
			}
			_, body := b.get(206, path, "Range", "bytes=-10")
			require.Equal(t, data[x.size-10:], body)
			r, _ = b.get(416, path, "Range", fmt.Sprintf("bytes=%d-", x.size))
			require.Equal(t, fmt.Sprintf("bytes */%d", x.size), r.Header.Get("Content-Range"))
			_, body = b.get(200, path, "Range", "bytes=0-9", "If-Range", `"another"`)
			require.True(t, bytes.Equal(data, body))
			reader, err := b.client.GetObject(t.Context(), "b", "o", api.GetOptions{ETL: []string{"x"}, Offset: 5, Length: 90 * kib})
			require.NoError(t, err)
			body, err = io.ReadAll(reader)
			require.NoError(t, err)
			require.NoError(t, reader.Close())
			require.True(t, bytes.Equal(data[5:5+90*kib], body))
		})
	}
}

func TestConditionsOfOutputs(t *testing.T) {
	b := newBench(t)
	b.put("o", []byte("hello"))
	b.put("p", []byte("hello"))
	f := b.deploy("x", etl.LevelObject, upper())
	r, body := b.get(200, "o?etl=x")
	require.Equal(t, "HELLO", string(body))
	etag := r.Header.Get("ETag")
	plain, _ := b.get(200, "o")
	require.NotEqual(t, plain.Header.Get("ETag"), etag)
	require.EqualValues(t, 1, f.calls.Load())
	b.get(304, "o?etl=x", "If-None-Match", etag)
	b.get(412, "o?etl=x", "If-Match", `"another"`)
	r, _, err := b.do(http.MethodHead, "o?etl=x")
	require.NoError(t, err)
	require.Equal(t, 200, r.StatusCode)
	require.Equal(t, etag, r.Header.Get("ETag"))
	require.EqualValues(t, -1, r.ContentLength, "not known without a run")
	require.EqualValues(t, 1, f.calls.Load(), "none of this runs it")
	b.get(200, "o?etl=x", "If-Match", etag)
	b.get(200, "o?etl=x", "If-Match", plain.Header.Get("ETag"))
	tags := map[string]string{etag: "o"}
	for _, path := range []string{"p?etl=x", "o?etl=x,x", `o?etl=x&etl_args={"a":1}`, `o?etl=x&etl_args={"a":2}`} {
		r, _ := b.get(200, path)
		require.Empty(t, tags[r.Header.Get("ETag")], path)
		tags[r.Header.Get("ETag")] = path
	}
	r, _ = b.get(200, `o?etl=x&etl_args={+"a":+1+}`)
	require.Equal(t, `o?etl=x&etl_args={"a":1}`, tags[r.Header.Get("ETag")], "spelled otherwise")
	b.deploy("x", etl.LevelObject, upper())
	r, _ = b.get(200, "o?etl=x", "If-None-Match", etag)
	require.NotEqual(t, etag, r.Header.Get("ETag"), "a new version")
	b.put("o", []byte("bye"))
	again, _ := b.get(200, "o?etl=x")
	require.NotEqual(t, r.Header.Get("ETag"), again.Header.Get("ETag"), "a new object")
}

func TestArguments(t *testing.T) {
	b := newBench(t)
	b.put("o", []byte("hello"))
	echo := func(defaults string) *fake {
		f := &fake{object: func(_ context.Context, args etl.Args, o etl.Object) (*etl.Output, error) {
			data, err := io.ReadAll(o.Body)
			return outputOf(strings.NewReader(string(data)+" "+string(args)), -1), err
		}}
		f.definition.Args = etl.Args(defaults)
		return f
	}
	b.deploy("x", etl.LevelObject, echo(""))
	b.deploy("y", etl.LevelObject, echo(`{"size": 1, "flip": true}`))
	for path, want := range map[string]string{
		`o?etl=x`:                              `hello `,
		`o?etl=x&etl_args={"a":1}`:             `hello {"a":1}`,
		`o?etl=x&etl_args=[{"a":1}]`:           `hello {"a":1}`,
		`o?etl=y`:                              `hello {"flip":true,"size":1}`,
		`o?etl=y&etl_args={"size":2}`:          `hello {"flip":true,"size":2}`,
		`o?etl=x,y&etl_args=[null,{"size":2}]`: `hello  {"flip":true,"size":2}`,
		`o?etl=x,y&etl_args=[{"a":1},+null+]`:  `hello {"a":1} {"flip":true,"size":1}`,
	} {
		_, body := b.get(200, path)
		require.Equal(t, want, string(body), path)
	}
	for path, says := range map[string]string{
		`o?etl=x&etl_args=1`:         "not a JSON object",
		`o?etl=x&etl_args={`:         "not a JSON object",
		`o?etl=x&etl_args=[{},{}]`:   "2 entries for 1",
		`o?etl=x,y&etl_args={}`:      "must be an array",
		`o?etl=x,y&etl_args=[{}]`:    "1 entries for 2",
		`o?etl=x,y&etl_args=[{},1]`:  `of etl \"y\"`,
		`o?etl=x&etl_args={"a+b":1}`: "not the name of an argument",
		`o?etl=x&cache=maybe`:        "neither true nor false",
		`o?etl_args={}`:              "goes with etl",
		`o?cache=true`:               "goes with etl",
		`o?etl=x,x,x,x,x,x,x,x,x`:    "at most 8",
	} {
		_, body := b.get(400, path)
		require.Contains(t, string(body), says, path)
	}
	reader, err := b.client.GetObject(t.Context(), "b", "o", api.GetOptions{ETL: []string{"x", "y"}, ETLArgs: []byte(`[{"a":1},null]`)})
	require.NoError(t, err)
	data, err := io.ReadAll(reader)
	require.NoError(t, err)
	require.Equal(t, `hello {"a":1} {"flip":true,"size":1}`, string(data))
}

// samplesOf makes a tar of n samples.
func samplesOf(t testing.TB, n, size int) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for i := range n {
		require.NoError(t, w.WriteHeader(&tar.Header{Name: fmt.Sprintf("%06d.txt", i), Mode: 0o644, Size: int64(size)}))
		_, err := w.Write(bytes.Repeat([]byte{'a' + byte(i%26)}, size))
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return out.Bytes()
}

func TestSamplesStream(t *testing.T) {
	b := newBench(t)
	b.put("o.tar", samplesOf(t, 3000, 10_000))
	bad := -1
	change := func(_ etl.Args, in etl.Sample) (etl.Sample, error) {
		if n, _ := strconv.Atoi(in.Key); n == bad {
			return in, &etl.UserError{ETL: "x", Key: in.Key, Summary: "ValueError: this one"}
		}
		value := bytes.ToUpper(in.Fields[0].Value.Data)
		return etl.Sample{Key: in.Key, Fields: []etl.Field{{Name: "txt", Value: etl.BytesValue(value)}}}, nil
	}
	b.deploy("x", etl.LevelSample, &fake{sample: change})
	b.deploy("y", etl.LevelBatch, &fake{sample: change})
	b.deploy("o", etl.LevelObject, upper())
	r, body := b.get(200, "o.tar?etl=x,y")
	require.Equal(t, "application/x-tar", r.Header.Get("Content-Type"))
	require.EqualValues(t, -1, r.ContentLength)
	require.Equal(t, sums(body), r.Trailer.Get(api.HeaderBodyChecksum))
	n := 0
	for archive := tar.NewReader(bytes.NewReader(body)); ; n++ {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintf("%06d.txt", n), h.Name)
		data, err := io.ReadAll(archive)
		require.NoError(t, err)
		require.Equal(t, bytes.Repeat([]byte{'A' + byte(n%26)}, 10_000), data)
	}
	require.Equal(t, 3000, n)
	_, part := b.get(206, "o.tar?etl=x", "Range", "bytes=5000000-5999999")
	require.Equal(t, body[5_000_000:6_000_000], part)
	_, kept := b.get(200, "o.tar?etl=x,y&cache=true")
	require.True(t, bytes.Equal(body, kept))
	_, one := b.get(200, "o.tar?etl=x&member=000007.txt")
	require.Len(t, one, 512+10_240-240+240+1024)

	bad = 5
	_, body = b.get(422, "o.tar?etl=x")
	require.Contains(t, string(body), "ValueError: this one")
	bad = 2900
	_, _, err := b.do(http.MethodGet, "o.tar?etl=x")
	require.ErrorIs(t, err, io.ErrUnexpectedEOF, "it can't be taken for the whole")
	_, body = b.get(422, "o.tar?etl=x&cache=true")
	require.Contains(t, string(body), "002900", "what is to be kept is made first")
	_, body = b.get(400, "o.tar?etl=x,o")
	require.Contains(t, string(body), "a chain needs one level")
}
