package target

import (
	"context"
	"errors"
	"time"

	"github.com/shardstream/shardstream/core/store"
	"github.com/shardstream/shardstream/etl/outputs"
)

// Keep has outputs kept for those who ask for it. Call it before Serve.
func (e *ETLs) Keep(c *outputs.Cache) error {
	e.outputs, e.aside = c, c.Aside()
	return e.target.metrics.WatchOutputs(func() (hits, misses, evictions, entries, bytes, served int64) {
		s := c.Stats()
		return s.Hits, s.Misses, s.Evictions, s.Entries, s.Bytes, s.BytesServed
	})
}

// sweepOutputs finds what an earlier process kept and drops, from time to time, what is stale, until the context ends.
func (e *ETLs) sweepOutputs(ctx context.Context) {
	if err := e.outputs.Load(ctx); err != nil && ctx.Err() == nil {
		e.target.log.WarnContext(ctx, "the kept outputs were not all found; some will not be evicted", "error", err)
	}
	ticker := time.NewTicker(sweepInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			e.outputs.Sweep(e.stale)
		}
	}
}

// stale says of an output that its object or a transformation has changed since. What can't be told is not stale.
func (e *ETLs) stale(id outputs.Identity) bool {
	e.mu.Lock()
	for _, step := range id.Chain {
		if d := e.known[step.ETL]; e.watched && (d == nil || d.definition.Version > step.Version) {
			e.mu.Unlock()
			return true
		}
	}
	e.mu.Unlock()
	info, err := e.target.store.Stat(id.Bucket, id.Name)
	return errors.Is(err, store.ErrNotFound) || err == nil && info.ETag() != id.Object
}
