package target

import (
	"context"
	"sync"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/cache"
	"github.com/shardstream/shardstream/core/backend"
)

const (
	// tracedFor is how long a way through other clusters is taken for one that ends, if nobody said otherwise.
	tracedFor = 10 * time.Second
	// traceTimeout bounds the look for a circle: what does not answer is for the request itself to tell.
	traceTimeout = 3 * time.Second
	maxTraced    = 1024
)

// traced are the backends of buckets, of which those that are other clusters are followed to their end for whoever came
// through another cluster: he may wait here for the very fetch that waits for him, which passes his way on to nobody. A
// listing waits for no fetch, so that it comes around a circle of buckets and is refused there.
type traced struct {
	cache.Backends

	mu   sync.Mutex
	ends map[string]time.Time // when a way was found to be none of a circle
}

// Get opens a bucket's backend.
func (t *traced) Get(ctx context.Context, b *api.Bucket) (backend.Backend, error) {
	from, err := t.Backends.Get(ctx, b)
	via := backend.Via(ctx)
	if err != nil || len(via) == 0 {
		return from, err
	}
	if address, err := backend.ParseAddress(b.Backend.URL); err != nil || address.Scheme != backend.Remote {
		return from, err
	}
	way := api.FormatVia(append(via[:len(via):len(via)], b.Name, b.Backend.URL))
	if t.known(way) {
		return from, nil
	}
	ctx, cancel := context.WithTimeout(ctx, traceTimeout)
	defer cancel()
	for _, err := range from.List(ctx, "", "") {
		if err != nil && backend.KindOf(err) == backend.Loop {
			return nil, err
		}
		break
	}
	t.note(way)
	return from, nil
}

func (t *traced) known(way string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	at, ok := t.ends[way]
	return ok && time.Since(at) < tracedFor
}

func (t *traced) note(way string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ends == nil || len(t.ends) >= maxTraced {
		t.ends = map[string]time.Time{}
	}
	t.ends[way] = time.Now()
}
