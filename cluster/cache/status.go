package cache

import (
	"context"
	"maps"
	"sync"
	"sync/atomic"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/telemetry"
	"github.com/shardstream/shardstream/core/store"
)

// Status counts what this target has of a bucket.
func (c *Cache) Status(ctx context.Context, bucket string) (api.Cached, error) {
	b, ok := c.Bucket(bucket)
	if !ok || b.Backend == nil {
		return api.Cached{}, nil
	}
	pinned := pins(b)
	var status api.Cached
	err := eachOf(c.Store, bucket, "", func(i *store.Info) error {
		switch _, tagged := tagOf(i); {
		case isOwn(i):
			status.Own++
		case tagged && i.Kind == store.Whole:
			status.Objects++
			status.Bytes += i.Size
			if pinned.match(i.Name) {
				status.Pinned += i.Size
			}
		default:
			status.Known++
		}
		return ctx.Err()
	})
	status.Quota = b.Backend.Quota
	c.mu.Lock()
	defer c.mu.Unlock()
	for about := range c.flights {
		if about.bucket == bucket {
			status.Fetches++
		}
	}
	return status, err
}

// counts are what the cache has done since it was made.
type counts struct {
	hits, misses, hitBytes, backendBytes, uploaded atomic.Int64
	fetches, failures                              atomic.Int64

	mu                        sync.Mutex
	evictions                 map[string]int64 // by why
	evictedBytes, wastedBytes int64            // of these, and of those that nobody had read
}

func (m *counts) hit(bytes int64) {
	m.hits.Add(1)
	m.hitBytes.Add(bytes)
}

func (m *counts) miss() { m.misses.Add(1) }

func (m *counts) fetched(err error) {
	m.fetches.Add(1)
	if err != nil && !again(err) {
		m.failures.Add(1)
	}
}

func (m *counts) evicted(why string, bytes int64, unread bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.evictions == nil {
		m.evictions = map[string]int64{}
	}
	m.evictions[why]++
	m.evictedBytes += bytes
	if unread {
		m.wastedBytes += bytes
	}
}

// Stats gives the figures of now.
func (c *Cache) Stats() telemetry.CacheStats {
	m := &c.meter
	s := telemetry.CacheStats{
		Hits: m.hits.Load(), Misses: m.misses.Load(), HitBytes: m.hitBytes.Load(),
		BackendBytes: m.backendBytes.Load(), UploadedBytes: m.uploaded.Load(),
		Fetches: m.fetches.Load(), Failures: m.failures.Load(), UnderWay: c.Fetches(),
	}
	m.mu.Lock()
	s.Evictions, s.EvictedBytes, s.WastedBytes = maps.Clone(m.evictions), m.evictedBytes, m.wastedBytes
	m.mu.Unlock()
	c.usage.mu.Lock()
	defer c.usage.mu.Unlock()
	for _, h := range c.usage.buckets {
		s.CachedBytes += h.bytes
	}
	return s
}
