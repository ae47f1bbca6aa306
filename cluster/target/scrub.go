package target

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/copies"
	"github.com/shardstream/shardstream/cluster/jobs"
	"github.com/shardstream/shardstream/core/store"
)

// scrubBurst is the least that a scrub may read at once, whatever its rate.
const scrubBurst = 4 << 20

// ScrubConfig says how scrubs go about it here.
type ScrubConfig struct {
	Rate int64 // bytes a second; 0: as fast as the disks are
}

// Scrubs reads and verifies what lies on this target, and replaces what is damaged by good copies of others, for the
// gateways that coordinate such jobs.
type Scrubs struct {
	target *Target
	config ScrubConfig

	mu      sync.Mutex
	running map[string]*scrub // by job
	stopped bool
	work    sync.WaitGroup
}

// NewScrubs adds the routes that gateways use. Call it before Serve, and Wait after it, while the store is still open.
func NewScrubs(t *Target, c ScrubConfig) *Scrubs {
	s := &Scrubs{target: t, config: c, running: map[string]*scrub{}}
	t.Handle(http.MethodPost, "/v1/internal/scrubs/{id}/part", s.postPart)
	t.Handle(http.MethodPost, "/v1/internal/scrubs/{id}/stop", s.postStop)
	return s
}

// Wait returns when all have ended, which they do with the target's context.
func (s *Scrubs) Wait() {
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
	s.work.Wait()
}

// scrub is this target's part of one job, at work.
type scrub struct {
	scrubs *Scrubs
	id     string
	bucket string
	runID  string

	ctx    context.Context //nolint:containedctx // the part's own: it outlives the request that began it
	cancel context.CancelFunc
	ended  chan struct{}

	mu       sync.Mutex
	at       jobs.Part
	failures jobs.Failures
	failed   *api.Error
	asked    time.Time
}

// postPart begins the target's part of a scrub where it is not at work on it, and says how far it is.
func (s *Scrubs) postPart(r *Request) error {
	var request jobs.PartRequest
	if err := r.JSON(maxPartRequest, &request); err != nil {
		return err
	}
	p, err := s.part(r.Param("id"), &request)
	if err != nil {
		return err
	}
	return r.WriteJSON(http.StatusOK, p.report(&request))
}

func (s *Scrubs) part(id string, request *jobs.PartRequest) (*scrub, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped || s.target.Context().Err() != nil {
		return nil, unavailable("target %s is stopping", s.target.id)
	}
	if p := s.running[id]; p != nil {
		if p.ctx.Err() != nil {
			return nil, unavailable("target %s is bringing its part of job %s to an end; try again", s.target.id, id)
		}
		return p, nil
	}
	spec, err := jobs.ParseScrub(request.Spec)
	if err != nil {
		return nil, err
	}
	p := &scrub{scrubs: s, id: id, bucket: spec.Bucket, runID: newRun(), ended: make(chan struct{}), at: request.From, asked: time.Now()}
	p.at.Done = false
	if p.at.Total == 0 {
		if p.at.Total, err = p.count(); err != nil {
			return nil, err
		}
	}
	p.ctx, p.cancel = context.WithCancel(s.target.Context())
	s.running[id] = p
	s.work.Go(func() {
		p.run()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.running, id)
	})
	return p, nil
}

// postStop ends the target's part of a scrub.
func (s *Scrubs) postStop(r *Request) error {
	s.mu.Lock()
	p := s.running[r.Param("id")]
	s.mu.Unlock()
	if p != nil {
		p.cancel()
		select {
		case <-p.ended:
		case <-r.Context().Done():
			return context.Cause(r.Context())
		}
	}
	r.SetStatusCode(http.StatusNoContent)
	return nil
}

// count is the number of copies that there are to read.
func (p *scrub) count() (int64, error) {
	t := p.scrubs.target
	var n int64
	for _, b := range t.members.View().Buckets() {
		if p.bucket != "" && b.Name != p.bucket {
			continue
		}
		for last, more := "", true; more; {
			infos, next, err := t.store.ListAll(b.Name, "", last, maxPage)
			if err != nil && !errors.Is(err, store.ErrDiskFailed) {
				return 0, err
			}
			if more = next && len(infos) > 0; more {
				last = infos[len(infos)-1].Name
			}
			for i := range infos {
				if infos[i].Kind != store.Tombstone {
					n++
				}
			}
		}
		for last, more := (store.SliceKey{}), true; more; {
			infos, next, err := t.store.ListSlices(b.Name, last, maxPage)
			if err != nil && !errors.Is(err, store.ErrDiskFailed) {
				return 0, err
			}
			if more = next && len(infos) > 0; more {
				last = sliceKeyOf(infos[len(infos)-1])
			}
			n += int64(len(infos))
		}
	}
	return n, nil
}

func sliceKeyOf(i store.Info) store.SliceKey {
	return store.SliceKey{Bucket: i.Bucket, Name: i.Name, Version: i.Version, Slice: i.Slice}
}

// run reads all that is left. What came of it can be asked for a while afterwards.
func (p *scrub) run() {
	defer p.cancel()
	o := store.ScrubOptions{Bucket: p.bucket, After: p.at.Cursor}
	if bytes := p.scrubs.config.Rate; bytes > 0 {
		o.Pace = rate.NewLimiter(rate.Limit(bytes), int(max(scrubBurst, min(bytes, 1<<30))))
	}
	err := p.scrubs.target.store.Scrub(p.ctx, o, p.visit)
	p.mu.Lock()
	switch {
	case err == nil:
		p.at.Done = true
	case p.ctx.Err() == nil:
		p.failed = AsError(err)
		p.scrubs.target.log.ErrorContext(p.ctx, "a scrub failed here", "job", p.id, "error", err)
	}
	p.mu.Unlock()
	close(p.ended)
	for p.ctx.Err() == nil && !p.forgotten() {
		sleepFor(p.ctx, partAskEvery)
	}
}

func (p *scrub) forgotten() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Since(p.asked) > partIdle
}

// visit takes note of a copy that was read, and has it replaced where it is damaged.
func (p *scrub) visit(s store.Scrubbed) error {
	if p.forgotten() { // its gateway is gone; the next one has it go on
		p.cancel()
		return context.Canceled
	}
	var failure *api.Error
	if s.Err != nil {
		if err := p.repair(s); err != nil {
			failure = AsError(err)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at.Cursor = s.Cursor
	p.at.BytesIn += s.Info.Payload()
	switch {
	case failure != nil:
		p.at.Failed++
		p.failures.Add(api.JobFailure{Object: api.Address(s.Info.Bucket, s.Info.Name), Node: p.scrubs.target.id, Error: failure})
	case s.Err != nil:
		p.at.Repaired++
		p.at.Stored++
	default:
		p.at.Stored++
	}
	return nil
}

// repair replaces a damaged copy.
func (p *scrub) repair(s store.Scrubbed) error {
	t := p.scrubs.target
	i := s.Info
	t.log.WarnContext(p.ctx, "scrub: a damaged copy", "object", api.Address(i.Bucket, i.Name), "version", i.Version, "disk", i.Disk, "error", s.Err)
	t.metrics.CorruptRead(i.Disk)
	var err error
	switch {
	case i.Version == 0: // its entry in the index can't be read
		return s.Err
	case i.Kind == store.Slice: // made anew of the others in a moment
		t.slices.Damaged(sliceKeyOf(i), s.Err)
	case copies.StateOf(i).Elsewhere(): // it is made of its slices, or fetched from its origin, when it is read
		err = t.store.Quarantine(p.ctx, i.Bucket, i.Name, i.Version)
		t.cache.Replaced(i.Bucket, i.Name)
	default:
		err = t.Mend(p.ctx, i.Bucket, i.Name, i.Version)
	}
	if err != nil {
		return errors.Join(s.Err, err)
	}
	return nil
}

func (p *scrub) report(request *jobs.PartRequest) *jobs.PartReport {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = time.Now()
	report := &jobs.PartReport{Run: p.runID, Part: p.at, Error: p.failed}
	seen := 0
	if request.Run == p.runID {
		seen = min(max(request.Seen, 0), len(p.failures.List))
	}
	report.Failures = p.failures.List[seen:]
	return report
}
