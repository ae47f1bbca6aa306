package jobs

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/membership"
)

// Kept is how many jobs that have ended are remembered.
const Kept = 100

// maxJobs bounds those that have not ended.
const maxJobs = 1000

// updateAttempts bounds the races with other gateways that an update loses.
const updateAttempts = 16

// ErrTaken says that another gateway coordinates the job.
var ErrTaken = errors.New("another gateway took the job over")

// Folder is the cluster's jobs, in etcd. A job changes seldom, so that it can be watched; what changes all the time
// is its progress, beside it.
type Folder struct{ jobs, progress, failures *membership.KV }

// Of is the folder of a cluster.
func Of(m *membership.Membership) Folder {
	return Folder{jobs: m.KV("jobs"), progress: m.KV("job-progress"), failures: m.KV("job-failures")}
}

// Progress is how far a job is.
type Progress struct {
	Counted    bool            `json:"counted"`
	Total      int64           `json:"total"`
	TotalBytes int64           `json:"total_bytes"`
	Ring       string          `json:"ring,omitempty"`  // that the parts are of
	Parts      map[string]Part `json:"parts,omitempty"` // by target
	Rate       api.JobRate     `json:"rate,omitzero"`
	Waiting    []string        `json:"waiting,omitempty"`

	revision int64 // 0: never written
}

// Counts sums up the parts.
func (p *Progress) Counts() api.JobCounts {
	c := api.JobCounts{Total: -1}
	if p.Counted {
		c.Total, c.TotalBytes = p.Total, p.TotalBytes
	}
	for _, part := range p.Parts {
		c.Done += part.Stored
		c.Skipped += part.Skipped
		c.Failed += part.Failed
		c.BytesIn += part.BytesIn
		c.BytesOut += part.BytesOut
		c.Repaired += part.Repaired
	}
	return c
}

var idRE = regexp.MustCompile(`^[0-9a-f]{11}-[0-9a-f]{4}$`)

// Create adds a job, and lets the oldest of those that have ended go.
func (f Folder) Create(ctx context.Context, spec api.JobSpec, etlVersion int64) (api.Job, error) {
	list, err := f.list(ctx)
	if err != nil {
		return api.Job{}, err
	}
	if err := f.prune(ctx, list); err != nil {
		return api.Job{}, err
	}
	now := time.Now().UTC()
	j := api.Job{
		ID: newID(now), JobSpec: spec, ETLVersion: etlVersion, State: api.JobQueued, Created: now,
		Counts: api.JobCounts{Total: -1},
	}
	document, err := json.Marshal(j)
	if err != nil {
		return j, fmt.Errorf("job: %w", err)
	}
	_, err = f.jobs.PutIf(ctx, j.ID, document, 0)
	return j, err
}

// newID begins with the time, so that jobs sort by it.
func newID(now time.Time) string {
	var b [2]byte
	_, _ = rand.Read(b[:]) // never fails: see crypto/rand
	return fmt.Sprintf("%011x-%s", now.UnixMilli(), hex.EncodeToString(b[:]))
}

func (f Folder) prune(ctx context.Context, list []api.Job) error {
	var ended []string
	for i := range list {
		if list[i].Finished() {
			ended = append(ended, list[i].ID)
		}
	}
	if len(list)-len(ended) >= maxJobs {
		return api.Errorf(http.StatusTooManyRequests, api.CodeBusy, "%d jobs are waiting or running; abort some, or wait for their end", len(list)-len(ended))
	}
	for _, id := range ended[:max(0, len(ended)+1-Kept)] {
		for _, kv := range []*membership.KV{f.failures, f.progress, f.jobs} {
			if err := kv.Delete(ctx, id); err != nil && !errors.Is(err, membership.ErrNoEntry) {
				return err
			}
		}
	}
	return nil
}

// Get finds a job as of now, with its progress; CodeNoJob if there is none.
func (f Folder) Get(ctx context.Context, id string) (api.Job, error) {
	j, _, err := f.get(ctx, id)
	if err != nil || j.Finished() {
		return j, err
	}
	p, err := f.Progress(ctx, id)
	if err != nil {
		return j, err
	}
	p.show(&j)
	return j, nil
}

// show adds progress to a job that has not ended.
func (p *Progress) show(j *api.Job) {
	j.Counts, j.Rate, j.Waiting = p.Counts(), p.Rate, p.Waiting
}

func (f Folder) get(ctx context.Context, id string) (api.Job, int64, error) {
	if !idRE.MatchString(id) {
		return api.Job{}, 0, Missing(id)
	}
	entry, err := f.jobs.Get(ctx, id)
	if errors.Is(err, membership.ErrNoEntry) {
		return api.Job{}, 0, Missing(id)
	}
	if err != nil {
		return api.Job{}, 0, err
	}
	j, err := parse(entry)
	return j, entry.Revision, err
}

func parse(entry membership.Entry) (api.Job, error) {
	var j api.Job
	if err := json.Unmarshal(entry.Value, &j); err != nil {
		return j, fmt.Errorf("job %s: its entry does not parse: %w", entry.Name, err)
	}
	return j, nil
}

// List reads all jobs as of now, with their progress, the oldest first.
func (f Folder) List(ctx context.Context) ([]api.Job, error) {
	list, err := f.list(ctx)
	if err != nil {
		return nil, err
	}
	entries, err := f.progress.List(ctx)
	if err != nil {
		return nil, err
	}
	progress := make(map[string]*Progress, len(entries))
	for _, entry := range entries {
		var p Progress
		if err := json.Unmarshal(entry.Value, &p); err != nil {
			return nil, fmt.Errorf("job %s: its progress does not parse: %w", entry.Name, err)
		}
		progress[entry.Name] = &p
	}
	for i := range list {
		if p := progress[list[i].ID]; p != nil && !list[i].Finished() {
			p.show(&list[i])
		}
	}
	return list, nil
}

func (f Folder) list(ctx context.Context) ([]api.Job, error) {
	entries, err := f.jobs.List(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]api.Job, len(entries))
	for i, entry := range entries {
		if list[i], err = parse(entry); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// Watch calls changed with all jobs, without their progress, at once and after each change, until the context ends.
func (f Folder) Watch(ctx context.Context, changed func([]api.Job)) error {
	return f.jobs.Watch(ctx, func(entries []membership.Entry) {
		list := make([]api.Job, 0, len(entries))
		for _, entry := range entries {
			if j, err := parse(entry); err == nil { // else it is of another release
				list = append(list, j)
			}
		}
		changed(list)
	})
}

// Update changes a job in one step. change may be called again, with the job as it is then; its error ends the update.
func (f Folder) Update(ctx context.Context, id string, change func(*api.Job) error) (api.Job, error) {
	for range updateAttempts {
		j, revision, err := f.get(ctx, id)
		if err != nil {
			return j, err
		}
		if err := change(&j); err != nil {
			return j, err
		}
		document, err := json.Marshal(j)
		if err != nil {
			return j, fmt.Errorf("job %s: %w", id, err)
		}
		if _, err = f.jobs.PutIf(ctx, id, document, revision); !errors.Is(err, membership.ErrConflict) {
			return j, err
		}
	}
	return api.Job{}, fmt.Errorf("job %s: %w", id, membership.ErrConflict)
}

// Progress reads how far a job is; none where nothing was written down yet.
func (f Folder) Progress(ctx context.Context, id string) (*Progress, error) {
	p := &Progress{}
	entry, err := f.progress.Get(ctx, id)
	if err == nil {
		err = json.Unmarshal(entry.Value, p)
		p.revision = entry.Revision
	}
	if errors.Is(err, membership.ErrNoEntry) {
		err = nil
	}
	if p.Parts == nil {
		p.Parts = map[string]Part{}
	}
	return p, err
}

// PutProgress writes down how far a job is, on behalf of the gateway that coordinates it; ErrTaken where that is
// another by now.
func (f Folder) PutProgress(ctx context.Context, id, runner string, p *Progress) error {
	document, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("job %s: %w", id, err)
	}
	for range updateAttempts {
		revision, err := f.progress.PutIf(ctx, id, document, p.revision)
		if err == nil {
			p.revision = revision
		}
		if !errors.Is(err, membership.ErrConflict) {
			return err
		}
		// It may have been our own write, whose answer got lost.
		j, _, err := f.get(ctx, id)
		if err != nil {
			return err
		}
		if j.Runner != runner || j.Finished() {
			return fmt.Errorf("job %s: %w", id, ErrTaken)
		}
		now, err := f.Progress(ctx, id)
		if err != nil {
			return err
		}
		p.revision = now.revision
	}
	return fmt.Errorf("job %s: its progress: %w", id, membership.ErrConflict)
}

// Written notes that a copy of the progress was written down.
func (p *Progress) Written(copied *Progress) { p.revision = copied.revision }

// DropProgress forgets the progress of a job that has ended.
func (f Folder) DropProgress(ctx context.Context, id string) error {
	if err := f.progress.Delete(ctx, id); err != nil && !errors.Is(err, membership.ErrNoEntry) {
		return err
	}
	return nil
}

// Failures reads what was written down of a job's failures.
func (f Folder) Failures(ctx context.Context, id string) ([]api.JobFailure, error) {
	if _, _, err := f.get(ctx, id); err != nil {
		return nil, err
	}
	entry, err := f.failures.Get(ctx, id)
	if errors.Is(err, membership.ErrNoEntry) {
		return []api.JobFailure{}, nil
	}
	if err != nil {
		return nil, err
	}
	var list api.JobFailures
	if err := json.Unmarshal(entry.Value, &list); err != nil {
		return nil, fmt.Errorf("job %s: its failures do not parse: %w", id, err)
	}
	return list.Failures, nil
}

// PutFailures writes them down.
func (f Folder) PutFailures(ctx context.Context, id string, list []api.JobFailure) error {
	document, err := json.Marshal(api.JobFailures{Failures: list})
	if err != nil {
		return fmt.Errorf("job %s: %w", id, err)
	}
	_, err = f.failures.Put(ctx, id, document)
	return err
}

// Missing is the error for an id that no job has.
func Missing(id string) error {
	return api.Errorf(http.StatusNotFound, api.CodeNoJob, "there is no job %.80q; `shardstream job ls` shows those that there are", id)
}

func toValid(s string) string { return strings.ToValidUTF8(s, "") }
