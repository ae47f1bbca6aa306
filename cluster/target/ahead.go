package target

import (
	"context"
	"errors"
	"fmt"

	"github.com/shardstream/shardstream/cluster/ahead"
	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/cache"
	"github.com/shardstream/shardstream/cluster/stream"
	"github.com/shardstream/shardstream/core/store"
)

// How many bytes streams may fetch ahead of use where a bucket's properties don't say: those of a window, as they are chosen,
// but no more of a quota than costs few fetches. What is fetched early takes the place of what would be needed again.
const (
	defaultReadAhead = 2 << 30
	aheadOfQuota     = 8
)

// readAhead makes what fetches shards before streams need them.
func (t *Target) readAhead(share func() *stream.Share) *ahead.Manager {
	return ahead.New(ahead.Options{
		Logger: t.log, Budget: t.aheadBudget,
		Fetch: func(ctx context.Context, bucket, key string, version uint64, spare bool) error {
			prefetch := t.cache.Prefetch
			if spare {
				prefetch = t.cache.PrefetchSpare
			}
			err := prefetch(ctx, bucket, key, version)
			if errors.Is(err, cache.ErrNoRoom) {
				return fmt.Errorf("%w: %w", ahead.ErrNoRoom, err)
			}
			return err
		},
		Stat: func(bucket, key string, version uint64) (size int64, here, known bool) {
			info, err := t.store.Stat(bucket, key)
			if err != nil || version != 0 && info.Version != version {
				return 0, false, false
			}
			return info.Size, info.Kind == store.Whole, true
		},
		Share: func() ahead.Share {
			s := share()
			return ahead.Share{Map: s.Map, Mine: func(bucket, key string) bool { return s.Role(bucket, key) == stream.Primary }}
		},
	})
}

// aheadBudget is this target's part of what may be fetched ahead for a bucket; false where that has no backend.
func (t *Target) aheadBudget(bucket string) (bytes int64, cold bool) {
	b, ok := t.members.View().Bucket(bucket)
	if !ok || b.Backend == nil {
		return 0, false
	}
	return int64(float64(readAheadOf(b.Backend)) * t.share()), true
}

// readAheadOf is how many bytes streams over a bucket may fetch ahead of use, in the whole cluster.
func readAheadOf(b *api.Backend) int64 {
	switch {
	case b.ReadAhead > 0:
		return b.ReadAhead
	case b.Quota > 0:
		return min(defaultReadAhead, b.Quota/aheadOfQuota)
	}
	return defaultReadAhead
}
