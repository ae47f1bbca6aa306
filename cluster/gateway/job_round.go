package gateway

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/jobs"
	"github.com/shardstream/shardstream/cluster/membership"
)

// errOtherRing ends a round: other targets are primaries of some objects by now.
var errOtherRing = errors.New("the set of targets has changed")

// rounds has the targets do their parts until all is done.
func (r *jobRun) rounds(ctx context.Context) error {
	since := time.Now()
	for {
		ring, targets := r.begin(ctx)
		switch {
		case len(targets) > 0:
			err := r.round(ctx, ring, targets)
			if errors.Is(err, errOtherRing) {
				r.stop(ctx)
			} else if err != nil {
				return err
			}
			since = time.Now()
		case !r.stranded():
			return nil
		case time.Since(since) > r.patience || !pauseFor(ctx, retryJob):
			return api.Errorf(http.StatusServiceUnavailable, api.CodeUnavailable, "no target is up for %v", r.patience)
		}
	}
}

// stranded says that there is something to do and nobody to do it.
func (r *jobRun) stranded() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.transform != nil && r.progress.Total > 0 && len(r.progress.Parts) == 0
}

// round has the targets of one ring do their parts.
func (r *jobRun) round(ctx context.Context, ring string, targets []string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var watch sync.WaitGroup
	defer watch.Wait()
	defer cancel(nil)
	watch.Go(func() {
		if _, err := r.coordinator.gateway.members.Until(ctx, func(v *membership.View) bool { return r.ringIn(v) != ring }); err == nil {
			cancel(errOtherRing)
		}
	})
	parts, inner := errgroup.WithContext(ctx)
	for _, id := range targets {
		parts.Go(func() error { return r.follow(inner, id) })
	}
	err := parts.Wait()
	if errors.Is(err, context.Canceled) && errors.Is(context.Cause(ctx), errOtherRing) {
		return errOtherRing
	}
	return err
}

// ringIn is the ring that the source's objects are placed on. A scrub has none: each target reads what it holds.
func (r *jobRun) ringIn(v *membership.View) string {
	if r.transform == nil {
		return ""
	}
	b, _ := v.Bucket(r.transform.Pattern.Bucket)
	return v.Placer.Ring(b.Copies())
}

// begin says which targets have something left to do on the ring of now.
func (r *jobRun) begin(ctx context.Context) (ring string, targets []string) {
	view := r.coordinator.gateway.members.View()
	ring = r.ringIn(view)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.progress.Ring != ring {
		if len(r.progress.Parts) > 0 {
			r.coordinator.gateway.log.InfoContext(ctx, "a job goes over its objects again, as the targets are others", "job", r.job.ID)
		}
		r.progress.Ring, r.progress.Parts, r.dirty = ring, map[string]jobs.Part{}, true
		r.unwritten, r.failures = r.unwritten || len(r.failures.List) > 0, jobs.Failures{}
		r.rate = rateMeter{}
	}
	clear(r.waiting)
	for _, n := range view.Map().Targets() {
		if r.takesPart(view, n) && !r.progress.Parts[n.ID].Done {
			targets = append(targets, n.ID)
		}
	}
	return ring, targets
}

// takesPart says whether a target has something to do.
func (r *jobRun) takesPart(view *membership.View, n api.Node) bool {
	if r.transform == nil {
		return !n.Away // what it had is on others by now, or not to be had
	}
	b, _ := view.Bucket(r.transform.Pattern.Bucket)
	return !n.Draining && (b.Copies() <= 1 || !n.Away) // one that is away is waited for where nobody else has what it has
}
