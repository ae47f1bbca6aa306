package backends

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/backend"
)

func TestCache(t *testing.T) {
	s := newStage(t)
	s.each(t, kinds, func(t *testing.T, kind string) {
		t.Run("prefetch and evict", func(t *testing.T) { testPrefetch(t, s, kind) })
	})
	s.each(t, []string{backend.S3, backend.HTTP}, func(t *testing.T, kind string) {
		t.Run("quota", func(t *testing.T) { testQuota(t, s, kind) })
		t.Run("pinned", func(t *testing.T) { testPinned(t, s, kind) })
	})
}

func testPrefetch(t *testing.T, s *stage, kind string) {
	c := s.cold(t, kind, func(b *api.Backend) { b.Check = api.CheckNever })
	objects := map[string][]byte{}
	for i := range 30 {
		objects[fmt.Sprintf("set-%d/%02d.bin", i%2, i)] = bytesOf(uint64(i), 10_000+i)
	}
	c.PutAll(objects)
	cached := func() (n int) {
		for _, object := range c.list(t, api.ListOptions{}) {
			if object.Cached != nil && *object.Cached {
				n++
			}
		}
		return n
	}
	job := c.job(t, api.JobSpec{Kind: api.JobPrefetch, Prefetch: &api.CacheSpec{Bucket: c.bucket, Prefix: "set-1/"}})
	require.Equal(t, api.JobDone, job.State)
	require.Equal(t, 15, cached())
	job = c.job(t, api.JobSpec{Kind: api.JobPrefetch, Prefetch: &api.CacheSpec{Bucket: c.bucket, Pattern: "set-0/0[0-8].bin"}})
	require.Equal(t, api.JobDone, job.State)
	require.Equal(t, 20, cached())
	job = c.job(t, api.JobSpec{Kind: api.JobPrefetch, Prefetch: &api.CacheSpec{Bucket: c.bucket, Names: []string{"set-0/10.bin"}}})
	require.Equal(t, api.JobDone, job.State)
	require.Equal(t, 21, cached())
	job = c.job(t, api.JobSpec{Kind: api.JobPrefetch, Prefetch: &api.CacheSpec{Bucket: c.bucket}})
	require.Equal(t, api.JobDone, job.State)
	require.Equal(t, 30, cached())
	c.Server.Heal()
	for name, data := range objects {
		c.requireGet(t, name, data)
		require.LessOrEqual(t, c.reads(name), 0, "what was prefetched was fetched again")
	}
	c.evict(t, "set-1/")
	require.Equal(t, 15, cached())
	c.evict(t, "")
	require.Zero(t, cached())
	status, err := c.Client.Cached(t.Context(), c.bucket)
	require.NoError(t, err)
	require.Zero(t, status.Objects)
	require.Zero(t, status.Bytes)
}

// testQuota reads more than may be kept: all of it is right, and no more is kept.
func testQuota(t *testing.T, s *stage, kind string) {
	const quota = 6 << 20
	c := s.cold(t, kind, func(b *api.Backend) { b.Quota = quota })
	for i := range 16 {
		c.Put(fmt.Sprintf("%02d.bin", i), bytesOf(uint64(i), 1<<20))
	}
	c.Put("larger.bin", bytesOf(99, 2*quota))
	for range 2 {
		for i := range 16 {
			c.requireGet(t, fmt.Sprintf("%02d.bin", i), bytesOf(uint64(i), 1<<20))
		}
		c.requireGet(t, "larger.bin", bytesOf(99, 2*quota))
	}
	c.Await("no more is kept than may be", func() bool {
		status, err := c.Client.Cached(t.Context(), c.bucket)
		return err == nil && status.Bytes <= quota
	})
}

func testPinned(t *testing.T, s *stage, kind string) {
	c := s.cold(t, kind, func(b *api.Backend) { b.Pinned = []string{"val-*.bin"} })
	c.Put("val-0.bin", bytesOf(1, 1000))
	c.Put("train-0.bin", bytesOf(2, 1000))
	c.requireGet(t, "val-0.bin", bytesOf(1, 1000))
	c.requireGet(t, "train-0.bin", bytesOf(2, 1000))
	c.awaitCached(t, "val-0.bin", true)
	c.awaitCached(t, "train-0.bin", true)
	c.evict(t, "")
	c.awaitCached(t, "train-0.bin", false)
	require.True(t, c.isCached(t, "val-0.bin"))
}
