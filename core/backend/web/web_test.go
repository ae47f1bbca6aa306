package web_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/core/backend"
	"github.com/shardstream/shardstream/core/backend/web"
)

func serve(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL
}

var changed = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// files serves pages and files as net/http does: with ranges, and without ETags.
func files(content map[string]string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		text, known := content[r.URL.Path]
		if !known {
			http.NotFound(w, r)
			return
		}
		if strings.HasSuffix(r.URL.Path, "/") {
			w.Header().Set("Content-Type", "text/html")
		}
		http.ServeContent(w, r, "", changed, strings.NewReader(text))
	}
}

func read(t *testing.T, b backend.Backend, name string, o backend.OpenOptions) string {
	t.Helper()
	body, err := b.Open(t.Context(), name, o)
	require.NoError(t, err)
	data, err := io.ReadAll(body)
	require.NoError(t, err)
	require.NoError(t, body.Close())
	return string(data)
}

// The index of Apache has links that sort, one to the parent, and icons; some pages have links to elsewhere.
func TestIndexOfApache(t *testing.T) {
	at := serve(t, files(map[string]string{
		"/data/": `<html><head><title>Index of /data</title></head><body><table>
<tr><th><a href="?C=N;O=D">Name</a></th><th><a href="?C=M;O=A">Last modified</a></th></tr>
<tr><td><img src="/icons/back.gif"></td><td><a href="/">Parent Directory</a></td></tr>
<tr><td><a href="b.tar">b.tar</a></td><td align="right">2026-11-01 12:00</td></tr>
<tr><td><a HREF='a%20&amp;%20b.tar'>a &amp; b.tar</a></td></tr>
<tr><td><a class="x" href="/data/absolute.tar">absolute</a></td></tr>
<tr><td><a href="sub/">sub/</a></td></tr>
<tr><td><a href="sub.tar">sub.tar</a></td></tr>
<a href="http://elsewhere.example/data/evil.tar">x</a> <a href="../up.tar">x</a> <a href="sub/deep.tar">x</a>
<a href="javascript:alert(1)">x</a> <a href="%2e%2e/up.tar">x</a> <a href="b.tar#x">again</a> <a href="mailto:a@b">m</a>
</table></body></html>`,
		"/data/sub/":      `<a href="../">..</a><a href="c.tar">c</a><a href="gone.tar">gone</a><a href="none/">none</a>`,
		"/data/b.tar":     "b",
		"/data/a & b.tar": "a and b", "/data/absolute.tar": "abs", "/data/sub.tar": "s", "/data/sub/c.tar": "c", "/data/evil.tar": "e", "/data/up.tar": "u", "/up.tar": "u",
	}))
	b := open(t, at+"/data", nil)
	require.Equal(t, []string{"a & b.tar", "absolute.tar", "b.tar", "sub.tar", "sub/c.tar"}, list(t, b, "", ""))
	require.Equal(t, []string{"sub.tar", "sub/c.tar"}, list(t, b, "sub", "b.tar"))
	require.Equal(t, []string{"sub/c.tar"}, list(t, b, "", "sub/a"))
	require.Equal(t, "a and b", read(t, b, "a & b.tar", backend.OpenOptions{}))
	e, err := b.Stat(t.Context(), "b.tar")
	require.NoError(t, err)
	require.Equal(t, changed, e.Modified)
	require.Equal(t, fmt.Sprintf("%d-1", changed.Unix()), e.Tag)
	_, err = b.Open(t.Context(), "b.tar", backend.OpenOptions{Tag: "another"})
	require.Equal(t, backend.Changed, backend.KindOf(err))
	for _, name := range []string{"../up.tar", "sub/../b.tar", "/b.tar", "", "sub//c.tar", "./b.tar"} {
		_, err := b.Stat(t.Context(), name)
		require.Equal(t, backend.NotFound, backend.KindOf(err), name)
	}
}

// A file of an index page that the server keeps to itself spoils nothing for the others; but the listing has it, so that
// nothing that reads all of a folder is shorter than the page says.
func TestAnIndexWithFilesThatCantBeRead(t *testing.T) {
	status, manifest := http.StatusForbidden, "a.tar\nb.tar\n"
	serves := files(map[string]string{
		"/d/": `<a href="a.tar">a</a><a href="b.tar">b</a><a href="c.tar">c</a>`, "/d/a.tar": "a", "/d/c.tar": "c", "/d/list.txt": manifest,
	})
	at := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/d/b.tar" {
			w.WriteHeader(status)
			return
		}
		serves(w, r)
	})
	b := open(t, at+"/d/", nil)
	for _, status = range []int{http.StatusForbidden, http.StatusUnavailableForLegalReasons} {
		require.Equal(t, []string{"a.tar", "b.tar", "c.tar"}, list(t, b, "", ""))
		for e, err := range b.List(t.Context(), "b", "") {
			require.NoError(t, err)
			require.Equal(t, backend.Entry{Name: "b.tar", Size: -1}, e)
		}
		_, err := b.Stat(t.Context(), "b.tar")
		require.ErrorContains(t, err, "b.tar")
	}
	fails := func(b backend.Backend, kind backend.Kind) {
		t.Helper()
		var last error
		for _, err := range b.List(t.Context(), "", "") {
			last = err
		}
		require.Equal(t, kind, backend.KindOf(last), "%v", last)
		require.ErrorContains(t, last, "b.tar")
	}
	for wanted, kind := range map[int]backend.Kind{
		http.StatusInternalServerError: backend.Passing, http.StatusServiceUnavailable: backend.Busy, http.StatusUnauthorized: backend.Denied,
	} {
		status = wanted // what may pass, or is about all files
		fails(b, kind)
	}
	status = http.StatusForbidden
	fails(open(t, at+"/d/list.txt", nil), backend.Denied) // it was named by somebody
}

func TestAnIndexWithoutEnd(t *testing.T) {
	at := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `<a href="again/">x</a>`) })
	var last error
	for _, err := range open(t, at, nil).List(t.Context(), "", "") {
		last = err
	}
	require.Equal(t, backend.Unsupported, backend.KindOf(last), "%v", last)
}

func TestManifests(t *testing.T) {
	elsewhere := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			http.Error(w, "credentials of another server", http.StatusBadRequest)
			return
		}
		files(map[string]string{"/x/e.tar": "elsewhere"})(w, r)
	})
	host := strings.Split(strings.TrimPrefix(elsewhere, "http://"), ":")[0]
	want := []string{host + "/x/e.tar", "a b.tar", "sub/c.tar"}
	for name, manifest := range map[string]string{
		"list.txt":  "# a list\nsub/c.tar\r\n\n./a b.tar\nELSEWHERE/x/e.tar\n",
		"list.json": `["sub/c.tar", "a b.tar", "ELSEWHERE/x/e.tar"]`,
		"wds.json":  `{"__kind__": "wids-shard-index-v1", "shardlist": [{"url": "sub/c.tar", "nsamples": 3}, {"url": "HERE/d/a%20b.tar"}, {"name": "ELSEWHERE/x/e.tar"}]}`,
		"q":         "sub/c.tar\na b.tar\nELSEWHERE/x/e.tar",
	} {
		t.Run(name, func(t *testing.T) {
			var at string
			at = serve(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Authorization") != "Bearer token" {
					w.WriteHeader(http.StatusUnauthorized)
					return
				}
				text := strings.NewReplacer("ELSEWHERE", elsewhere, "HERE", at).Replace(manifest)
				files(map[string]string{"/d/" + name: text, "/d/a b.tar": "a", "/d/sub/c.tar": "c", "/d/other.tar": "o"})(w, r)
			})
			address := at + "/d/" + name
			if name == "q" {
				address += "?set=1"
			}
			b := open(t, address, map[string]string{"token": "token"})
			require.Equal(t, want, list(t, b, "", ""))
			require.Equal(t, []string{"sub/c.tar"}, list(t, b, "sub", ""))
			require.Equal(t, "elsewhere", read(t, b, host+"/x/e.tar", backend.OpenOptions{}))
			require.Equal(t, "a", read(t, b, "a b.tar", backend.OpenOptions{}))
			_, err := b.Stat(t.Context(), "other.tar")
			require.Equal(t, backend.NotFound, backend.KindOf(err), "what is not named is not there")

			_, err = open(t, address, nil).Stat(t.Context(), "a b.tar")
			require.Equal(t, backend.Denied, backend.KindOf(err))
		})
	}
}

// Many who look for files at once have the document read once.
func TestAManifestIsReadOnce(t *testing.T) {
	var reads atomic.Int64
	at := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/list.txt" {
			reads.Add(1)
		}
		files(map[string]string{"/list.txt": "a.tar", "/a.tar": "a"})(w, r)
	})
	b := open(t, at+"/list.txt", nil)
	var wait sync.WaitGroup
	for range 32 {
		wait.Go(func() {
			_, err := b.Stat(t.Context(), "a.tar")
			assert.NoError(t, err)
		})
	}
	wait.Wait()
	require.EqualValues(t, 1, reads.Load())
	require.Equal(t, []string{"a.tar"}, list(t, b, "", ""))
	require.EqualValues(t, 2, reads.Load(), "a listing is as fresh as it can be")
}

func TestManifestsThatAreNone(t *testing.T) {
	for text, want := range map[string]string{
		"ftp://h/a.tar":             "neither a name",
		`{"x": []}`:                 "none of the fields",
		`[1]`:                       "entry 0",
		"<!DOCTYPE html>\n<a>":      "web page",
		"http://user:pw@h/a.tar":    "credentials",
		"http://h/a/../../b.tar":    "",
		`["a.tar", "http://h/d/"]`:  "can't be the name",
		"http://h/a\nhttp://h/a?b=": "two files",
	} {
		at := serve(t, files(map[string]string{"/m.txt": text}))
		var last error
		for _, err := range open(t, at+"/m.txt", nil).List(t.Context(), "", "zzz") {
			last = err
		}
		if want == "" {
			require.NoError(t, last, text)
			continue
		}
		require.ErrorContains(t, last, want, text)
		require.Equal(t, backend.Unsupported, backend.KindOf(last), text)
		require.NotContains(t, last.Error(), "pw")
	}
}

func TestTemplates(t *testing.T) {
	for text, want := range map[string][]string{
		"x-{8..11}.tar":      {"x-10.tar", "x-11.tar", "x-8.tar", "x-9.tar"},
		"{a,b}/{01..02}.tar": {"a/01.tar", "a/02.tar", "b/01.tar", "b/02.tar"},
		"{a,}.tar":           {".tar", "a.tar"},
	} {
		b := open(t, serve(t, func(http.ResponseWriter, *http.Request) {})+"/d/"+text, nil)
		require.Equal(t, want, list(t, b, "", ""), text)
	}
	for _, text := range []string{"{1..x}", "{", "a}", "{a{b}}", "{5..1}", "{0..99999999}", "{000..999}{000..999}{0..9}", "{a,..}"} {
		a := backend.Address{Scheme: "http", Host: "h", Path: "d/" + text}
		_, err := web.Open(t.Context(), backend.Config{Address: a})
		require.Equal(t, backend.Unsupported, backend.KindOf(err), text)
	}
}

func TestServersThatDoNotKnowRangesOrHEAD(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), 10)
	for _, head := range []int{http.StatusMethodNotAllowed, http.StatusForbidden, http.StatusOK} {
		b := open(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", `"one"`)
			if r.Method == http.MethodHead && head != http.StatusOK {
				w.WriteHeader(head)
				return
			}
			w.Header().Set("Content-Length", strconv.Itoa(len(data)))
			_, _ = w.Write(data)
		}), nil)
		e, err := b.Stat(t.Context(), "a")
		require.NoError(t, err)
		require.Equal(t, int64(100), e.Size)
		require.Equal(t, `"one"`, e.Tag)
		require.Equal(t, "56789", read(t, b, "a", backend.OpenOptions{Offset: 95}))
		require.Equal(t, "567", read(t, b, "a", backend.OpenOptions{Offset: 15, Length: 3}))
		require.Equal(t, "9", read(t, b, "a", backend.OpenOptions{Offset: 99, Length: 30}))
		_, err = b.Open(t.Context(), "a", backend.OpenOptions{Offset: 100})
		require.Equal(t, backend.Range, backend.KindOf(err))
		_, err = b.Open(t.Context(), "a", backend.OpenOptions{Offset: 1, Tag: `"two"`})
		require.Equal(t, backend.Changed, backend.KindOf(err))
	}
}

// An object whose HEAD does not tell its size has the same tag by all requests, be it made of its time and size.
func TestHEADWithoutALength(t *testing.T) {
	b := open(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Last-Modified", "Mon, 02 Jan 2006 15:04:05 GMT")
		if r.Method != http.MethodHead {
			http.ServeContent(w, r, "a", time.Time{}, strings.NewReader("four"))
		}
	}), nil)
	e, err := b.Stat(t.Context(), "a")
	require.NoError(t, err)
	require.Equal(t, int64(4), e.Size)
	require.Equal(t, "four", read(t, b, "a", backend.OpenOptions{Tag: e.Tag}))
	require.NotEmpty(t, e.Tag)
}

func TestChecksumsAreVerified(t *testing.T) {
	sum := sha256.Sum256([]byte("right"))
	text := "right"
	b := backend.WithRetries(open(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Repr-Digest", "sha-256=:"+base64.StdEncoding.EncodeToString(sum[:])+":")
		http.ServeContent(w, r, "", changed, strings.NewReader(text))
	}), nil), backend.Policy{})
	require.Equal(t, "right", read(t, b, "a", backend.OpenOptions{}))
	text = "wrong"
	body, err := b.Open(t.Context(), "a", backend.OpenOptions{})
	require.NoError(t, err)
	data, err := io.ReadAll(body)
	require.Equal(t, backend.Corrupt, backend.KindOf(err), "%v", err)
	require.NotEqual(t, "wrong", string(data))
}

func TestCutsAreResumed(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<14)
	requests := 0
	b := backend.WithRetries(open(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
		requests++
		w.Header().Set("ETag", `"one"`)
		if requests == 1 {
			w.Header().Set("Content-Length", strconv.Itoa(len(data)))
			_, _ = w.Write(data[:100_000])
			panic(http.ErrAbortHandler)
		}
		http.ServeContent(w, r, "", changed, bytes.NewReader(data))
	}), nil), backend.Policy{Base: time.Millisecond})
	require.Equal(t, string(data), read(t, b, "a", backend.OpenOptions{}))
	require.Equal(t, 2, requests)
}

func TestAnswersOfServersInTrouble(t *testing.T) {
	for status, kind := range map[int]backend.Kind{
		429: backend.Busy, 503: backend.Busy, 500: backend.Passing, 502: backend.Passing, 403: backend.Denied, 404: backend.NotFound, 418: backend.Failed,
	} {
		b := open(t, serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(status)
		}), nil)
		_, err := b.Open(t.Context(), "a", backend.OpenOptions{})
		require.Equal(t, kind, backend.KindOf(err), status)
		var e *backend.Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, status, e.Status)
		require.Equal(t, 7*time.Second, e.After)
		require.Equal(t, "a", e.Name)
	}
	b := open(t, "http://127.0.0.1:1/x", nil)
	_, err := b.Stat(t.Context(), "a")
	require.Equal(t, backend.Passing, backend.KindOf(err), "%v", err)
	_, err = b.Put(t.Context(), "a", strings.NewReader(""), 0, backend.PutOptions{})
	require.Equal(t, backend.Unsupported, backend.KindOf(err))
	require.Equal(t, backend.Unsupported, backend.KindOf(b.Delete(t.Context(), "a")))
}
