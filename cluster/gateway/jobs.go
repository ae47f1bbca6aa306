package gateway

import (
	"context"
	"errors"
	"hash/maphash"
	"net/http"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/jobs"
	"github.com/shardstream/shardstream/cluster/membership"
	"github.com/shardstream/shardstream/core/archive"
)

const (
	maxJobSpec   = 1 << 20
	plannedSteps = 1000
	// maxOutputs bounds the names that are remembered to find two sources of one output before the job begins; where
	// there are more, the target that meets the second one ends the job.
	maxOutputs = 10_000_000
)

// ServeJobs adds the routes of /v1/jobs, and returns what coordinates jobs. Call it before Serve.
func (g *Gateway) ServeJobs() *Coordinator {
	c := &Coordinator{gateway: g, running: map[string]*jobRun{}}
	g.Handle("GET /v1/jobs", c.getJobs)
	g.Handle("POST /v1/jobs", c.postJob)
	g.Handle("GET /v1/jobs/{id}", c.getJob)
	g.Handle("DELETE /v1/jobs/{id}", c.deleteJob)
	g.Handle("GET /v1/jobs/{id}/failures", c.getJobFailures)
	return c
}

func (c *Coordinator) folder() jobs.Folder { return jobs.Of(c.gateway.members) }

func (c *Coordinator) getJobs(w http.ResponseWriter, r *http.Request) error {
	list, err := c.folder().List(r.Context())
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, api.JobList{Jobs: list})
}

func (c *Coordinator) getJob(w http.ResponseWriter, r *http.Request) error {
	j, err := c.folder().Get(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, j)
}

func (c *Coordinator) getJobFailures(w http.ResponseWriter, r *http.Request) error {
	list, err := c.folder().Failures(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, api.JobFailures{Failures: list})
}

// postJob takes a job that can be done as far as that can be told at once, or says what it would do.
func (c *Coordinator) postJob(w http.ResponseWriter, r *http.Request) error {
	dry, err := boolean(r, "dry_run")
	if err != nil {
		return err
	}
	var spec api.JobSpec
	if err := ReadKnownJSON(w, r, maxJobSpec, &spec); err != nil {
		return err
	}
	switch spec.Kind {
	case api.JobScrub:
		return c.postScrub(w, r, spec, dry)
	case api.JobPrefetch, api.JobEvict:
		return c.postContent(w, r, spec, dry)
	}
	transform, version, err := c.check(r.Context(), spec)
	if err != nil {
		return err
	}
	if dry {
		plan := api.JobPlan{First: []api.JobStep{}}
		if err := c.gateway.planTransform(r.Context(), transform, &plan); err != nil {
			return err
		}
		return WriteJSON(w, http.StatusOK, plan)
	}
	j, err := c.folder().Create(r.Context(), spec, version)
	if err != nil {
		return err
	}
	c.gateway.log.InfoContext(r.Context(), "job created", "job", j.ID, "kind", spec.Kind, "etl", transform.ETL,
		"source", transform.Source, "destination", transform.Destination)
	return WriteJSON(w, http.StatusOK, j)
}

// check makes sure that all that a job names is there.
func (c *Coordinator) check(ctx context.Context, spec api.JobSpec) (*jobs.Transform, int64, error) {
	transform, err := jobs.ParseTransform(spec, "")
	if err != nil {
		return nil, 0, err
	}
	e, err := c.gateway.ETL(ctx, transform.ETL)
	if err != nil {
		return nil, 0, err
	}
	transform.Level = e.Level
	if _, err := c.bucket(ctx, transform.Pattern.Bucket); err != nil {
		return nil, 0, err
	}
	to, err := c.bucket(ctx, transform.Bucket)
	if err != nil {
		return nil, 0, err
	}
	if to.Backend != nil && to.Backend.Write == api.WriteReadOnly { // each output would fail for itself
		return nil, 0, api.Errorf(http.StatusMethodNotAllowed, api.CodeReadOnly,
			"destination %.200s: bucket %s is a read-only cache of %s; name another bucket, or have this one take objects (`shardstream bucket set %s --write cache-only`, or write-through)",
			transform.Destination, to.Name, backendOf(&to.Bucket), to.Name)
	}
	return transform, e.Version, nil
}

// bucket finds a bucket that a job names.
func (c *Coordinator) bucket(ctx context.Context, name string) (membership.Bucket, error) {
	b, err := c.gateway.bucket(ctx, name)
	if errors.Is(err, membership.ErrNoBucket) {
		err = api.Errorf(http.StatusNotFound, api.CodeNoBucket, "there is no bucket %s; create it with `shardstream bucket create %s`", name, name)
	}
	return b, err
}

// deleteJob asks for a job's end; whoever coordinates it sees to it.
func (c *Coordinator) deleteJob(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	_, err := c.folder().Update(r.Context(), id, func(j *api.Job) error {
		if j.Finished() {
			return errEnded
		}
		j.Aborting = true
		return nil
	})
	if err != nil && !errors.Is(err, errEnded) {
		return err
	}
	j, err := c.folder().Get(r.Context(), id)
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, j)
}

var errEnded = errors.New("the job has ended")

// planTransform lists what a job is about, and refuses two sources of one output.
func (g *Gateway) planTransform(ctx context.Context, t *jobs.Transform, plan *api.JobPlan) error {
	outputs, seed := map[uint64]string{}, maphash.MakeSeed()
	keep := !t.OneToOne()
	err := g.walk(ctx, t.Pattern.Bucket, t.Pattern.Prefix, func(o *api.Object) error {
		if !t.Pattern.Match(o.Name) {
			return nil
		}
		// What a backend has and nobody has looked into yet is as its name says.
		archived := o.Archive != "" || o.Version == 0 && archive.FormatOf(o.Name) != archive.None
		out, err := t.Output(o.Name, archived)
		if err != nil && jobs.AsError(err).Code != api.CodeBadName { // one that can't be named fails alone
			return err
		}
		if h := maphash.String(seed, out); keep && err == nil && len(outputs) < maxOutputs {
			if other, taken := outputs[h]; taken {
				return t.Collision(out, api.Address(t.Pattern.Bucket, other), api.Address(t.Pattern.Bucket, o.Name))
			}
			outputs[h] = o.Name
		}
		plan.Objects++
		plan.Bytes += max(o.Size, 0) // a backend may not say
		if len(plan.First) < plannedSteps {
			plan.First = append(plan.First, api.JobStep{
				Source: api.Address(t.Pattern.Bucket, o.Name), Destination: api.Address(t.Bucket, out), Size: o.Size,
			})
		}
		return nil
	})
	if err != nil {
		return err
	}
	if name, missing := t.Pattern.Missing(); missing {
		return api.Errorf(http.StatusNotFound, api.CodeNoMatch, "source %.200s: there is no object %s; put it, or correct the source", t.Source, api.Address(t.Pattern.Bucket, clipName(name)))
	}
	if plan.Objects == 0 {
		return api.Errorf(http.StatusNotFound, api.CodeNoMatch, "source %.200s matches no object; `shardstream ls %s` shows what is there", t.Source, api.Address(t.Pattern.Bucket, ""))
	}
	return nil
}
