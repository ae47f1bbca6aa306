package target_test

import (
	"archive/tar"
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/zeebo/xxh3"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/clustertest"
)

func start(t testing.TB) *clustertest.Cluster {
	t.Helper()
	cluster := clustertest.Start(t, clustertest.Options{Targets: 1, Disks: 2})
	_, err := cluster.Client.CreateBucket(t.Context(), "b")
	require.NoError(t, err)
	return cluster
}

// do makes a request straight to the only target; header holds names and values in turn.
func do(t testing.TB, c *clustertest.Cluster, method, path string, body io.Reader, header ...string) (*http.Response, []byte) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, "http://"+c.Targets[0].Addr()+path, body)
	require.NoError(t, err)
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response, err := http.DefaultTransport.RoundTrip(request)
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response, answer
}

func errorOf(t testing.TB, body []byte) *api.Error {
	t.Helper()
	var document api.ErrorBody
	require.NoError(t, json.Unmarshal(body, &document), "%q", body)
	require.NotNil(t, document.Error, "%q", body)
	return document.Error
}

// pattern is content in which every 8 bytes differ.
func pattern(n int) []byte {
	b := make([]byte, 0, n+8)
	for i := 0; len(b) < n; i++ {
		b = append(b, fmt.Sprintf("%07x|", i)...)
	}
	return b[:n]
}

func putOK(t testing.TB, c *clustertest.Cluster, path string, data []byte, header ...string) api.Object {
	t.Helper()
	response, body := do(t, c, "PUT", path, bytes.NewReader(data), header...)
	require.Equal(t, http.StatusOK, response.StatusCode, "%s", body)
	var object api.Object
	require.NoError(t, json.Unmarshal(body, &object))
	return object
}

type file struct {
	name string
	data []byte
}

func tarOf(t testing.TB, files ...file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		require.NoError(t, w.WriteHeader(&tar.Header{Name: f.name, Size: int64(len(f.data)), Mode: 0o600, Format: tar.FormatUSTAR}))
		_, err := w.Write(f.data)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return b.Bytes()
}

func TestAnswersCarryWhatIsKnown(t *testing.T) {
	cluster := start(t)
	data := pattern(1000)
	sum := xxh3.Hash(data)
	object := putOK(t, cluster, "/v1/objects/b/x", data, "Content-Type", "text/plain", "X-Shardstream-Meta-Origin", "Camera 7",
		api.HeaderChecksum, api.Checksums{XXH3: &sum}.String())
	assert.Equal(t, api.FormatXXH3(sum), object.XXH3)
	assert.Equal(t, map[string]string{"origin": "Camera 7"}, object.Meta)
	for _, method := range []string{"GET", "HEAD"} {
		response, body := do(t, cluster, method, "/v1/objects/b/x", nil)
		assert.Equal(t, http.StatusOK, response.StatusCode)
		assert.Equal(t, int64(1000), response.ContentLength, method)
		if method == "GET" {
			assert.Equal(t, data, body)
		}
		h := response.Header
		assert.Equal(t, object.ETag, h.Get("ETag"))
		assert.Equal(t, "text/plain", h.Get("Content-Type"))
		assert.Equal(t, "bytes", h.Get("Accept-Ranges"))
		assert.Equal(t, "Camera 7", h.Get("X-Shardstream-Meta-Origin"))
		assert.Equal(t, "xxh3="+object.XXH3+",crc32="+object.CRC32, h.Get(api.HeaderChecksum))
		assert.Equal(t, strconv.FormatUint(object.Version, 10), h.Get(api.HeaderVersion))
		assert.NotEmpty(t, h.Get(api.HeaderMap))
		_, err := http.ParseTime(h.Get("Last-Modified"))
		assert.NoError(t, err)
	}
}

func TestRanges(t *testing.T) {
	cluster := start(t)
	small, large := pattern(1000), pattern(9<<20)
	putOK(t, cluster, "/v1/objects/b/small", small)
	putOK(t, cluster, "/v1/objects/b/large", large)
	putOK(t, cluster, "/v1/objects/b/empty", nil)
	for _, c := range []struct {
		key, value string
		status     int
		from, to   int // of the object
	}{
		{"small", "bytes=0-0", 206, 0, 1},
		{"small", "bytes=10-19", 206, 10, 20},
		{"small", "bytes=990-", 206, 990, 1000},
		{"small", "bytes=990-5000", 206, 990, 1000},
		{"small", "bytes=0-99999999999999999999999", 206, 0, 1000},
		{"small", "bytes=-10", 206, 990, 1000},
		{"small", "bytes=-5000", 206, 0, 1000},
		{"small", "bytes=1000-", 416, 0, 0},
		{"small", "bytes=99999999999999999999999-", 416, 0, 0},
		{"small", "bytes=20-10", 416, 0, 0},
		{"small", "bytes=-0", 416, 0, 0},
		{"small", "bytes=--5", 416, 0, 0},
		{"small", "bytes=a-b", 416, 0, 0},
		{"small", "bytes=", 416, 0, 0},
		{"small", "lines=1-2", 200, 0, 1000},
		{"small", "bytes=0-1,5-6", 200, 0, 1000},
		{"large", "bytes=65535-65536", 206, 65535, 65537},
		{"large", "bytes=1-8388608", 206, 1, 8388609},
		{"large", "bytes=-1", 206, 9<<20 - 1, 9 << 20},
		{"empty", "bytes=0-", 416, 0, 0},
		{"empty", "bytes=-1", 416, 0, 0},
	} {
		t.Run(c.key+" "+c.value, func(t *testing.T) {
			object := map[string][]byte{"small": small, "large": large}[c.key]
			response, body := do(t, cluster, "GET", "/v1/objects/b/"+c.key, nil, "Range", c.value)
			require.Equal(t, c.status, response.StatusCode)
			if c.status == 416 {
				assert.Equal(t, fmt.Sprintf("bytes */%d", len(object)), response.Header.Get("Content-Range"))
				assert.Equal(t, api.CodeRange, errorOf(t, body).Code)
				return
			}
			want := object[c.from:c.to]
			assert.True(t, bytes.Equal(want, body))
			if c.status == 206 {
				assert.Equal(t, fmt.Sprintf("bytes %d-%d/%d", c.from, c.to-1, len(object)), response.Header.Get("Content-Range"))
			}
			if c.status == 206 && len(want) <= 4<<20 {
				assert.Equal(t, "xxh3="+api.FormatXXH3(xxh3.Hash(want)), response.Header.Get(api.HeaderBodyChecksum))
			}
		})
	}
}

func TestConditions(t *testing.T) {
	cluster := start(t)
	const path = "/v1/objects/b/x"
	first := putOK(t, cluster, path, []byte("one"), "If-None-Match", "*")
	second := putOK(t, cluster, path, []byte("two"), "If-Match", first.ETag)
	assert.NotEqual(t, first.ETag, second.ETag)
	assert.Greater(t, second.Version, first.Version)
	for _, c := range []struct {
		name, method string
		header       []string
		status       int
	}{
		{"put where there is one", "PUT", []string{"If-None-Match", "*"}, 412},
		{"put over another version", "PUT", []string{"If-Match", first.ETag}, 412},
		{"delete another version", "DELETE", []string{"If-Match", first.ETag}, 412},
		{"get the same", "GET", []string{"If-None-Match", second.ETag}, 304},
		{"get the same, listed", "GET", []string{"If-None-Match", first.ETag + ", W/" + second.ETag}, 304},
		{"head the same", "HEAD", []string{"If-None-Match", second.ETag}, 304},
		{"get a newer", "GET", []string{"If-None-Match", first.ETag}, 200},
		{"get another version", "GET", []string{"If-Match", first.ETag}, 412},
		{"get that version", "GET", []string{"If-Match", second.ETag}, 200},
		{"range of another version", "GET", []string{"Range", "bytes=0-0", "If-Range", first.ETag}, 200},
		{"range of that version", "GET", []string{"Range", "bytes=0-0", "If-Range", second.ETag}, 206},
		{"delete that version", "DELETE", []string{"If-Match", second.ETag}, 204},
		{"delete what is gone", "DELETE", nil, 404},
		{"put over what is gone", "PUT", []string{"If-Match", second.ETag}, 412},
	} {
		t.Run(c.name, func(t *testing.T) {
			response, body := do(t, cluster, c.method, path, strings.NewReader("new"), c.header...)
			assert.Equal(t, c.status, response.StatusCode, "%s", body)
			if c.status == 304 {
				assert.Equal(t, second.ETag, response.Header.Get("ETag"))
				assert.Empty(t, body)
			}
		})
	}
}

func TestMembers(t *testing.T) {
	cluster := start(t)
	files := []file{{"a/1.jpg", pattern(70_000)}, {"a/1.cls", []byte("3")}, {"a/2.jpg", pattern(5 << 20)}, {"a/2.cls", nil}}
	object := putOK(t, cluster, "/v1/objects/b/train.tar", tarOf(t, files...))
	assert.Equal(t, "tar", object.Archive)
	assert.Equal(t, int64(4), object.Members)
	assert.Equal(t, int64(2), object.Samples)
	for _, f := range files {
		response, body := do(t, cluster, "GET", "/v1/objects/b/train.tar?member="+f.name, nil)
		require.Equal(t, http.StatusOK, response.StatusCode)
		assert.True(t, bytes.Equal(f.data, body), f.name)
		assert.Equal(t, "xxh3="+api.FormatXXH3(xxh3.Hash(f.data)), response.Header.Get(api.HeaderBodyChecksum))
	}
	response, body := do(t, cluster, "GET", "/v1/objects/b/train.tar?member=a/1.jpg", nil, "Range", "bytes=-5")
	assert.Equal(t, http.StatusPartialContent, response.StatusCode)
	assert.Equal(t, files[0].data[69_995:], body)
	response, body = do(t, cluster, "GET", "/v1/objects/b/train.tar?member=a/3.jpg", nil)
	assert.Equal(t, http.StatusNotFound, response.StatusCode)
	assert.Contains(t, errorOf(t, body).Message, "a/3.jpg")

	opaque := putOK(t, cluster, "/v1/objects/b/opaque.tar", []byte("no tar at all"), api.HeaderArchive, "none")
	assert.Empty(t, opaque.Archive)
	response, body = do(t, cluster, "GET", "/v1/objects/b/opaque.tar?member=x", nil)
	assert.Equal(t, http.StatusBadRequest, response.StatusCode)
	assert.Contains(t, errorOf(t, body).Message, "not an indexed archive")
}

func TestBadPuts(t *testing.T) {
	cluster := start(t)
	good := tarOf(t, file{"1.jpg", pattern(3000)}, file{"1.cls", []byte("1")})
	long := strings.Repeat("n", 2000)
	for _, c := range []struct {
		name, path string
		body       []byte
		header     []string
		status     int
		code, text string
	}{
		{"truncated tar", "b/t.tar", good[:1500], nil, 400, api.CodeBadArchive, "X-Shardstream-Archive"},
		{"tar without its end", "b/t.tar", good[:len(good)-1024], nil, 400, api.CodeBadArchive, "byte"},
		{"garbage tar", "b/t.tar", pattern(5000), nil, 400, api.CodeBadArchive, "byte 0"},
		{"tar with dot dot", "b/t.tar", tarOf(t, file{"../1.jpg", nil}), nil, 400, api.CodeBadArchive, ""},
		{"wrong xxh3", "b/x", good, []string{api.HeaderChecksum, "xxh3=0123456789abcdef"}, 400, api.CodeBadChecksum, ""},
		{"wrong crc32", "b/x", good, []string{api.HeaderChecksum, "crc32=01234567"}, 400, api.CodeBadChecksum, ""},
		{"unknown checksum", "b/x", good, []string{api.HeaderChecksum, "md5=00"}, 400, api.CodeBadRequest, "md5"},
		{"half a checksum", "b/x", good, []string{api.HeaderChecksum, "xxh3=12"}, 400, api.CodeBadRequest, "16"},
		{"unknown archive", "b/x", good, []string{api.HeaderArchive, "rar"}, 400, api.CodeBadRequest, "rar"},
		{"metadata too large", "b/x", good, []string{"X-Shardstream-Meta-A", strings.Repeat("x", 9000)}, 400, api.CodeBadRequest, "metadata"},
		{"dot dot", "b/../x", good, nil, 400, api.CodeBadName, ""},
		{"dot dot escaped", "b/%2e%2E/x", good, nil, 400, api.CodeBadName, ""},
		{"NUL", "b/x%00", good, nil, 400, api.CodeBadName, ""},
		{"control character", "b/x%1b", good, nil, 400, api.CodeBadName, ""},
		{"2,000 characters", "b/" + long, good, nil, 400, api.CodeBadName, ""},
		{"unknown bucket", "nobucket/x", good, nil, 404, api.CodeNoBucket, "nobucket"},
		{"bad bucket", "..%2f/x", good, nil, 400, api.CodeBadName, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			request, err := http.NewRequestWithContext(t.Context(), "PUT", "http://"+cluster.Targets[0].Addr()+"/", bytes.NewReader(c.body))
			require.NoError(t, err)
			request.URL.Opaque = "/v1/objects/" + c.path // as it is
			for i := 0; i < len(c.header); i += 2 {
				request.Header.Set(c.header[i], c.header[i+1])
			}
			response, err := http.DefaultTransport.RoundTrip(request)
			require.NoError(t, err)
			defer func() { _ = response.Body.Close() }()
			body, err := io.ReadAll(response.Body)
			require.NoError(t, err)
			assert.Equal(t, c.status, response.StatusCode, "%s", body)
			e := errorOf(t, body)
			assert.Equal(t, c.code, e.Code)
			assert.Contains(t, e.Message, c.text)
		})
	}
	page, err := cluster.Client.ListObjects(t.Context(), "b", api.ListOptions{})
	require.NoError(t, err)
	assert.Empty(t, page.Objects, "nothing half-done is left")
}

func TestWritesAreOfWholeObjects(t *testing.T) {
	cluster := start(t)
	data := tarOf(t, file{"1.jpg", pattern(3000)}, file{"1.cls", []byte("1")})
	putOK(t, cluster, "/v1/objects/b/x.tar", data)
	for _, method := range []string{"PUT", "DELETE"} {
		for _, query := range []string{"op=append", "member=1.cls", "etl=resize"} {
			response, body := do(t, cluster, method, "/v1/objects/b/x.tar?"+query, bytes.NewReader(data[:512]))
			assert.Equal(t, http.StatusBadRequest, response.StatusCode, "%s %s", method, query)
			e := errorOf(t, body)
			assert.Equal(t, api.CodeBadRequest, e.Code)
			name, _, _ := strings.Cut(query, "=")
			assert.Contains(t, e.Message, name)
		}
	}
	_, body := do(t, cluster, "GET", "/v1/objects/b/x.tar", nil)
	assert.True(t, bytes.Equal(data, body), "the object is as it was")
}

// A sender that breaks off, with a length or chunked, leaves nothing.
func TestBodiesThatBreakOff(t *testing.T) {
	cluster := start(t)
	for name, request := range map[string]string{
		"length":       "Content-Length: 100000\r\n\r\nonly this",
		"long length":  "Content-Length: 100000\r\n\r\n" + strings.Repeat("x", 50_000),
		"chunked":      "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
		"within chunk": "Transfer-Encoding: chunked\r\n\r\n500\r\nhello",
		"bad chunk":    "Transfer-Encoding: chunked\r\n\r\nxyz\r\nhello",
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", cluster.Targets[0].Addr())
			require.NoError(t, err)
			defer func() { _ = conn.Close() }()
			require.NoError(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
			_, err = io.WriteString(conn, "PUT /v1/objects/b/half HTTP/1.1\r\nHost: t\r\n"+request)
			require.NoError(t, err)
			require.NoError(t, conn.(*net.TCPConn).CloseWrite())
			response, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err == nil { // or nothing at all
				assert.Equal(t, http.StatusBadRequest, response.StatusCode)
				assert.NoError(t, response.Body.Close())
			}
		})
	}
	response, _ := do(t, cluster, "HEAD", "/v1/objects/b/half", nil)
	assert.Equal(t, http.StatusNotFound, response.StatusCode)
	assert.Equal(t, api.CodeNotFound, response.Header.Get(api.HeaderError))
	assert.Contains(t, response.Header.Get(api.HeaderErrorMessage), "half")
	report, err := cluster.Client.Fsck(t.Context())
	require.NoError(t, err)
	assert.Empty(t, report.Stray)
}
