package gateway

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/jobs"
	"github.com/shardstream/shardstream/cluster/membership"
)

const (
	// scrubPatience is how long a scrub waits for a target that does not answer and is not away either.
	scrubPatience = 2 * time.Minute
	scrubFolder   = "scrub" // in etcd: when the last one began that was due
	scrubLast     = "last"
	mostDueWait   = time.Minute
)

// path is that of a target's part of the job.
func (r *jobRun) path(verb string) string {
	kind := "jobs"
	if r.transform == nil {
		kind = "scrubs"
	}
	return "/v1/internal/" + kind + "/" + url.PathEscape(r.job.ID) + "/" + verb
}

// sum adds up what targets count of a scrub, once all have. The caller holds mu.
func (r *jobRun) sum() {
	if r.transform != nil || r.progress.Counted {
		return
	}
	var total int64
	for _, n := range r.coordinator.gateway.members.View().Map().Targets() {
		part, begun := r.progress.Parts[n.ID]
		if !begun && !n.Away {
			return
		}
		total += part.Total
	}
	r.progress.Counted, r.progress.Total = true, total
}

// checkScrub makes sure that what a scrub names is there.
func (c *Coordinator) checkScrub(ctx context.Context, spec api.JobSpec) error {
	s, err := jobs.ParseScrub(spec)
	if err == nil && s.Bucket != "" {
		_, err = c.gateway.bucket(ctx, s.Bucket)
	}
	return err
}

// postScrub begins a scrub.
func (c *Coordinator) postScrub(w http.ResponseWriter, r *http.Request, spec api.JobSpec, dry bool) error {
	if err := c.checkScrub(r.Context(), spec); err != nil {
		return err
	}
	if dry {
		return api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "dry_run: a scrub changes nothing but damaged copies; start it")
	}
	j, err := c.folder().Create(r.Context(), spec, 0)
	if err != nil {
		return err
	}
	c.gateway.log.InfoContext(r.Context(), "job created", "job", j.ID, "kind", spec.Kind)
	return WriteJSON(w, http.StatusOK, j)
}

// ScrubEvery has all data read and verified so often: the gateway that leads begins a scrub when it is due.
func (c *Coordinator) ScrubEvery(ctx context.Context, every time.Duration) error {
	if every <= 0 {
		return nil
	}
	kv := c.gateway.members.KV(scrubFolder)
	for pauseFor(ctx, min(every/4, mostDueWait)) {
		if !c.gateway.members.Leader() {
			continue
		}
		if err := c.scrubIfDue(ctx, kv, every); err != nil && ctx.Err() == nil {
			c.gateway.log.WarnContext(ctx, "a scrub that is due could not be started; trying again", "error", err)
		}
	}
	return nil
}

func (c *Coordinator) scrubIfDue(ctx context.Context, kv *membership.KV, every time.Duration) error {
	now := time.Now().UTC()
	entry, err := kv.Get(ctx, scrubLast)
	begin := err == nil
	if err != nil && !errors.Is(err, membership.ErrNoEntry) {
		return err
	}
	if begin { // else the cluster is new: the time begins
		last, err := time.Parse(time.RFC3339, string(entry.Value))
		if err == nil && now.Sub(last) < every {
			return nil
		}
	}
	// The note comes first, so that of two that take themselves for the leader one begins.
	_, err = kv.PutIf(ctx, scrubLast, []byte(now.Format(time.RFC3339)), entry.Revision)
	if errors.Is(err, membership.ErrConflict) || err == nil && !begin {
		return nil
	}
	if err != nil {
		return err
	}
	list, err := c.folder().List(ctx)
	if err != nil {
		return err
	}
	for i := range list {
		if list[i].Kind == api.JobScrub && !list[i].Finished() {
			return nil
		}
	}
	j, err := c.folder().Create(ctx, api.JobSpec{Kind: api.JobScrub}, 0)
	if err == nil {
		c.gateway.log.InfoContext(ctx, "a scrub is due", "job", j.ID, "every", every)
	}
	return err
}
