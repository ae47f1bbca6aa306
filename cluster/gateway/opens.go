package gateway

import (
	"context"
	"sync"

	"github.com/shardstream/shardstream/cluster/api"
)

// opens lets those who open the same sources at a time share the work: the ranks of a job all do when
// an epoch begins. Nobody gets an answer that was begun before they asked, so what was put before is
// in it; who comes while the work is under way shares the next run of it.
type opens struct {
	mu      sync.Mutex
	active  map[string]bool     // sources that are being worked on
	waiting map[string]*opening // the run to come, by sources
}

// opening is one run of the work.
type opening struct {
	ctx    context.Context //nolint:containedctx // of all who wait for it
	cancel context.CancelFunc
	askers int
	done   chan struct{}
	info   *api.StreamInfo
	err    error
}

// do returns the result of a run of the work that begins after the call. The work goes on as long as
// anybody waits for it. The result is shared: it must not be changed.
func (o *opens) do(ctx context.Context, key string, work func(context.Context) (*api.StreamInfo, error)) (*api.StreamInfo, error) {
	run := o.join(ctx, key, work)
	select {
	case <-run.done:
		return run.info, run.err
	case <-ctx.Done():
		o.leave(key, run)
		return nil, context.Cause(ctx)
	}
}

func (o *opens) join(ctx context.Context, key string, work func(context.Context) (*api.StreamInfo, error)) *opening {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.active == nil {
		o.active, o.waiting = make(map[string]bool), make(map[string]*opening)
	}
	run := o.waiting[key]
	if run == nil {
		run = &opening{done: make(chan struct{})}
		run.ctx, run.cancel = context.WithCancel(context.WithoutCancel(ctx))
		o.waiting[key] = run
		if !o.active[key] {
			o.active[key] = true
			go o.work(key, work)
		}
	}
	run.askers++
	return run
}

func (o *opens) leave(key string, run *opening) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if run.askers--; run.askers > 0 {
		return
	}
	run.cancel()
	if o.waiting[key] == run { // whoever comes now is not to join what was given up
		delete(o.waiting, key)
	}
}

// work runs until nobody has come meanwhile.
func (o *opens) work(key string, work func(context.Context) (*api.StreamInfo, error)) {
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
		run.info, run.err = work(run.ctx)
		close(run.done)
		run.cancel()
	}
}
