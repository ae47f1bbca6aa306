package target_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/clustertest"
)

// flip damages one byte of an object on its disk.
func flip(t testing.TB, c *clustertest.Cluster, key string, offset int64) {
	t.Helper()
	location, err := c.Client.Locate(t.Context(), "b", key)
	require.NoError(t, err)
	require.Len(t, location.Copies, 1)
	require.Len(t, location.Copies[0].Files, 1)
	f, err := os.OpenFile(location.Copies[0].Files[0], os.O_RDWR, 0)
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	var b [1]byte
	_, err = f.ReadAt(b[:], offset)
	require.NoError(t, err)
	b[0] ^= 1
	_, err = f.WriteAt(b[:], offset)
	require.NoError(t, err)
}

func TestDamageIsNeverServed(t *testing.T) {
	cluster := start(t)
	data := pattern(9 << 20)
	const at = 5<<20 + 7
	const block = at / (64 << 10)
	putOK(t, cluster, "/v1/objects/b/large", data)
	putOK(t, cluster, "/v1/objects/b/small", data[:100_000])
	flip(t, cluster, "large", at)
	flip(t, cluster, "small", 70_000)

	t.Run("small object", func(t *testing.T) {
		response, body := do(t, cluster, "GET", "/v1/objects/b/small", nil)
		assert.Equal(t, http.StatusInternalServerError, response.StatusCode)
		e := errorOf(t, body)
		assert.Equal(t, api.CodeCorrupt, e.Code)
		assert.Contains(t, e.Message, "b/small")
		assert.Contains(t, e.Message, "block 1")
		assert.Contains(t, e.Message, "disk-")
	})
	t.Run("sound range of a damaged object", func(t *testing.T) {
		response, body := do(t, cluster, "GET", "/v1/objects/b/small", nil, "Range", "bytes=0-65535")
		assert.Equal(t, http.StatusPartialContent, response.StatusCode)
		assert.True(t, bytes.Equal(data[:65536], body))
	})
	t.Run("damaged range", func(t *testing.T) {
		response, body := do(t, cluster, "GET", "/v1/objects/b/large", nil, "Range", fmt.Sprintf("bytes=%d-%d", at-3, at-1))
		assert.Equal(t, http.StatusInternalServerError, response.StatusCode)
		assert.Contains(t, errorOf(t, body).Message, fmt.Sprintf("block %d", block))
	})
	t.Run("large object is cut short", func(t *testing.T) {
		response, err := http.Get("http://" + cluster.Targets[0].Addr() + "/v1/objects/b/large")
		require.NoError(t, err)
		defer func() { _ = response.Body.Close() }()
		body, err := io.ReadAll(response.Body)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		assert.LessOrEqual(t, len(body), block*(64<<10))
		assert.True(t, bytes.HasPrefix(data, body))
	})
	t.Run("the client learns what is damaged", func(t *testing.T) {
		r, err := cluster.Client.GetObject(t.Context(), "b", "large", api.GetOptions{})
		require.NoError(t, err)
		defer func() { assert.NoError(t, r.Close()) }()
		got, err := io.ReadAll(r)
		var answer *api.Error
		require.ErrorAs(t, err, &answer)
		assert.Equal(t, api.CodeCorrupt, answer.Code)
		assert.Contains(t, answer.Message, fmt.Sprintf("block %d", block))
		assert.True(t, bytes.HasPrefix(data, got))
	})
	t.Run("fsck", func(t *testing.T) {
		report, err := cluster.Client.Fsck(t.Context())
		require.NoError(t, err)
		require.Len(t, report.Corrupt, 2)
		assert.Empty(t, report.Stray)
		assert.Empty(t, report.Missing)
		for _, f := range report.Corrupt {
			assert.Equal(t, "target-1", f.Node)
			assert.Contains(t, []string{"ss://b/large", "ss://b/small"}, f.Object)
		}
	})
}

func TestReadersKeepTheirVersion(t *testing.T) {
	cluster := start(t)
	old := pattern(32 << 20)
	putOK(t, cluster, "/v1/objects/b/x", old)
	response, err := http.Get("http://" + cluster.Targets[0].Addr() + "/v1/objects/b/x")
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	putOK(t, cluster, "/v1/objects/b/x", []byte("new"))
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(old, body))
}

// A client that sends its header byte by byte is cut off; others are served meanwhile.
func TestSlowHeaders(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for a time limit of ten seconds")
	}
	cluster := start(t)
	const clients = 200
	conns := make([]net.Conn, clients)
	for i := range conns {
		conn, err := net.Dial("tcp", cluster.Targets[0].Addr())
		require.NoError(t, err)
		defer func() { _ = conn.Close() }()
		_, err = io.WriteString(conn, "GET /v1/health HTTP/1.1\r\nX-Slow: ")
		require.NoError(t, err)
		conns[i] = conn
	}
	begun := time.Now()
	response, _ := do(t, cluster, "GET", "/v1/health", nil)
	assert.Equal(t, http.StatusOK, response.StatusCode)
	assert.Less(t, time.Since(begun), 5*time.Second)
	for _, conn := range conns {
		require.NoError(t, conn.SetDeadline(begun.Add(30*time.Second)))
		_, err := io.ReadAll(conn)
		var timeout net.Error
		assert.False(t, asNet(err, &timeout) && timeout.Timeout(), "the connection was left open")
	}
}

func asNet(err error, target *net.Error) bool {
	n, ok := err.(net.Error) //nolint:errorlint // straight from the connection
	if ok {
		*target = n
	}
	return ok
}
