package heal

import (
	"context"
	"time"
)

// Work is what a Keeper does its part by: it keeps to the pace of all of heal's work, and counts with it.
type Work struct{ h *Healer }

func (h *Healer) duty() *Work { return &Work{h} }

// Same ends a pass whose goal is no longer the cluster's: a Keeper asks now and then, and returns the error.
func (w *Work) Same() error { return w.h.same() }

// Before waits until so many bytes may be moved.
func (w *Work) Before(ctx context.Context, bytes int64) error { return w.h.pace.before(ctx, bytes) }

// Moved counts what was moved, and makes way for users' requests.
func (w *Work) Moved(ctx context.Context, n, bytes int64, took time.Duration) {
	w.h.count(func(c *Counts) { c.Moved += n; c.Bytes += bytes })
	w.h.pace.after(ctx, took)
}

// Deleted counts what was removed.
func (w *Work) Deleted(n int64) { w.h.count(func(c *Counts) { c.Deleted += n }) }

// Failed counts what could not be done yet.
func (w *Work) Failed(detail string) {
	w.h.count(func(c *Counts) { c.Failed++; c.Detail = detail })
}
