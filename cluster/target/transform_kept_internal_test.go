package target

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/etl"
)

func TestKeptOutputs(t *testing.T) {
	b := newBench(t)
	b.put("o", []byte("hello"))
	for _, size := range []int{0, 100 * kib, 6 * mib} {
		t.Run(strconv.Itoa(size), func(t *testing.T) {
			data := noise(size)
			f := b.deploy("x", etl.LevelObject, gives(data, false))
			const path = "o?etl=x&cache=true"
			for i, want := range []string{"miss", "hit", "hit"} {
				r, body := b.get(200, path)
				require.Equal(t, want, r.Header.Get(api.HeaderCache))
				require.True(t, bytes.Equal(data, body), i)
				require.EqualValues(t, size, r.ContentLength)
				require.Equal(t, "text/x-fake", r.Header.Get("Content-Type"))
			}
			require.EqualValues(t, 1, f.calls.Load())
			r, _, err := b.do(http.MethodHead, path)
			require.NoError(t, err)
			require.EqualValues(t, size, r.ContentLength)
			reader, err := b.client.GetObject(t.Context(), "b", "o", api.GetOptions{ETL: []string{"x"}, Cache: true})
			require.NoError(t, err)
			require.True(t, reader.Cached)
			_, err = io.Copy(io.Discard, reader)
			require.NoError(t, err)

			flipByte(t, b.kept) // in its first block, or its description
			_, body := b.get(200, path)
			require.True(t, bytes.Equal(data, body), "damage is never served")
			require.EqualValues(t, 2, f.calls.Load())
			_, body = b.get(200, path)
			require.True(t, bytes.Equal(data, body))

			f = b.deploy("x", etl.LevelObject, gives(data, false))
			r, _ = b.get(200, path)
			require.Equal(t, "miss", r.Header.Get(api.HeaderCache), "a new version")
			b.etls.watched = true
			b.etls.outputs.Sweep(b.etls.stale)
			require.EqualValues(t, 1, b.etls.outputs.Stats().Entries, "only the new one's is left")
			require.EqualValues(t, 1, f.calls.Load())
		})
	}
	t.Run("asked for by many", func(t *testing.T) {
		f := b.deploy("many", etl.LevelObject, gives(noise(100), false))
		var wait sync.WaitGroup
		for range 20 {
			wait.Go(func() {
				_, body, err := b.do(http.MethodGet, "o?etl=many&cache=true")
				if err != nil || !bytes.Equal(noise(100), body) {
					t.Error(err)
				}
			})
		}
		wait.Wait()
		require.EqualValues(t, 1, f.calls.Load())
	})
	t.Run("too large", func(t *testing.T) {
		data := noise(33 * mib)
		b.deploy("large", etl.LevelObject, gives(data, false))
		for range 2 {
			r, body := b.get(200, "o?etl=large&cache=true")
			require.True(t, bytes.Equal(data, body))
			require.Equal(t, "miss", r.Header.Get(api.HeaderCache))
		}
	})
	t.Run("metrics", func(t *testing.T) {
		r, err := http.Get(b.url + "/metrics")
		require.NoError(t, err)
		defer func() { _ = r.Body.Close() }()
		text, err := io.ReadAll(r.Body)
		require.NoError(t, err)
		for _, name := range []string{"hits_total", "misses_total", "evictions_total", "entries", "bytes", "served_bytes_total"} {
			require.Contains(t, string(text), "\nshardstream_etl_cache_"+name+" ")
		}
	})
}

// flipByte damages the first byte of the entry that was written last.
func flipByte(t testing.TB, dir string) {
	t.Helper()
	entries, err := filepath.Glob(filepath.Join(dir, "??", "*"))
	require.NoError(t, err)
	require.NotEmpty(t, entries)
	newest := entries[0]
	var at time.Time
	for _, entry := range entries {
		info, err := os.Stat(entry)
		require.NoError(t, err)
		if info.ModTime().After(at) {
			newest, at = entry, info.ModTime()
		}
	}
	data, err := os.ReadFile(newest)
	require.NoError(t, err)
	data[0] ^= 1
	require.NoError(t, os.WriteFile(newest, data, 0o600))
}

func TestRedirects(t *testing.T) {
	b := newBench(t)
	b.put("o", []byte("hello"))
	b.put("s.tar", samplesOf(t, 2, 10))
	var seen http.Header
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = r.Header.Clone()
		_, _ = io.WriteString(w, "from the server")
	}))
	defer server.Close()
	f := upper()
	f.definition = etl.Definition{Kind: etl.KindServer, URL: server.URL, Transport: etl.TransportRedirect}
	f.location = server.URL + "/b/o"
	b.deploy("x", etl.LevelObject, f)
	b.deploy("y", etl.LevelObject, upper())
	r, _ := b.get(307, "o?etl=x")
	require.Equal(t, f.location, r.Header.Get("Location"))
	require.Zero(t, f.calls.Load())
	reader, err := b.client.GetObject(t.Context(), "b", "o", api.GetOptions{ETL: []string{"x"}})
	require.NoError(t, err)
	data, err := io.ReadAll(reader)
	require.NoError(t, err)
	require.NoError(t, reader.Close())
	require.Equal(t, "from the server", string(data))
	require.NotNil(t, seen)
	require.Empty(t, seen.Get("Authorization"), "the token is the cluster's")
	// What that server does not give is made here.
	for path, want := range map[string]string{
		"o?etl=x,y": "HELLO", "o?etl=y,x": "HELLO", "o?etl=x&cache=true": "HELLO", "s.tar?etl=x&member=000001.txt": "BBBBBBBBBB",
	} {
		_, body := b.get(200, path)
		require.Equal(t, want, string(body), path)
	}
	_, body := b.get(206, "o?etl=x", "Range", "bytes=1-2")
	require.Equal(t, "EL", string(body))
}

func TestWorkUnderWaySurvivesAChange(t *testing.T) {
	b := newBench(t)
	b.put("o", []byte("hello"))
	source, sink := io.Pipe()
	old := b.deploy("x", etl.LevelObject, &fake{object: func(context.Context, etl.Args, etl.Object) (*etl.Output, error) { return outputOf(source, -1), nil }})
	go func() { _, _ = sink.Write(make([]byte, firstBytes)) }()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, b.url+"/v1/objects/b/o?etl=x", http.NoBody)
	require.NoError(t, err)
	r, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer func() { _ = r.Body.Close() }()
	b.deploy("x", etl.LevelObject, upper())
	_, body := b.get(200, "o?etl=x")
	require.Equal(t, "HELLO", string(body))
	select {
	case <-old.down:
		t.Fatal("it was shut down while it was at work")
	default:
	}
	_, err = io.WriteString(sink, "the end")
	require.NoError(t, err)
	require.NoError(t, sink.Close())
	body, err = io.ReadAll(r.Body)
	require.NoError(t, err)
	require.Len(t, body, firstBytes+len("the end"))
	select {
	case <-old.down:
	case <-time.After(30 * time.Second):
		t.Fatal("nobody shut it down")
	}
}

func TestOldClientsGetNoChunks(t *testing.T) {
	b := newBench(t)
	b.put("o", []byte("hello"))
	data := noise(5 * mib)
	b.deploy("x", etl.LevelObject, gives(data, false))
	conn, err := net.Dial("tcp", strings.TrimPrefix(b.url, "http://"))
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	_, err = io.WriteString(conn, "GET /v1/objects/b/o?etl=x HTTP/1.0\r\n\r\n")
	require.NoError(t, err)
	answer, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.NotContains(t, string(answer[:500]), "chunked")
	require.True(t, bytes.HasSuffix(answer, data))
}

func TestStalls(t *testing.T) {
	s := newStall(t.Context(), 20*time.Millisecond)
	s.watch()() // what is not watched may take any time
	require.NoError(t, s.ctx.Err())
	stop := s.watch()
	<-s.ctx.Done()
	stop()
	var answer *api.Error
	require.ErrorAs(t, context.Cause(s.ctx), &answer)
	require.Equal(t, http.StatusGatewayTimeout, answer.Status)
	s.end()
}

func TestClientsThatLeave(t *testing.T) {
	b := newBench(t)
	b.put("o", []byte("hello"))
	closed := make(chan struct{})
	endless := &fake{object: func(ctx context.Context, _ etl.Args, _ etl.Object) (*etl.Output, error) {
		context.AfterFunc(ctx, func() { close(closed) })
		return outputOf(endlessReader{}, -1), nil
	}}
	b.deploy("x", etl.LevelObject, endless)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, b.url+"/v1/objects/b/o?etl=x", http.NoBody)
	require.NoError(t, err)
	r, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	_, err = io.CopyN(io.Discard, r.Body, 10*mib)
	require.NoError(t, err)
	require.NoError(t, r.Body.Close())
	select {
	case <-closed: // and the bench sees that no memory is held
	case <-time.After(time.Minute):
		t.Fatal("the transformation goes on for nobody")
	}
}

type endlessReader struct{}

func (endlessReader) Read(p []byte) (int, error) { return len(p), nil }

// FuzzArguments takes any ?etl_args= apart: what is let through is an object, or nothing, for each transformation.
func FuzzArguments(f *testing.F) {
	for _, seed := range []string{"", "{}", "null", "[null]", `[{"a":1},null]`, `{"a":{"b":[1]}}`, "[", "[[]]", " [ {} , {} ] ", "1"} {
		f.Add(seed, 1)
		f.Add(seed, 2)
	}
	f.Fuzz(func(t *testing.T, document string, n int) {
		names := []string{"a", "b", "c"}[:1+max(0, n)%3]
		args, err := argsOf(names, etl.Args(document))
		if err != nil {
			var answer *api.Error
			require.ErrorAs(t, err, &answer)
			require.Equal(t, http.StatusBadRequest, answer.Status)
			return
		}
		require.Len(t, args, len(names))
		for _, one := range args {
			var object map[string]any
			if one != nil {
				require.NoError(t, json.Unmarshal(one, &object))
				require.NotNil(t, object)
			}
		}
	})
}
