package cache

import (
	"context"

	"github.com/shardstream/shardstream/cluster/api"
)

// fill fetches in the background what was read in part.
func (c *Cache) fill(ctx context.Context) {
	for {
		select {
		case about := <-c.fills:
			b, ok := c.Bucket(about.bucket)
			if !ok || b.Backend == nil {
				continue
			}
			_, _ = c.fetch(ctx, b, about.key, want{fill: true}) // it has been logged
		case <-ctx.Done():
			return
		}
	}
}

// fillLater has an object be fetched in the background, if not too many are already.
func (c *Cache) fillLater(b *api.Bucket, key string, size int64) {
	if quota := c.quota(b); quota > 0 && size > quota || c.flying(b.Name, key) {
		return
	}
	select {
	case c.fills <- objectKey{b.Name, key}:
	default:
	}
}
