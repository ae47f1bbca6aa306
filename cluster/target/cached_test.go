package target_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/clustertest"
	"github.com/shardstream/shardstream/cluster/node"
	"github.com/shardstream/shardstream/core/backend"
	"github.com/shardstream/shardstream/core/backend/backendtest"
)

// startFar starts a cluster whose buckets with backends have one in memory.
func startFar(t testing.TB) (*clustertest.Cluster, *backendtest.Memory) {
	t.Helper()
	remote := backendtest.NewMemory("s3://far")
	return clustertest.Start(t, clustertest.Options{Targets: 1, Schemes: backend.Set{"s3": remote.Opener()}}), remote
}

// farBucket makes a bucket with a backend.
func farBucket(t testing.TB, c *clustertest.Cluster, name string, b api.Backend) {
	t.Helper()
	b.URL = "s3://far"
	_, err := c.Client.CreateBucketWith(t.Context(), name, api.BucketChange{Backend: &b})
	require.NoError(t, err)
}

func TestColdObjects(t *testing.T) {
	c, remote := startFar(t)
	farBucket(t, c, "far", api.Backend{Check: api.CheckAlways})
	want := backendtest.Bytes(1, 3<<20)
	cached := func(key string) string {
		status, err := c.Client.Locate(t.Context(), "far", key)
		if err != nil || len(status.Copies) == 0 {
			return ""
		}
		return status.Copies[0].Kind
	}

	t.Run("head, get, get", func(t *testing.T) {
		remote.Set("a", want)
		head, _ := do(t, c, "HEAD", "/v1/objects/far/a", nil)
		assert.Equal(t, 200, head.StatusCode)
		assert.EqualValues(t, len(want), head.ContentLength)
		assert.Equal(t, 0, remote.Calls("open", "a"))
		var etags []string
		for _, cache := range []string{"miss", "hit"} {
			answer, data := do(t, c, "GET", "/v1/objects/far/a", nil)
			assert.Equal(t, 200, answer.StatusCode)
			assert.True(t, bytes.Equal(want, data))
			assert.Equal(t, cache, answer.Header.Get(api.HeaderCache))
			assert.Empty(t, answer.Header.Get(api.HeaderMetaPrefix+"shardstream-origin"))
			etags = append(etags, answer.Header.Get("ETag"))
		}
		assert.Equal(t, []string{head.Header.Get("ETag"), head.Header.Get("ETag")}, etags)
		assert.Equal(t, 1, remote.Calls("open", "a"))
		assert.Equal(t, api.KindCache, cached("a"))
	})
	t.Run("64 readers", func(t *testing.T) {
		remote.Set("many", want)
		var wait sync.WaitGroup
		for range 64 {
			wait.Go(func() {
				response, err := http.Get("http://" + c.Targets[0].Addr() + "/v1/objects/far/many") //nolint:noctx // the test's
				if !assert.NoError(t, err) {
					return
				}
				data, err := io.ReadAll(response.Body)
				_ = response.Body.Close()
				assert.NoError(t, err)
				assert.True(t, bytes.Equal(want, data))
			})
		}
		wait.Wait()
		assert.Equal(t, 1, remote.Calls("open", "many"))
	})
	t.Run("range", func(t *testing.T) {
		remote.Set("r", want)
		answer, data := do(t, c, "GET", "/v1/objects/far/r", nil, "Range", "bytes=-1000")
		assert.Equal(t, 206, answer.StatusCode)
		assert.True(t, bytes.Equal(want[len(want)-1000:], data))
		assert.Equal(t, fmt.Sprintf("bytes %d-%d/%d", len(want)-1000, len(want)-1, len(want)), answer.Header.Get("Content-Range"))
		answer, _ = do(t, c, "GET", "/v1/objects/far/r", nil, "Range", "bytes=9999999-")
		assert.Equal(t, 416, answer.StatusCode)
		answer, data = do(t, c, "GET", "/v1/objects/far/r", nil, "Range", "bytes=0-")
		assert.Equal(t, 206, answer.StatusCode)
		assert.True(t, bytes.Equal(want, data))
		c.Await("the whole is filled in", func() bool { return cached("r") == api.KindCache })
	})
	t.Run("conditions", func(t *testing.T) {
		remote.Set("c", want)
		head, _ := do(t, c, "HEAD", "/v1/objects/far/c", nil)
		answer, _ := do(t, c, "GET", "/v1/objects/far/c", nil, "If-None-Match", head.Header.Get("ETag"))
		assert.Equal(t, 304, answer.StatusCode)
		answer, _ = do(t, c, "GET", "/v1/objects/far/c", nil, "If-Match", `"other"`)
		assert.Equal(t, 412, answer.StatusCode)
		assert.Equal(t, 0, remote.Calls("open", "c"))
	})
	t.Run("changed", func(t *testing.T) {
		remote.Set("d", want)
		before, _ := do(t, c, "GET", "/v1/objects/far/d", nil)
		other := backendtest.Bytes(2, 2<<20)
		remote.Set("d", other)
		after, data := do(t, c, "GET", "/v1/objects/far/d", nil)
		assert.True(t, bytes.Equal(other, data))
		assert.Equal(t, "miss", after.Header.Get(api.HeaderCache))
		assert.NotEqual(t, before.Header.Get("ETag"), after.Header.Get("ETag"))
		remote.Remove("d")
		gone, document := do(t, c, "GET", "/v1/objects/far/d", nil)
		assert.Equal(t, 404, gone.StatusCode)
		assert.Equal(t, api.CodeNotFound, errorOf(t, document).Code)
		assert.Empty(t, cached("d"))
	})
	t.Run("a damaged copy is fetched again", func(t *testing.T) {
		remote.Set("f", want)
		_, _ = do(t, c, "GET", "/v1/objects/far/f", nil)
		l, err := c.Client.Locate(t.Context(), "far", "f")
		require.NoError(t, err)
		file, err := os.OpenFile(l.Copies[0].Files[0], os.O_RDWR, 0)
		require.NoError(t, err)
		_, err = file.WriteAt([]byte{want[100] ^ 1}, 100)
		require.NoError(t, errors.Join(err, file.Close()))
		answer, data := do(t, c, "GET", "/v1/objects/far/f", nil)
		assert.Equal(t, "miss", answer.Header.Get(api.HeaderCache))
		assert.True(t, bytes.Equal(want, data))
		assert.Equal(t, 2, remote.Calls("open", "f"))
	})
	t.Run("after a restart", func(t *testing.T) {
		remote.Set("g", want)
		before, _ := do(t, c, "GET", "/v1/objects/far/g", nil)
		c.Targets[0].Stop()
		c.Targets[0].Start()
		after, data := do(t, c, "GET", "/v1/objects/far/g", nil)
		assert.True(t, bytes.Equal(want, data))
		assert.Equal(t, "hit", after.Header.Get(api.HeaderCache))
		assert.Equal(t, before.Header.Get("ETag"), after.Header.Get("ETag"))
		assert.Equal(t, 1, remote.Calls("open", "g"))
	})
	t.Run("a backend that fails", func(t *testing.T) {
		remote.Fault = func(op, name string, _ int64) error { return remote.Failure(op, name, backend.Unsupported) }
		defer func() { remote.Fault = nil }()
		answer, _ := do(t, c, "GET", "/v1/objects/far/g", nil)
		assert.Equal(t, 502, answer.StatusCode, "it can't be compared, so it is not served")
	})
	t.Run("failures name the backend", func(t *testing.T) {
		for kind, code := range map[backend.Kind]string{
			backend.Denied: api.CodeDenied, backend.NoBucket: api.CodeBackend, backend.Failed: api.CodeBackend,
		} {
			remote.Fault = func(op, name string, _ int64) error { return remote.Failure(op, name, kind) }
			answer, document := do(t, c, "GET", "/v1/objects/far/e", nil)
			assert.Equal(t, 502, answer.StatusCode)
			failure := errorOf(t, document)
			assert.Equal(t, code, failure.Code)
			assert.Contains(t, failure.Message, "s3://far")
			remote.Fault = nil
		}
	})
	t.Run("refused", func(t *testing.T) {
		for _, method := range []string{"PUT", "DELETE"} {
			answer, document := do(t, c, method, "/v1/objects/far/a", strings.NewReader("x"))
			assert.Equal(t, 405, answer.StatusCode)
			assert.Equal(t, api.CodeReadOnly, errorOf(t, document).Code)
		}
	})
	t.Run("deleting the bucket loses nothing", func(t *testing.T) {
		require.NoError(t, c.Client.DeleteBucket(t.Context(), "far", false))
		assert.NotNil(t, remote.Data("a"))
	})
}

// tarball is an archive of members of some size.
func tarball(t testing.TB, members, size int) (archive []byte, data [][]byte) {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for i := range members {
		data = append(data, backendtest.Bytes(uint64(i), size))
		require.NoError(t, w.WriteHeader(&tar.Header{Name: fmt.Sprintf("%04d.bin", i), Size: int64(size), Mode: 0o600}))
		_, err := w.Write(data[i])
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return out.Bytes(), data
}

func TestMembersOfColdArchives(t *testing.T) {
	c, remote := startFar(t)
	farBucket(t, c, "far", api.Backend{})
	whole, members := tarball(t, 20, 200_000)
	remote.Set("s.tar", whole)
	answer, data := do(t, c, "GET", "/v1/objects/far/s.tar?member=0007.bin", nil)
	require.Equal(t, 200, answer.StatusCode, "%s", data)
	assert.True(t, bytes.Equal(members[7], data))
	assert.Equal(t, "20", answer.Header.Get(api.HeaderSamples))
	etag := answer.Header.Get("ETag")
	answer, data = do(t, c, "GET", "/v1/objects/far/s.tar?member=0008.bin", nil, "Range", "bytes=10-19")
	assert.Equal(t, 206, answer.StatusCode)
	assert.True(t, bytes.Equal(members[8][10:20], data))
	answer, _ = do(t, c, "GET", "/v1/objects/far/s.tar?member=none", nil)
	assert.Equal(t, 404, answer.StatusCode)
	c.Await("the archive is filled in", func() bool {
		l, err := c.Client.Locate(t.Context(), "far", "s.tar")
		return err == nil && len(l.Copies) == 1 && l.Copies[0].Kind == api.KindCache
	})
	answer, data = do(t, c, "GET", "/v1/objects/far/s.tar?member=0007.bin", nil)
	assert.Equal(t, "hit", answer.Header.Get(api.HeaderCache))
	assert.Equal(t, etag, answer.Header.Get("ETag"))
	assert.True(t, bytes.Equal(members[7], data))
}

func TestWriteThrough(t *testing.T) {
	c, remote := startFar(t)
	farBucket(t, c, "far", api.Backend{Write: api.WriteThrough, Delete: api.DeleteThrough})
	body := backendtest.Bytes(3, 1<<20)
	answer, document := do(t, c, "PUT", "/v1/objects/far/a", bytes.NewReader(body), "X-Shardstream-Meta-Color", "red")
	require.Equal(t, 200, answer.StatusCode, "%s", document)
	assert.True(t, bytes.Equal(body, remote.Data("a")))
	answer, data := do(t, c, "GET", "/v1/objects/far/a", nil)
	assert.Equal(t, "hit", answer.Header.Get(api.HeaderCache))
	assert.Equal(t, "red", answer.Header.Get("X-Shardstream-Meta-Color"))
	assert.True(t, bytes.Equal(body, data))
	assert.Equal(t, 0, remote.Calls("open", "a"))

	answer, document = do(t, c, "PUT", "/v1/objects/far/a", strings.NewReader("x"), "If-None-Match", "*")
	assert.Equal(t, 412, answer.StatusCode, "%s", document)
	remote.Set("b", body) // there, and never seen here
	answer, document = do(t, c, "PUT", "/v1/objects/far/b", strings.NewReader("x"), "If-None-Match", "*")
	assert.Equal(t, 412, answer.StatusCode, "%s", document)

	remote.Fault = func(op, name string, _ int64) error {
		if op == "put" {
			return remote.Failure(op, name, backend.Denied)
		}
		return nil
	}
	answer, document = do(t, c, "PUT", "/v1/objects/far/a", strings.NewReader("other"))
	assert.Equal(t, api.CodeDenied, errorOf(t, document).Code)
	assert.Equal(t, 502, answer.StatusCode)
	remote.Fault = nil
	_, data = do(t, c, "GET", "/v1/objects/far/a", nil)
	assert.True(t, bytes.Equal(body, data), "what was not stored there is not shown here")

	answer, _ = do(t, c, "DELETE", "/v1/objects/far/a", nil)
	assert.Equal(t, 204, answer.StatusCode)
	assert.Nil(t, remote.Data("a"))
	answer, _ = do(t, c, "GET", "/v1/objects/far/a", nil)
	assert.Equal(t, 404, answer.StatusCode)
	answer, _ = do(t, c, "PUT", "/v1/objects/far/a", strings.NewReader("x"), "X-Shardstream-Meta-Shardstream-Origin", "x")
	assert.Equal(t, 400, answer.StatusCode)
}

func TestCacheOnly(t *testing.T) {
	c, remote := startFar(t)
	farBucket(t, c, "far", api.Backend{Write: api.WriteCacheOnly, Delete: api.DeleteCached})
	remote.Set("a", []byte("theirs"))
	answer, document := do(t, c, "PUT", "/v1/objects/far/a", strings.NewReader("x"), "If-None-Match", "*")
	assert.Equal(t, 412, answer.StatusCode, "%s", document)
	answer, document = do(t, c, "PUT", "/v1/objects/far/a", strings.NewReader("ours"))
	require.Equal(t, 200, answer.StatusCode, "%s", document)
	_, data := do(t, c, "GET", "/v1/objects/far/a", nil)
	assert.Equal(t, "ours", string(data))
	assert.Equal(t, "theirs", string(remote.Data("a")))
	answer, _ = do(t, c, "DELETE", "/v1/objects/far/a", nil)
	assert.Equal(t, 204, answer.StatusCode)
	_, data = do(t, c, "GET", "/v1/objects/far/a", nil)
	assert.Equal(t, "theirs", string(data))
	_, _ = do(t, c, "PUT", "/v1/objects/far/b", strings.NewReader("ours"))
	require.Error(t, c.Client.DeleteBucket(t.Context(), "far", false), "it holds what is nowhere else")
	require.NoError(t, c.Client.DeleteBucket(t.Context(), "far", true))
}

func TestCachedObjectsFollowTheMap(t *testing.T) {
	remote := backendtest.NewMemory("s3://far")
	c := clustertest.Start(t, clustertest.Options{
		Targets: 2, Schemes: backend.Set{"s3": remote.Opener()},
		Settings: node.Settings{DeleteGrace: 100 * time.Millisecond},
	})
	farBucket(t, c, "far", api.Backend{Check: api.CheckTTL, TTLS: 3600})
	const objects = 24
	etags := map[string]string{}
	for i := range objects {
		key := fmt.Sprintf("o%02d", i)
		want := backendtest.Bytes(uint64(i), 100_000)
		if i%2 == 1 { // larger than what a primary gets itself before it answers
			want = backendtest.Bytes(uint64(i), 2<<20)
		}
		remote.Set(key, want)
		body, object := fetch(t, c, key)
		assert.True(t, bytes.Equal(want, body))
		etags[key] = object.ETag
	}
	c.AddTarget()
	for i := range objects { // while they move
		key := fmt.Sprintf("o%02d", i)
		body, object := fetch(t, c, key)
		assert.True(t, bytes.Equal(remote.Data(key), body))
		assert.Equal(t, etags[key], object.ETag, "the version of %s holds", key)
	}
	c.Await("all is where it belongs", func() bool {
		status, err := c.Client.Status(t.Context())
		return err == nil && status.Rebalance.State == api.RebalanceIdle
	})
	for i := range objects {
		key := fmt.Sprintf("o%02d", i)
		body, object := fetch(t, c, key)
		assert.True(t, bytes.Equal(remote.Data(key), body))
		assert.Equal(t, etags[key], object.ETag)
	}
}

// fetch reads an object of the bucket far through the client.
func fetch(t testing.TB, c *clustertest.Cluster, key string) ([]byte, api.Object) {
	t.Helper()
	r, err := c.Client.GetObject(t.Context(), "far", key, api.GetOptions{})
	require.NoError(t, err)
	defer func() { _ = r.Close() }() // only read
	body, err := io.ReadAll(r)
	require.NoError(t, err)
	return body, r.Object
}
