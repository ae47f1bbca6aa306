package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/jobs"
	"github.com/shardstream/shardstream/cluster/membership"
)

const (
	persistEvery  = time.Second
	persistSize   = 32 << 10 // a progress larger than this is written down less often
	partTimeout   = 10 * time.Second
	stopTimeLimit = 8 * time.Second // for a target to end what it has in hand
	firstAsk      = 20 * time.Millisecond
	lastAsk       = 500 * time.Millisecond
	retryJob      = time.Second
)

// jobRun is one job that this gateway coordinates.
type jobRun struct {
	coordinator *Coordinator
	job         api.Job
	transform   *jobs.Transform // nil: it is a scrub, or
	content     *jobs.Content   // it fetches or evicts
	patience    time.Duration   // with a target that does not answer
	maxErrors   *int64

	ctx    context.Context //nolint:containedctx // ends with an abort
	cancel context.CancelCauseFunc

	mu        sync.Mutex
	progress  *jobs.Progress
	failures  jobs.Failures
	waiting   map[string][]string // by target
	dirty     bool                // the progress is not written down
	unwritten bool                // nor are failures
	rate      rateMeter
}

// run does the job, and writes down how it ended; ctx is the gateway's, r.ctx the job's.
func (r *jobRun) run(ctx context.Context) {
	log := r.coordinator.gateway.log.With("job", r.job.ID)
	j, err := r.coordinator.claim(ctx, r.job.ID)
	if err != nil {
		return // another was quicker, or etcd is away: it is looked at again
	}
	r.job = j
	log.InfoContext(ctx, "coordinating a job")
	if err = r.load(ctx); err == nil {
		if j.Aborting {
			r.cancel(errAborted)
		}
		err = r.work(r.ctx) //nolint:contextcheck // made of ctx when the job was taken
	}
	if ctx.Err() != nil || errors.Is(err, jobs.ErrTaken) {
		log.InfoContext(ctx, "the job is left to another gateway", "reason", err)
		return
	}
	if errors.Is(context.Cause(r.ctx), errAborted) { //nolint:contextcheck // likewise
		err = errAborted
	}
	if err != nil {
		r.stop(ctx)
	}
	r.end(ctx, err)
	log.InfoContext(ctx, "job ended", "state", r.job.State, "error", err, "done", r.job.Counts.Done,
		"skipped", r.job.Counts.Skipped, "failed", r.job.Counts.Failed)
}

// patiently repeats what the control plane may not answer just now.
func patiently(ctx context.Context, call func() error) error {
	for {
		err := call()
		var away *membership.UnavailableError
		if err == nil || !errors.As(err, &away) {
			return err
		}
		if !pauseFor(ctx, retryJob) {
			return context.Cause(ctx)
		}
	}
}

// load reads how far the job is.
func (r *jobRun) load(ctx context.Context) error {
	folder := r.coordinator.folder()
	r.waiting = map[string][]string{}
	if err := patiently(ctx, func() (err error) { r.progress, err = folder.Progress(ctx, r.job.ID); return err }); err != nil {
		return err
	}
	var list []api.JobFailure
	if err := patiently(ctx, func() (err error) { list, err = folder.Failures(ctx, r.job.ID); return err }); err != nil {
		return err
	}
	for _, failure := range list {
		r.failures.Add(failure)
	}
	var err error
	switch r.job.Kind {
	case api.JobScrub:
		_, err = jobs.ParseScrub(r.job.JobSpec)
		r.patience = scrubPatience
		return err
	case api.JobPrefetch, api.JobEvict:
		r.content, err = jobs.ParseContent(r.job.JobSpec)
		r.patience = jobs.DefaultPatience
		return err
	}
	if r.transform, err = jobs.ParseTransform(r.job.JobSpec, ""); err == nil {
		r.patience, r.maxErrors = r.transform.Patience(), r.transform.MaxErrors
	}
	return err
}

// work counts the objects, then has every target do its part. A part is all objects that a target is the primary of, so
// the parts are of one ring (see api.Placer.Ring); when that changes, they begin anew: what was stored until then is
// found by the marks of the outputs, and counts as done.
func (r *jobRun) work(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	working, finished := context.WithCancel(ctx)
	group.Go(func() error { return r.persist(working) })
	group.Go(func() error {
		defer finished()
		if r.content != nil {
			return r.moveContent(ctx)
		}
		if err := r.count(ctx); err != nil {
			return err
		}
		return r.rounds(ctx)
	})
	return group.Wait()
}

// count lists the source before anything is done: a job that can't be done as a whole is not begun.
func (r *jobRun) count(ctx context.Context) error {
	if r.progress.Counted || r.transform == nil {
		return nil
	}
	since := time.Now()
	for {
		e, err := r.coordinator.gateway.ETL(ctx, r.transform.ETL)
		var plan api.JobPlan
		if err == nil {
			if r.transform, err = jobs.ParseTransform(r.job.JobSpec, e.Level); err == nil {
				err = r.coordinator.gateway.planTransform(ctx, r.transform, &plan)
			}
		}
		if err == nil {
			r.mu.Lock()
			r.progress.Counted, r.progress.Total, r.progress.TotalBytes = true, plan.Objects, plan.Bytes
			r.dirty = true
			delete(r.waiting, "")
			r.mu.Unlock()
			return nil
		}
		answer := AsError(err)
		if answer.Code != api.CodeUnavailable || time.Since(since) > r.transform.Patience() {
			return err
		}
		r.wait("", answer.Message)
		if !pauseFor(ctx, retryJob) {
			return ctx.Err()
		}
	}
}

func (r *jobRun) wait(node string, reasons ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(r.waiting[node], reasons) {
		r.waiting[node] = reasons
		r.dirty = true
	}
}

// follow has one target do its part: it asks how far that is until it is done.
func (r *jobRun) follow(ctx context.Context, id string) error {
	run, seen, since := "", 0, time.Now()
	for pause := firstAsk; ; pause = min(2*pause, lastAsk) {
		report, err := r.ask(ctx, id, run, seen)
		switch {
		case err == nil:
			if report.Run != run {
				run, seen = report.Run, 0
			}
			seen += len(report.Failures)
			since = time.Now()
			if err := r.apply(id, report); err != nil || report.Part.Done {
				return err
			}
		case ctx.Err() != nil:
			return ctx.Err()
		case AsError(err).Code != api.CodeUnavailable && AsError(err).Code != api.CodeBusy || time.Since(since) > r.patience:
			return err
		default:
			r.wait(id, AsError(err).Message)
			pause = lastAsk
		}
		if !pauseFor(ctx, pause) {
			return ctx.Err()
		}
	}
}

func (r *jobRun) ask(ctx context.Context, id, run string, seen int) (*jobs.PartReport, error) {
	g := r.coordinator.gateway
	m := g.members.View().Map()
	node, ok := m.Node(id)
	if !ok || node.State != api.StateOK {
		return nil, api.Errorf(http.StatusServiceUnavailable, api.CodeUnavailable, "target %s is down; its objects wait for it", id)
	}
	r.mu.Lock()
	from, ring := r.progress.Parts[id], r.progress.Ring
	r.mu.Unlock()
	body, err := json.Marshal(jobs.PartRequest{Spec: r.job.JobSpec, ETLVersion: r.job.ETLVersion, Ring: ring, From: from, Run: run, Seen: seen})
	if err != nil {
		return nil, err
	}
	var report jobs.PartReport
	path := r.path("part")
	err = g.ask(ctx, partTimeout, node, http.MethodPost, path, nil, bytes.NewReader(body), &report)
	return &report, err
}

// apply takes over what a target reports; an error of its ends the job.
func (r *jobRun) apply(id string, report *jobs.PartReport) error {
	r.wait(id, report.Waiting...)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.progress.Parts[id] != report.Part {
		r.progress.Parts[id] = report.Part
		r.dirty = true
	}
	for _, failure := range report.Failures {
		if r.failures.Add(failure) {
			r.unwritten = true
		}
	}
	if report.Error != nil {
		return report.Error
	}
	r.sum()
	counts := r.progress.Counts()
	if most := r.maxErrors; most != nil && counts.Failed > *most {
		return api.Errorf(http.StatusUnprocessableEntity, api.CodeTooManyErrs, "%d objects failed, more than max_errors (%d) allows; `shardstream job show %s --failures` lists them", counts.Failed, *most, r.job.ID)
	}
	return nil
}

// persist writes the progress down, at most once a second.
func (r *jobRun) persist(ctx context.Context) error {
	for pause := persistEvery; pauseFor(ctx, pause); {
		size, err := r.write(ctx)
		if errors.Is(err, jobs.ErrTaken) {
			return err
		}
		if err != nil && ctx.Err() == nil {
			r.coordinator.gateway.log.WarnContext(ctx, "a job's progress could not be written down; trying on", "job", r.job.ID, "error", err)
		}
		pause = persistEvery * time.Duration(1+size/persistSize)
	}
	return nil
}

// write writes down what has changed, failures before the counts that include them.
func (r *jobRun) write(ctx context.Context) (size int, err error) {
	r.mu.Lock()
	counts := r.progress.Counts()
	r.progress.Rate = r.rate.add(time.Now(), counts)
	r.progress.Waiting = r.reasons()
	p := *r.progress
	p.Parts = make(map[string]jobs.Part, len(r.progress.Parts))
	for id, part := range r.progress.Parts {
		p.Parts[id] = part
		size += len(id) + len(part.Cursor) + 100
	}
	dirty, list := r.dirty || r.rate.moving(), []api.JobFailure(nil)
	if r.unwritten {
		list = append([]api.JobFailure{}, r.failures.List...) // perhaps none any more
	}
	r.dirty, r.unwritten = false, false
	r.mu.Unlock()
	folder := r.coordinator.folder()
	if list != nil {
		err = folder.PutFailures(ctx, r.job.ID, list)
	}
	if err == nil && dirty {
		err = folder.PutProgress(ctx, r.job.ID, r.coordinator.gateway.id, &p)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.progress.Written(&p)
	if err != nil {
		r.dirty, r.unwritten = true, r.unwritten || list != nil
	}
	return size, err
}

// reasons are what the job waits for. The caller holds mu.
func (r *jobRun) reasons() (list []string) {
	for _, reasons := range r.waiting {
		for _, reason := range reasons {
			if !slices.Contains(list, reason) && len(list) < 20 {
				list = append(list, reason)
			}
		}
	}
	slices.Sort(list)
	return list
}

// stop has the targets end their parts. Those that fetch or evict end by themselves what they were asked for last.
func (r *jobRun) stop(ctx context.Context) {
	if r.content != nil {
		return
	}
	g := r.coordinator.gateway
	path := r.path("stop")
	g.eachTarget(func(_ int, node api.Node) {
		if err := g.Ask(ctx, stopTimeLimit, node, http.MethodPost, path, nil, nil); err != nil {
			g.log.WarnContext(ctx, "a target may still have an object of an ended job in hand", "job", r.job.ID, "target", node.ID, "error", err)
		}
	}, g.upTargets())
}

// end writes down how the job ended.
func (r *jobRun) end(ctx context.Context, cause error) {
	folder := r.coordinator.folder()
	log := r.coordinator.gateway.log.With("job", r.job.ID)
	write := func() error { _, err := r.write(ctx); return err }
	if r.progress != nil {
		if err := patiently(ctx, write); err != nil {
			log.WarnContext(ctx, "the end of a job is left to another gateway", "error", err)
			return
		}
	}
	now := time.Now().UTC()
	err := patiently(ctx, func() error {
		j, err := folder.Update(ctx, r.job.ID, func(j *api.Job) error {
			if j.Runner != r.coordinator.gateway.id || j.Finished() {
				return jobs.ErrTaken
			}
			r.finish(j, now, cause)
			return nil
		})
		if err == nil { // else it is no job
			r.job = j
		}
		return err
	})
	if err == nil {
		err = folder.DropProgress(ctx, r.job.ID)
	}
	if err != nil && ctx.Err() == nil {
		log.WarnContext(ctx, "the end of a job could not be written down", "error", err)
	}
}

func (r *jobRun) finish(j *api.Job, now time.Time, cause error) {
	j.Ended, j.State = &now, api.JobDone
	if r.progress != nil {
		j.Counts = r.progress.Counts()
	}
	if took := now.Sub(*j.Started).Seconds(); took > 0 {
		j.Rate = api.JobRate{Objects: float64(j.Counts.Finished()) / took, Bytes: float64(j.Counts.BytesIn) / took}
	}
	switch {
	case errors.Is(cause, errAborted):
		j.State = api.JobAborted
	case cause != nil:
		j.State, j.Error = api.JobFailed, AsError(cause)
		if j.Error.Code == api.CodeInternal {
			j.Error = jobs.AsError(cause)
		}
	}
}

func pauseFor(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
