package target

import (
	"context"
	"errors"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/jobs"
	"github.com/shardstream/shardstream/cluster/telemetry"
	"github.com/shardstream/shardstream/etl"
)

// Bounds of a part at work.
const (
	// partWindow is how many objects lie between the first that is not dealt with and the last that was begun: while
	// one waits for a node that is away, so many others go on.
	partWindow   = 32 << 10
	partPage     = 1000
	maxWaiting   = 5 // reasons that are shown
	maxArchives  = 4 // archives that are transformed at a time, each by all workers
	partAskEvery = time.Second
)

var errPartStopped = errors.New("the job was stopped")

// part is this target's part of one job, at work.
type part struct {
	jobs      *Jobs
	id        string
	transform *jobs.Transform
	version   int64  // of the transformation
	ring      string // that the part is of
	args      etl.Args

	ctx    context.Context //nolint:containedctx // the part's own: it outlives the request that began it
	cancel context.CancelCauseFunc
	ended  chan struct{} // closed when nothing is under way any more
	runID  string

	work     chan *item
	again    chan *item    // postponed ones whose time has come
	complete chan struct{} // closed when all objects are dealt with
	slots    chan struct{} // one for each object of the window

	producing chan struct{} // one for each object that is being transformed

	mu       sync.Mutex
	at       jobs.Part
	window   []*item // in the order of their names, the first not dealt with
	waiting  []*item // postponed
	left     int     // objects begun and not dealt with
	listed   bool    // the last object was begun
	stuck    string  // why the listing waits
	failures jobs.Failures
	failed   *api.Error
	asked    time.Time
}

// item is one object on its way.
type item struct {
	name, out string
	archived  bool
	outcome   *outcome // nil until it is dealt with

	retries int
	since   time.Time // of the first retry
	due     time.Time
	reason  string // of the last
}

// outcome is what became of an object.
type outcome struct {
	result  string // telemetry.JobObjectDone, ...; empty: it is not of this part
	in, out int64
	failure *api.Error
}

func newPart(j *Jobs, id string, request *jobs.PartRequest) (*part, error) {
	transform, err := jobs.ParseTransform(request.Spec, "")
	if err != nil {
		return nil, err
	}
	p := &part{
		jobs: j, id: id, transform: transform, version: request.ETLVersion, ring: request.Ring, runID: newRun(), at: request.From,
		ended: make(chan struct{}), work: make(chan *item), again: make(chan *item), complete: make(chan struct{}),
		slots: make(chan struct{}, partWindow), asked: time.Now(),
	}
	p.at.Done = false
	p.ctx, p.cancel = context.WithCancelCause(j.target.Context())
	return p, nil
}

// run works until all is done or the part is stopped. What came of it can be asked for a while afterwards.
func (p *part) run() {
	defer p.cancel(nil)
	group, ctx := errgroup.WithContext(p.ctx)
	group.Go(func() error { return p.process(ctx) })
	group.Go(func() error { return p.watch(ctx) })
	err := group.Wait()
	p.mu.Lock()
	if err != nil && !errors.Is(err, errPartDone) && p.ctx.Err() == nil {
		p.failed = etlError("target "+p.jobs.target.id, err)
		p.jobs.target.log.ErrorContext(p.ctx, "a job failed here", "job", p.id, "error", err)
	}
	p.mu.Unlock()
	close(p.ended)
	for p.ctx.Err() == nil && !p.forgotten() {
		sleepFor(p.ctx, partAskEvery)
	}
}

var errPartDone = errors.New("the part is done")

// watch ends the part where nobody asks for it any more.
func (p *part) watch(ctx context.Context) error {
	for sleepFor(ctx, partAskEvery) {
		if p.forgotten() {
			p.jobs.target.log.WarnContext(ctx, "a job stops here until a gateway goes on with it", "job", p.id)
			p.cancel(errPartStopped)
		}
	}
	return nil
}

func (p *part) forgotten() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Since(p.asked) > partIdle
}

// process deals with all objects; errPartDone at the end.
func (p *part) process(ctx context.Context) error {
	rt, err := p.bringUp(ctx)
	if err != nil {
		return err
	}
	definition := rt.Definition()
	p.transform.Level = definition.Level
	if p.args, err = definition.MergeArgs(p.transform.Args); err != nil {
		return api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "%v", err)
	}
	workers := max(rt.Stats().Workers, definition.Workers)
	if workers == 0 {
		workers = runtime.NumCPU()
	}
	if definition.Level != etl.LevelObject {
		workers = min(workers, maxArchives)
	}
	p.producing = make(chan struct{}, workers)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return p.list(ctx) })
	group.Go(func() error { return p.retry(ctx) })
	for range 2 * workers { // while the outputs of some are stored, others are transformed
		group.Go(func() error { return p.worker(ctx) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return errPartDone
}

// bringUp makes the transformation ready, and waits where it is not yet: a node that has just come back may have to build
// its environment anew.
func (p *part) bringUp(ctx context.Context) (etl.Runtime, error) {
	p.setStuck("target " + p.jobs.target.id + " brings etl " + p.transform.ETL + " up")
	for since := time.Now(); ; {
		rt, err := p.runtime(ctx)
		if err == nil {
			err = rt.Prepare(ctx)
		}
		switch {
		case err == nil:
			return rt, nil
		case ctx.Err() != nil, !passes(err), time.Since(since) > p.transform.Patience():
			return nil, err
		}
		p.setStuck(etlError("target "+p.jobs.target.id, err).Message)
		if !sleepFor(ctx, lastRetry) {
			return nil, ctx.Err()
		}
	}
}

// list begins the objects that this target is the primary of, in the order of their names.
func (p *part) list(ctx context.Context) error {
	after, since := p.at.Cursor, time.Now()
	for more := true; more; {
		page, err := p.page(ctx, after)
		if err != nil {
			p.setStuck("target " + p.jobs.target.id + " can't list its objects: " + err.Error())
			if time.Since(since) > p.transform.Patience() || !sleepFor(ctx, lastRetry) {
				return err
			}
			continue
		}
		p.setStuck("")
		since = time.Now()
		for i := range page.entries {
			e := &page.entries[i]
			it := &item{name: e.name, archived: e.archived}
			if it.out, err = p.transform.Output(it.name, it.archived); err != nil {
				if answer := jobs.AsError(err); answer.Code != api.CodeBadName {
					return err
				}
			}
			if !p.begin(ctx, it, err, e.size) {
				return ctx.Err()
			}
		}
		after, more = page.last, page.more
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.listed = true
	p.finishIfAll()
	return nil
}

// begin hands an object to the workers; one whose output can't be named is dealt with at once.
func (p *part) begin(ctx context.Context, it *item, fault error, size int64) bool {
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	p.mu.Lock()
	p.window = append(p.window, it)
	p.left++
	p.mu.Unlock()
	if fault != nil {
		p.finish(it, &outcome{result: telemetry.JobObjectFailed, in: size, failure: jobs.AsError(fault)})
		return true
	}
	select {
	case p.work <- it:
		return true
	case <-ctx.Done():
		return false
	}
}

// worker deals with objects, one at a time.
func (p *part) worker(ctx context.Context) error {
	for {
		var it *item
		select {
		case it = <-p.again:
		case it = <-p.work:
		case <-p.complete:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
		result, err := p.do(ctx, it)
		switch {
		case err == nil:
			p.finish(it, result)
		case ctx.Err() != nil:
			return ctx.Err()
		case !passes(err):
			return err
		default:
			if err := p.postpone(it, err); err != nil {
				return err
			}
		}
	}
}

// passes tells what a node that is away, or busy, causes.
func passes(err error) bool {
	if errors.Is(err, etl.ErrNoPython) {
		return false
	}
	answer := etlError("", err)
	return answer.Code == api.CodeUnavailable || answer.Code == api.CodeBusy
}

func (p *part) setStuck(why string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stuck = why
}

// report says how far the part is.
func (p *part) report(request *jobs.PartRequest) *jobs.PartReport {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = time.Now()
	report := &jobs.PartReport{Run: p.runID, Part: p.at, Error: p.failed, Failures: p.failures.List}
	if request.Run == p.runID {
		report.Failures = report.Failures[min(request.Seen, len(report.Failures)):]
	}
	if p.stuck != "" {
		report.Waiting = append(report.Waiting, p.stuck)
	}
	for _, it := range p.waiting {
		if len(report.Waiting) < maxWaiting && !slices.Contains(report.Waiting, it.reason) {
			report.Waiting = append(report.Waiting, it.reason)
		}
	}
	return report
}

// sleepFor says whether the time went by before the context ended.
func sleepFor(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
