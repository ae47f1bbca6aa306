package gateway

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/backend"
)

const (
	// openPatience is how long anybody waits for an answer while shards are described at their backend: then they are told
	// how far it is, and to ask again.
	openPatience = 10 * time.Second
	// openLease is how long that work goes on, and its result is kept, with nobody waiting for it.
	openLease = time.Minute
)

// progress counts what is described at backends for a stream.
type progress struct{ all, done atomic.Int64 }

func (p *progress) found(n int) {
	if p != nil {
		p.all.Add(int64(n))
	}
}

func (p *progress) described(n int) {
	if p != nil {
		p.done.Add(int64(n))
	}
}

// opens lets those who open the same sources at a time share the work: the ranks of a job all do when
// an epoch begins. Nobody gets an answer that was begun before they asked, so what was put before is
// in it; who comes while the work is under way shares the next run of it.
//
// Describing the shards of a backend may take longer than anybody should wait for one answer: whoever is told to ask again
// joins the run that is under way, and so does who comes then.
type opens struct {
	mu      sync.Mutex
	active  map[string]bool     // sources that are being worked on
	waiting map[string]*opening // the run to come, by sources
	long    map[string]*opening // the run that somebody was told to ask for again
}

// opening is one run of the work.
type opening struct {
	ctx      context.Context //nolint:containedctx // of all who wait for it
	cancel   context.CancelFunc
	askers   int
	progress progress
	lease    *time.Timer // of a long run
	done     chan struct{}
	info     *api.StreamInfo
	err      error
}

type openWork func(ctx context.Context, p *progress) (*api.StreamInfo, error)

// do returns the result of a run of the work that begins after the call. The work goes on as long as
// anybody waits for it. The result is shared: it must not be changed.
func (o *opens) do(ctx context.Context, key string, work openWork) (*api.StreamInfo, error) {
	run := o.join(ctx, key, work)
	patience := time.NewTimer(openPatience)
	defer patience.Stop()
	for {
		select {
		case <-run.done:
			o.leave(key, run)
			return run.info, run.err
		case <-patience.C:
			if run.progress.all.Load() == 0 { // nothing at a backend, so far
				patience.Reset(openPatience)
				continue
			}
			o.putOff(key, run)
			return nil, api.Errorf(http.StatusServiceUnavailable, api.CodeDescribing,
				"the stream's shards are being described at their backend, %d of the %d listed so far are; ask again in a moment",
				run.progress.done.Load(), run.progress.all.Load())
		case <-ctx.Done():
			if run.progress.all.Load() > 0 {
				o.putOff(key, run) // a client of less patience; it will be back
			} else {
				o.leave(key, run)
			}
			return nil, context.Cause(ctx)
		}
	}
}

func (o *opens) join(ctx context.Context, key string, work openWork) *opening {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.active == nil {
		o.active, o.waiting, o.long = make(map[string]bool), make(map[string]*opening), make(map[string]*opening)
	}
	if run := o.long[key]; run != nil {
		run.askers++
		return run
	}
	run := o.waiting[key]
	if run == nil {
		run = &opening{done: make(chan struct{})}
		run.ctx, run.cancel = context.WithCancel(backend.WithVia(context.WithoutCancel(ctx), nil)) // it is for others, too
		o.waiting[key] = run
		if !o.active[key] {
			o.active[key] = true
			go o.work(key, work)
		}
	}
	run.askers++
	return run
}

// leave takes an asker away who has the answer, or gives up.
func (o *opens) leave(key string, run *opening) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.long[key] == run {
		select {
		case <-run.done: // who comes from now on gets a new one
			delete(o.long, key)
			run.lease.Stop()
		default:
		}
	}
	if run.askers--; run.askers > 0 || o.long[key] == run {
		return
	}
	run.cancel()
	if o.waiting[key] == run { // whoever comes now is not to join what was given up
		delete(o.waiting, key)
	}
}

// putOff takes an asker away who will be back. Until then, but not for long, the run goes on by itself.
func (o *opens) putOff(key string, run *opening) {
	o.mu.Lock()
	defer o.mu.Unlock()
	run.askers--
	switch o.long[key] {
	case nil:
		o.long[key] = run
		run.lease = time.AfterFunc(openLease, func() { o.expire(key, run) })
	case run:
		run.lease.Reset(openLease)
	}
}

// expire ends a long run to which nobody has come back.
func (o *opens) expire(key string, run *opening) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.long[key] != run {
		return
	}
	if run.askers > 0 {
		run.lease.Reset(openLease)
		return
	}
	delete(o.long, key)
	run.cancel()
}

// work runs until nobody has come meanwhile.
func (o *opens) work(key string, work openWork) {
	for {
		o.mu.Lock()
		run := o.waiting[key]
		delete(o.waiting, key)
		if run == nil {
			delete(o.active, key)
			o.mu.Unlock()
			return
		}
		o.mu.Unlock()
		run.info, run.err = work(run.ctx, &run.progress)
		close(run.done)
		run.cancel()
	}
}
