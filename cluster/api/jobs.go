package api

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"time"
)

// Kinds of jobs.
const (
	JobTransform = "transform" // puts objects through a transformation into others
	JobScrub     = "scrub"     // reads and verifies all copies, and replaces damaged ones
	JobPrefetch  = "prefetch"  // fetches objects of a bucket from its backend
	JobEvict     = "evict"     // lets cached objects of a bucket with a backend go
)

// States of a job.
const (
	JobQueued  = "queued" // no gateway works on it yet
	JobRunning = "running"
	JobDone    = "done" // nothing is left to do; objects that failed are counted
	JobFailed  = "failed"
	JobAborted = "aborted"
)

// JobSpec describes a job: POST /v1/jobs.
type JobSpec struct {
	Kind      string         `json:"kind"`
	Transform *TransformSpec `json:"transform,omitempty"` // of JobTransform
	Scrub     *ScrubSpec     `json:"scrub,omitempty"`     // of JobScrub; all may be left out
	Prefetch  *CacheSpec     `json:"prefetch,omitempty"`  // of JobPrefetch
	Evict     *CacheSpec     `json:"evict,omitempty"`     // of JobEvict
}

// CacheSpec says which objects of a bucket with a backend a job is about: all, or those of one of the others.
type CacheSpec struct {
	Bucket  string   `json:"bucket"`
	Prefix  string   `json:"prefix,omitempty"`
	Pattern string   `json:"pattern,omitempty"` // of names: braces and globs, as behind ss://bucket/
	Names   []string `json:"names,omitempty"`
}

// ScrubSpec is a job that reads and verifies what lies on the targets' disks.
type ScrubSpec struct {
	Bucket string `json:"bucket,omitempty"` // the one to verify; all without
}

// TransformSpec is a job that transforms objects and stores what comes out.
type TransformSpec struct {
	ETL         string          `json:"etl"`
	Source      string          `json:"source"`      // ss://bucket/, with a prefix, braces or globs
	Destination string          `json:"destination"` // ss://bucket/ or ss://bucket/prefix/
	Args        json.RawMessage `json:"args,omitempty"`

	// An output has its source's name, less StripPrefix, its extension replaced by Extensions ({"jpg": "npy"}),
	// behind the destination's prefix and Prepend.
	StripPrefix string            `json:"strip_prefix,omitempty"`
	Prepend     string            `json:"prepend,omitempty"`
	Extensions  map[string]string `json:"extensions,omitempty"`

	OnlyNew   bool    `json:"only_new,omitempty"`   // leave outputs be that the same version of all made already
	MaxErrors *int64  `json:"max_errors,omitempty"` // more objects that fail than this fail the job; nil: any number may
	PatienceS float64 `json:"patience_s,omitempty"` // how long to wait for a node that is away; default 3600
}

// Job is a job and how far it is.
type Job struct {
	ID string `json:"id"` // those made later sort behind
	JobSpec
	ETLVersion int64      `json:"etl_version,omitempty"` // of JobTransform: the one that it runs
	State      string     `json:"state"`
	Error      *Error     `json:"error,omitempty"` // why it failed
	Created    time.Time  `json:"created"`
	Started    *time.Time `json:"started,omitempty"`
	Ended      *time.Time `json:"ended,omitempty"`
	Runner     string     `json:"runner,omitempty"` // the gateway that coordinates it
	Aborting   bool       `json:"aborting,omitempty"`

	Counts  JobCounts `json:"counts"`
	Rate    JobRate   `json:"rate"`
	Waiting []string  `json:"waiting,omitempty"` // what it waits for, a sentence each
}

// Finished says whether the job has come to its end.
func (j *Job) Finished() bool {
	return j.State == JobDone || j.State == JobFailed || j.State == JobAborted
}

// JobCounts count objects: Done, Skipped and Failed add up to Total in the end. A scrub counts copies.
type JobCounts struct {
	Total      int64 `json:"total"` // -1 until they are counted
	TotalBytes int64 `json:"total_bytes"`
	Done       int64 `json:"done"`    // outputs stored; objects fetched, or evicted
	Skipped    int64 `json:"skipped"` // up to date, or gone before their turn; cached already, or not to be evicted
	Failed     int64 `json:"failed"`
	BytesIn    int64 `json:"bytes_in"` // of sources that are done, skipped or failed
	BytesOut   int64 `json:"bytes_out"`
	// Repaired copies were damaged and are replaced by good ones; they are Done. Those that could not be are Failed.
	Repaired int64 `json:"repaired,omitempty"`
}

// Finished is the number of objects that are dealt with.
func (c *JobCounts) Finished() int64 { return c.Done + c.Skipped + c.Failed }

// JobRate is how fast a running job goes.
type JobRate struct {
	Objects float64  `json:"objects_per_s"`
	Bytes   float64  `json:"bytes_per_s"`     // of sources
	ETA     *float64 `json:"eta_s,omitempty"` // seconds; absent where it can't be told
}

// JobList is GET /v1/jobs, the oldest first.
type JobList struct {
	Jobs []Job `json:"jobs"`
}

// JobFailure is an object that a job could not deal with.
type JobFailure struct {
	Object string `json:"object"` // ss://bucket/key
	Node   string `json:"node"`
	Error  *Error `json:"error"`
}

// JobFailures is GET /v1/jobs/{id}/failures: the first thousand, while Job.Counts counts all.
type JobFailures struct {
	Failures []JobFailure `json:"failures"`
}

// JobPlan says what a job would do: POST /v1/jobs?dry_run=true.
type JobPlan struct {
	Objects int64     `json:"objects"`
	Bytes   int64     `json:"bytes"`
	First   []JobStep `json:"first"` // a thousand at most
}

// JobStep is one object of a plan.
type JobStep struct {
	Source      string `json:"source"`
	Destination string `json:"destination"`
	Size        int64  `json:"size"` // of the source
}

const (
	jobPollPause = 300 * time.Millisecond
	planTimeout  = 10 * time.Minute // lists all of a source
)

// StartJob starts a job. It goes on whatever becomes of the caller.
func (c *Client) StartJob(ctx context.Context, spec JobSpec) (Job, error) {
	var j Job
	err := c.call(ctx, http.MethodPost, "/v1/jobs", nil, spec, &j)
	return j, err
}

// PlanJob says what a job would do, and does nothing.
func (c *Client) PlanJob(ctx context.Context, spec JobSpec) (JobPlan, error) {
	var plan JobPlan
	err := c.callFor(ctx, planTimeout, http.MethodPost, "/v1/jobs", url.Values{"dry_run": {"true"}}, spec, &plan)
	return plan, err
}

// Job finds a job; CodeNoJob if there is none.
func (c *Client) Job(ctx context.Context, id string) (Job, error) {
	return fetch[Job](ctx, c, jobPath(id), nil)
}

// Jobs are those under way and those that ended last, the oldest first.
func (c *Client) Jobs(ctx context.Context) ([]Job, error) {
	list, err := fetch[JobList](ctx, c, "/v1/jobs", nil)
	return list.Jobs, err
}

// JobFailures are the objects that a job could not deal with, the first thousand.
func (c *Client) JobFailures(ctx context.Context, id string) ([]JobFailure, error) {
	list, err := fetch[JobFailures](ctx, c, jobPath(id)+"/failures", nil)
	return list.Failures, err
}

// AbortJob asks a job to end, and returns at once; outputs that are complete stay. WaitJob waits for its end.
// A job that has ended stays as it is.
func (c *Client) AbortJob(ctx context.Context, id string) (Job, error) {
	var j Job
	err := c.retry(ctx, func() error { return c.call(ctx, http.MethodDelete, jobPath(id), nil, nil, &j) })
	return j, err
}

// WaitJob returns the job once it has ended, however it did. It rides over gateways that are away for as long as
// the context allows. Each state of the job is shown to seen, unless that is nil.
func (c *Client) WaitJob(ctx context.Context, id string, seen func(Job)) (Job, error) {
	for {
		j, err := c.Job(ctx, id)
		switch {
		case err != nil && (!passing(err) || ctx.Err() != nil):
			return j, err
		case err == nil && seen != nil:
			seen(j)
		}
		if err == nil && j.Finished() {
			return j, nil
		}
		if !sleep(ctx, jobPollPause) {
			return j, context.Cause(ctx)
		}
	}
}

func jobPath(id string) string { return "/v1/jobs/" + url.PathEscape(id) }
