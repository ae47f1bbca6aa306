package backends

import (
	"context"
	"io/fs"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/backend"
	"github.com/shardstream/shardstream/tests/backends/faultproxy"
)

// writable are the kinds that take objects.
var writable = []string{backend.S3, backend.GCS, backend.Azure, backend.HDFS, backend.Remote}

func through(b *api.Backend) {
	b.Write, b.Delete, b.Check = api.WriteThrough, api.DeleteThrough, api.CheckAlways
}

func TestWrites(t *testing.T) {
	s := newStage(t)
	s.each(t, kinds, func(t *testing.T, kind string) {
		t.Run("read-only", func(t *testing.T) { testReadOnly(t, s, kind) })
		t.Run("cache-only", func(t *testing.T) { testCacheOnly(t, s, kind) })
		t.Run("delete the cached copy", func(t *testing.T) { testDeleteCached(t, s, kind) })
	})
	s.each(t, writable, func(t *testing.T, kind string) {
		t.Run("write-through", func(t *testing.T) { testWriteThrough(t, s, kind) })
		t.Run("write-through that fails", func(t *testing.T) { testWriteThroughFails(t, s, kind) })
	})
}

func testReadOnly(t *testing.T, s *stage, kind string) {
	c := s.cold(t, kind, nil)
	data := bytesOf(1, 1000)
	c.Put("object.bin", data)
	requireAnswer(t, c.put("object.bin", bytesOf(2, 1000)), http.StatusMethodNotAllowed, api.CodeReadOnly)
	requireAnswer(t, c.put("new.bin", bytesOf(2, 1000)), http.StatusMethodNotAllowed, api.CodeReadOnly)
	err := c.client.DeleteObject(t.Context(), c.bucket, "object.bin")
	requireAnswer(t, err, http.StatusMethodNotAllowed, api.CodeReadOnly)
	c.requireGet(t, "object.bin", data)
	got, err := c.Get("object.bin")
	require.NoError(t, err)
	requireBytes(t, data, got)
}

func testWriteThrough(t *testing.T, s *stage, kind string) {
	c := s.cold(t, kind, through)
	for i, size := range []int{1000, 0, 12<<20 + 5} { // put, and put over it
		data := bytesOf(uint64(i), size)
		require.NoError(t, c.put("a/object.bin", data))
		got, err := c.Get("a/object.bin")
		require.NoError(t, err)
		requireBytes(t, data, got)
		require.True(t, c.isCached(t, "a/object.bin"))
		c.requireGet(t, "a/object.bin", data)
		c.evict(t, "a/")
		c.awaitCached(t, "a/object.bin", false)
		c.requireGet(t, "a/object.bin", data)
	}
	require.NoError(t, c.client.DeleteObject(t.Context(), c.bucket, "a/object.bin"))
	_, err := c.Get("a/object.bin")
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = c.get("a/object.bin", api.GetOptions{})
	requireAnswer(t, err, http.StatusNotFound, api.CodeNotFound)
	require.Empty(t, c.list(t, api.ListOptions{}))
}

// testWriteThroughFails holds that what wasn't acknowledged is not there, and that what was there is.
func testWriteThroughFails(t *testing.T, s *stage, kind string) {
	c := s.cold(t, kind, through)
	before := bytesOf(1, 100_000)
	require.NoError(t, c.put("object.bin", before))
	status, code := http.StatusBadGateway, api.CodeDenied
	if kind == backend.HDFS { // no data node takes anything
		c.Server.Data.Refuse(true)
		c.Server.Data.CutAll()
		status, code = http.StatusServiceUnavailable, api.CodeBackendBusy
	} else {
		c.Server.HTTP.Add(faultproxy.Rule{
			Match: func(r *http.Request) bool { return r.Method != http.MethodGet && r.Method != http.MethodHead }, Status: http.StatusForbidden,
		})
	}
	requireAnswer(t, c.put("object.bin", bytesOf(2, 100_000)), status, code)
	requireAnswer(t, c.put("new.bin", bytesOf(2, 100_000)), status, code)
	c.Server.Heal()
	c.requireGet(t, "object.bin", before)
	_, err := c.get("new.bin", api.GetOptions{})
	requireAnswer(t, err, http.StatusNotFound, api.CodeNotFound)
	after := bytesOf(3, 100_000)
	require.NoError(t, c.put("object.bin", after))
	c.requireGet(t, "object.bin", after)
}

func testCacheOnly(t *testing.T, s *stage, kind string) {
	c := s.cold(t, kind, func(b *api.Backend) { b.Write, b.Delete = api.WriteCacheOnly, api.DeleteCached })
	remote, own := bytesOf(1, 5000), bytesOf(2, 6000)
	c.Put("remote.bin", remote)
	c.Put("both.bin", remote)
	require.NoError(t, c.put("own.bin", own))
	require.NoError(t, c.put("both.bin", own))
	_, err := c.Get("own.bin")
	require.ErrorIs(t, err, fs.ErrNotExist)
	got, err := c.Get("both.bin")
	require.NoError(t, err)
	requireBytes(t, remote, got)
	c.evict(t, "")
	c.requireGet(t, "own.bin", own)
	c.requireGet(t, "both.bin", own)
	c.requireGet(t, "remote.bin", remote)
	sizes := map[string]int64{}
	for _, object := range c.list(t, api.ListOptions{}) {
		sizes[object.Name] = object.Size
	}
	require.Equal(t, map[string]int64{"remote.bin": 5000, "both.bin": 6000, "own.bin": 6000}, sizes)
	require.NoError(t, c.client.DeleteObject(t.Context(), c.bucket, "own.bin"))
	require.NoError(t, c.client.DeleteObject(t.Context(), c.bucket, "both.bin"))
	_, err = c.get("own.bin", api.GetOptions{})
	requireAnswer(t, err, http.StatusNotFound, api.CodeNotFound)
	c.requireGet(t, "both.bin", remote) // which own object has hidden
}

func testDeleteCached(t *testing.T, s *stage, kind string) {
	c := s.cold(t, kind, func(b *api.Backend) { b.Delete = api.DeleteCached })
	data := bytesOf(1, 100_000)
	c.Put("object.bin", data)
	c.requireGet(t, "object.bin", data)
	c.awaitCached(t, "object.bin", true)
	require.NoError(t, c.client.DeleteObject(t.Context(), c.bucket, "object.bin"))
	c.awaitCached(t, "object.bin", false)
	got, err := c.Get("object.bin")
	require.NoError(t, err)
	requireBytes(t, data, got)
	c.requireGet(t, "object.bin", data)
}

// TestPolicies has objects change, and go, behind the cluster's back.
func TestPolicies(t *testing.T) {
	s := newStage(t)
	first, second := bytesOf(1, 2<<20), bytesOf(2, 2<<20+1)
	changed := func(t *testing.T, kind string, change func(*api.Backend)) *cold {
		t.Helper()
		c := s.cold(t, kind, change)
		c.Put("object.bin", first)
		c.requireGet(t, "object.bin", first)
		c.awaitCached(t, "object.bin", true)
		c.Put("object.bin", second)
		return c
	}
	s.each(t, kinds, func(t *testing.T, kind string) {
		t.Run("never", func(t *testing.T) {
			c := changed(t, kind, func(b *api.Backend) { b.Check = api.CheckNever })
			c.requireGet(t, "object.bin", first)
			c.evict(t, "") // what comes then is what is there
			c.requireGet(t, "object.bin", second)
		})
		t.Run("always", func(t *testing.T) {
			c := changed(t, kind, func(b *api.Backend) { b.Check = api.CheckAlways })
			c.requireGet(t, "object.bin", second)
			c.Delete("object.bin")
			_, err := c.get("object.bin", api.GetOptions{})
			requireAnswer(t, err, http.StatusNotFound, api.CodeNotFound)
			require.Empty(t, c.list(t, api.ListOptions{}))
		})
		t.Run("ttl", func(t *testing.T) {
			c := changed(t, kind, func(b *api.Backend) { b.TTLS = 3600 })
			c.requireGet(t, "object.bin", first)
			_, err := c.client.ChangeBucket(t.Context(), c.bucket, api.BucketChange{Backend: func() *api.Backend {
				b := c.Server.Backend(c.Name, "")
				b.TTLS = 0.001
				return b
			}()})
			require.NoError(t, err)
			c.Await("the change is seen", func() bool {
				got, err := c.get("object.bin", api.GetOptions{})
				return err == nil && len(got) == len(second)
			})
			c.requireGet(t, "object.bin", second)
			c.Delete("object.bin")
			c.Await("the end is seen", func() bool {
				_, err := c.client.StatObject(context.Background(), c.bucket, "object.bin")
				return err != nil
			})
		})
	})
}

// TestChangeWhileItIsRead has objects change in the middle of a fetch: what is read is the one or the other, or an error.
func TestChangeWhileItIsRead(t *testing.T) {
	s := newStage(t)
	s.each(t, kinds, func(t *testing.T, kind string) {
		c := s.cold(t, kind, func(b *api.Backend) { b.Check = api.CheckAlways })
		// Of other sizes: a web server's tag is of the second and the size.
		versions := [][]byte{bytesOf(1, 6<<20), bytesOf(2, 6<<20+1)}
		c.Put("object.bin", versions[0])
		if c.Server.HTTP != nil {
			c.Server.HTTP.Add(faultproxy.Rule{Match: isObject, Rate: 8 << 20})
			c.Server.HTTP.Add(faultproxy.Rule{Match: isObject, Times: 1, Cut: 4 << 20})
		} else {
			c.Server.Data.Rate(8 << 20)
			c.Server.Data.CutNext(4 << 20)
		}
		type outcome struct {
			got []byte
			err error
		}
		read := make(chan outcome, 1)
		go func() {
			got, err := c.get("object.bin", api.GetOptions{})
			read <- outcome{got, err}
		}()
		c.Await("the fetch is on its way", func() bool {
			if c.Server.HTTP != nil {
				return c.Server.HTTP.Bytes() > 1<<20
			}
			return c.Server.Data.Bytes() > 1<<20
		})
		c.Put("object.bin", versions[1])
		if o := <-read; o.err == nil {
			requireOneOf(t, versions, o.got)
		}
		c.Server.Heal()
		c.requireGet(t, "object.bin", versions[1])
	})
}

func isObject(r *http.Request) bool { return r.Method == http.MethodGet && namesObject(r) }
