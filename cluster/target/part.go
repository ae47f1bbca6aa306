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
	firstRetry   = 200 * time.Millisecond
	lastRetry    = 5 * time.Second
	retryTick    = 100 * time.Millisecond
	maxArchives  = 4 // archives that are transformed at a time, each by all workers
	partAskEvery = time.Second
)

var errPartStopped = errors.New("the job was stopped")

// part is this target's part of one job, at work.
type part struct {
	jobs      *Jobs
	id        string
	transform *jobs.Transform
	version   int64 // of the transformation
	args      etl.Args

	ctx    context.Context //nolint:containedctx // the part's own: it outlives the request that began it
	cancel context.CancelCauseFunc
	ended  chan struct{} // closed when nothing is under way any more
	runID  string

	work     chan *item
	again    chan *item    // postponed ones whose time has come
	complete chan struct{} // closed when all objects are dealt with
	slots    chan struct{} // one for each object of the window

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
		jobs: j, id: id, transform: transform, version: request.ETLVersion, runID: newRun(), at: request.From,
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
	rt, err := p.runtime(ctx)
	if err != nil {
		return err
	}
	definition := rt.Definition()
	p.transform.Level = definition.Level
	if p.args, err = definition.MergeArgs(p.transform.Args); err != nil {
		return api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "%v", err)
	}
	if err := rt.Prepare(ctx); err != nil {
		return err
	}
	workers := max(rt.Stats().Workers, definition.Workers)
	if workers == 0 {
		workers = runtime.NumCPU()
	}
	if definition.Level != etl.LevelObject {
		workers = min(workers, maxArchives)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return p.list(ctx) })
	group.Go(func() error { return p.retry(ctx) })
	for range workers {
		group.Go(func() error { return p.worker(ctx) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return errPartDone
}

// list begins the objects that lie here, in the order of their names.
func (p *part) list(ctx context.Context) error {
	pattern := p.transform.Pattern
	after, since := p.at.Cursor, time.Now()
	for {
		infos, more, err := p.jobs.target.store.List(pattern.Bucket, pattern.Prefix, after, partPage)
		if err != nil {
			p.setStuck("target " + p.jobs.target.id + " can't list its objects: " + err.Error())
			if time.Since(since) > p.transform.Patience() || !sleepFor(ctx, lastRetry) {
				return err
			}
			continue
		}
		p.setStuck("")
		for i := range infos {
			after, since = infos[i].Name, time.Now()
			if !pattern.Match(after) {
				continue
			}
			it := &item{name: after, archived: infos[i].Archive != ""}
			if it.out, err = p.transform.Output(it.name, it.archived); err != nil {
				if answer := jobs.AsError(err); answer.Code != api.CodeBadName {
					return err
				}
			}
			if !p.begin(ctx, it, err, infos[i].Size) {
				return ctx.Err()
			}
		}
		if !more {
			break
		}
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

func (p *part) postpone(it *item, err error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if it.retries == 0 {
		it.since = now
	} else if now.Sub(it.since) > p.transform.Patience() {
		return api.Errorf(http.StatusServiceUnavailable, api.CodeUnavailable, "%s has waited for %v: %v",
			api.Address(p.transform.Pattern.Bucket, it.name), p.transform.Patience(), err)
	}
	it.due = now.Add(min(firstRetry<<min(it.retries, 10), lastRetry))
	it.retries++
	it.reason = etlError(api.Address(p.transform.Pattern.Bucket, it.name), err).Message
	p.waiting = append(p.waiting, it)
	return nil
}

// retry gives postponed objects to the workers again when their time has come.
func (p *part) retry(ctx context.Context) error {
	tick := time.NewTicker(retryTick)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-p.complete:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
		for _, it := range p.due(time.Now()) {
			select {
			case p.again <- it:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

func (p *part) due(now time.Time) (list []*item) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting = slices.DeleteFunc(p.waiting, func(it *item) bool {
		if now.Before(it.due) {
			return false
		}
		list = append(list, it)
		return true
	})
	return list
}

// finish notes what became of an object, and counts those up to the first that is not dealt with.
func (p *part) finish(it *item, o *outcome) {
	switch o.result {
	case "":
	case telemetry.JobObjectDone, telemetry.JobObjectFailed:
		p.jobs.meter.Object(api.JobTransform, o.result, o.in, o.out)
	default: // nothing was read or made
		p.jobs.meter.Object(api.JobTransform, o.result, 0, 0)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	it.outcome = o
	p.left--
	for len(p.window) > 0 && p.window[0].outcome != nil {
		p.count(p.window[0])
		p.window[0] = nil
		p.window = p.window[1:]
		<-p.slots
	}
	p.finishIfAll()
}

func (p *part) count(it *item) {
	o := it.outcome
	p.at.Cursor = it.name
	switch o.result {
	case "":
		return
	case telemetry.JobObjectDone, telemetry.JobObjectFound:
		p.at.Stored++
	case telemetry.JobObjectSkipped:
		p.at.Skipped++
	default:
		p.at.Failed++
		p.failures.Add(api.JobFailure{
			Object: api.Address(p.transform.Pattern.Bucket, it.name), Node: p.jobs.target.id, Error: o.failure,
		})
	}
	p.at.BytesIn += o.in
	p.at.BytesOut += o.out
}

func (p *part) finishIfAll() {
	if p.listed && p.left == 0 && !p.at.Done {
		p.at.Done = true
		close(p.complete)
	}
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
