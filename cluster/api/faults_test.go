package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/zeebo/xxh3"

	"github.com/shardstream/shardstream/cluster/api"
)

// fake is a node that is gateway and only target at once, with handlers that misbehave on purpose.
func fake(t testing.TB, object http.HandlerFunc, o api.Options) *api.Client {
	t.Helper()
	var server *httptest.Server
	server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/cluster/map" {
			_ = json.NewEncoder(w).Encode(api.Map{Version: 1, Nodes: []api.Node{
				{ID: "target-1", Role: api.RoleTarget, State: api.StateOK, Addr: strings.TrimPrefix(server.URL, "http://"), Weight: 1},
			}})
			return
		}
		object(w, r)
	}))
	t.Cleanup(server.Close)
	o.Endpoint = server.URL
	client, err := api.NewClient(o)
	require.NoError(t, err)
	t.Cleanup(client.Close)
	return client
}

func serve(w http.ResponseWriter, r *http.Request, data []byte, etag string) {
	w.Header().Set("ETag", etag)
	sum := xxh3.Hash(data)
	w.Header().Set(api.HeaderChecksum, api.Checksums{XXH3: &sum}.String())
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
}

// cutter ends the connection after so many bytes of a body.
type cutter struct {
	http.ResponseWriter
	left int
}

func (c *cutter) Write(p []byte) (int, error) {
	if len(p) > c.left {
		_, _ = c.ResponseWriter.Write(p[:c.left])
		_ = http.NewResponseController(c.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	c.left -= len(p)
	return c.ResponseWriter.Write(p)
}

func readAll(t testing.TB, c *api.Client, o api.GetOptions) ([]byte, error) {
	t.Helper()
	r, err := c.GetObject(t.Context(), "b", "x", o)
	if err != nil {
		return nil, err
	}
	defer func() { assert.NoError(t, r.Close()) }()
	return io.ReadAll(r)
}

func TestCutReadsAreTakenUpAgain(t *testing.T) {
	data := randomBytes(1, 8<<20)
	for name, o := range map[string]api.GetOptions{
		"whole": {}, "range": {Offset: 1000, Length: 6 << 20}, "to the end": {Offset: 77},
	} {
		t.Run(name, func(t *testing.T) {
			var requests atomic.Int32
			client := fake(t, func(w http.ResponseWriter, r *http.Request) {
				if requests.Add(1) < 4 {
					w = &cutter{w, 1<<20 + 12345}
				}
				serve(w, r, data, `"1"`)
			}, api.Options{})
			got, err := readAll(t, client, o)
			require.NoError(t, err)
			want := data[o.Offset:]
			if o.Length > 0 {
				want = want[:o.Length]
			}
			assert.True(t, bytes.Equal(want, got))
			assert.Greater(t, requests.Load(), int32(3))
		})
	}
}

func TestCutReadOfAnOverwrittenObject(t *testing.T) {
	var requests atomic.Int32
	client := fake(t, func(w http.ResponseWriter, r *http.Request) {
		n := requests.Add(1)
		if n == 1 {
			w = &cutter{w, 2 << 20}
		}
		serve(w, r, randomBytes(uint64(n), 8<<20), fmt.Sprintf("%q", fmt.Sprint(n)))
	}, api.Options{})
	_, err := readAll(t, client, api.GetOptions{})
	var answer *api.Error
	require.ErrorAs(t, err, &answer)
	assert.Equal(t, api.CodeChanged, answer.Code)
}

func TestReadsThatNeverGetFurtherEnd(t *testing.T) {
	client := fake(t, func(w http.ResponseWriter, r *http.Request) {
		serve(&cutter{w, 0}, r, randomBytes(1, 8<<20), `"1"`)
	}, api.Options{RetryFor: time.Second})
	_, err := readAll(t, client, api.GetOptions{})
	require.Error(t, err)
}

func TestReadsThatStandStillEnd(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	client := fake(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "some")
		_ = http.NewResponseController(w).Flush()
		<-release
	}, api.Options{Timeout: 100 * time.Millisecond, RetryFor: -1})
	begun := time.Now()
	got, err := readAll(t, client, api.GetOptions{})
	require.Error(t, err)
	assert.Equal(t, "some", string(got))
	assert.Less(t, time.Since(begun), 20*time.Second)
}

func TestDamageOnTheWayIsSeen(t *testing.T) {
	data := randomBytes(1, 100_000)
	client := fake(t, func(w http.ResponseWriter, r *http.Request) {
		sum := xxh3.Hash(data)
		w.Header().Set(api.HeaderChecksum, api.Checksums{XXH3: &sum}.String())
		broken := bytes.Clone(data)
		broken[500] ^= 1
		_, _ = w.Write(broken)
	}, api.Options{})
	_, err := readAll(t, client, api.GetOptions{})
	var answer *api.Error
	require.ErrorAs(t, err, &answer)
	assert.Equal(t, api.CodeBadChecksum, answer.Code)
}

func TestPutsAreRepeatedFromTheirStart(t *testing.T) {
	data := randomBytes(1, 3<<20)
	var requests atomic.Int32
	client := fake(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		switch requests.Add(1) {
		case 1:
			panic(http.ErrAbortHandler)
		case 2:
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		if err != nil || !bytes.Equal(data[5:], body) {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		_ = json.NewEncoder(w).Encode(api.Object{XXH3: api.FormatXXH3(xxh3.Hash(body))})
	}, api.Options{})
	body := bytes.NewReader(data)
	_, err := body.Seek(5, io.SeekStart)
	require.NoError(t, err)
	_, err = client.PutObject(t.Context(), "b", "x", body, int64(len(data)-5), api.PutOptions{})
	require.NoError(t, err)
	assert.Equal(t, int32(3), requests.Load())

	requests.Store(0)
	_, err = client.PutObject(t.Context(), "b", "x", io.LimitReader(bytes.NewReader(data), 5), 5, api.PutOptions{})
	require.Error(t, err, "what can't be read twice is not sent twice")
	assert.Equal(t, int32(1), requests.Load())
}

func TestPutsThatAreAnsweredEarlyAreRepeated(t *testing.T) {
	data := randomBytes(1, 3<<20)
	var requests atomic.Int32
	client := fake(t, func(w http.ResponseWriter, r *http.Request) {
		if requests.Add(1) < 8 { // the client is still sending
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil || !bytes.Equal(data, body) {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		_ = json.NewEncoder(w).Encode(api.Object{XXH3: api.FormatXXH3(xxh3.Hash(body))})
	}, api.Options{})
	_, err := client.PutObject(t.Context(), "b", "x", bytes.NewReader(data), int64(len(data)), api.PutOptions{})
	require.NoError(t, err)
	assert.Equal(t, int32(8), requests.Load())
}

func TestPutNoticesOtherBytes(t *testing.T) {
	client := fake(t, func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(api.Object{XXH3: api.FormatXXH3(1)})
	}, api.Options{})
	_, err := client.PutObject(t.Context(), "b", "x", strings.NewReader("data"), 4, api.PutOptions{})
	var answer *api.Error
	require.ErrorAs(t, err, &answer)
	assert.Equal(t, api.CodeBadChecksum, answer.Code)
}

func TestPatienceEnds(t *testing.T) {
	client, err := api.NewClient(api.Options{Endpoint: "http://127.0.0.1:1", RetryFor: 300 * time.Millisecond})
	require.NoError(t, err)
	begun := time.Now()
	_, err = client.Status(t.Context())
	require.Error(t, err)
	assert.Less(t, time.Since(begun), 10*time.Second)
}

func TestErrorsWithoutADocumentSayWhatIsWrong(t *testing.T) {
	client := fake(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set(api.HeaderError, api.CodeNotFound)
		w.WriteHeader(http.StatusNotFound)
	}, api.Options{})
	_, err := client.StatObject(t.Context(), "b", "x")
	var answer *api.Error
	require.ErrorAs(t, err, &answer)
	assert.Equal(t, api.CodeNotFound, answer.Code)
	assert.Equal(t, "ss://b/x: not found", answer.Message)
}

func TestErrorsOfHeadSayWhatTheNodeSaid(t *testing.T) {
	said := api.Errorf(http.StatusBadGateway, api.CodeBackend, "bucket b: its backend s3://ü: 50 %% of \"x\"\r\nSet-Cookie: a")
	client := fake(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set(api.HeaderError, said.Code)
		w.Header().Set(api.HeaderErrorMessage, said.HeaderMessage())
		w.WriteHeader(said.Status)
	}, api.Options{RetryFor: -1})
	_, err := client.StatObject(t.Context(), "b", "x")
	var answer *api.Error
	require.ErrorAs(t, err, &answer)
	assert.Equal(t, said.Code, answer.Code)
	assert.Equal(t, said.Message, answer.Message)
	long := api.Errorf(http.StatusBadGateway, api.CodeBackend, "%s", strings.Repeat("ü", 5000))
	assert.Less(t, len(long.HeaderMessage()), 4096)
}

func TestNodesThatAcceptAndNeverAnswerAreNamed(t *testing.T) {
	stop := make(chan struct{})
	client := fake(t, func(http.ResponseWriter, *http.Request) { <-stop }, api.Options{Timeout: 100 * time.Millisecond, RetryFor: -1})
	t.Cleanup(func() { close(stop) }) // before the server is closed, which waits
	_, statErr := client.StatObject(t.Context(), "b", "x")
	_, bucketErr := client.Bucket(t.Context(), "b")
	for says, err := range map[string]error{"target-1 (": statErr, "GET /v1/buckets/b within 100ms": bucketErr, "does not answer": client.DeleteObject(t.Context(), "b", "x")} {
		var answer *api.Error
		require.ErrorAs(t, err, &answer)
		assert.Equal(t, api.CodeUnavailable, answer.Code)
		assert.Contains(t, answer.Message, says)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := client.StatObject(ctx, "b", "x")
	assert.ErrorIs(t, err, context.DeadlineExceeded, "the caller's own limit stays what it is")
}

func TestCredentialsStayWithTheEndpoint(t *testing.T) {
	var leaked atomic.Bool
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		leaked.Store(r.Header.Get("Authorization") != "")
	}))
	defer other.Close()
	client := fake(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL+r.URL.Path, http.StatusTemporaryRedirect)
	}, api.Options{Token: "secret"})
	_, err := readAll(t, client, api.GetOptions{})
	require.NoError(t, err)
	assert.False(t, leaked.Load())
}

func TestRedirectsEnd(t *testing.T) {
	client := fake(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
	}, api.Options{})
	_, err := readAll(t, client, api.GetOptions{})
	assert.ErrorContains(t, err, "redirects")
}

func TestEndpointsThatAreNone(t *testing.T) {
	for _, endpoint := range []string{"localhost:7070", "ftp://x", "http://", "::"} {
		_, err := api.NewClient(api.Options{Endpoint: endpoint})
		assert.Error(t, err, endpoint)
	}
}

func TestAddresses(t *testing.T) {
	for address, want := range map[string][2]string{
		"ss://b/k": {"b", "k"}, "ss://b/a/b c": {"b", "a/b c"}, "ss://b": {"b", ""}, "ss://b/": {"b", ""},
	} {
		bucket, key, err := api.ParseAddress(address)
		require.NoError(t, err)
		assert.Equal(t, want, [2]string{bucket, key})
	}
	for _, address := range []string{"", "b/k", "s3://b/k", "ss://", "ss:///k"} {
		_, _, err := api.ParseAddress(address)
		assert.Error(t, err, address)
	}
	assert.Equal(t, "/v1/objects/b/a%20b/%3F%23%25", api.ObjectPath("b", "a b/?#%"))
}

func TestChecksums(t *testing.T) {
	sums, err := api.ParseChecksums(" xxh3=00000000000000ff, crc32=0000000a")
	require.NoError(t, err)
	assert.Equal(t, "xxh3=00000000000000ff,crc32=0000000a", sums.String())
	for _, bad := range []string{"xxh3", "xxh3=", "xxh3=zz", "crc32=00000000000000ff", "sha1=00", "xxh3=+0000000000000ff"} {
		_, err := api.ParseChecksums(bad)
		assert.Error(t, err, bad)
	}
}
