package server

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/shardstream/shardstream/etl"
)

// recheck is the age at which what is known of a server's health is asked for again.
const recheck = 10 * time.Second

// remote is a server that somebody else runs.
type remote struct {
	def      etl.Definition
	endpoint *endpoint
	ctx      context.Context //nolint:containedctx // of the checks in the background
	cancel   context.CancelFunc
	checks   sync.WaitGroup

	mu       sync.Mutex
	state    etl.Health
	checked  time.Time
	checking bool
}

func newRemote(def etl.Definition, opts Options) (*remote, error) {
	host := opts.Host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	base := strings.TrimRight(strings.NewReplacer("{host}", host, "{target}", opts.Target).Replace(def.URL), "/")
	r := &remote{
		def: def, endpoint: newEndpoint(base, base, 64, nil),
		state: etl.Health{State: etl.StateNew, Since: time.Now(), Confined: []string{"not started by this node, which can't confine it"}},
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r, nil
}

func (r *remote) acquire(ctx context.Context) (*endpoint, error) {
	if r.ctx.Err() != nil {
		return nil, etl.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r.endpoint.use()
	return r.endpoint, nil
}

// check asks for the server's health and remembers the answer.
func (r *remote) check(ctx context.Context) error {
	err := r.endpoint.check(ctx)
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.checked = time.Now()
	state, detail := etl.StateReady, ""
	if err != nil {
		state, detail = etl.StateFailed, "the server at "+r.endpoint.base+" does not answer: "+err.Error()
	}
	if state != r.state.State {
		r.state.Since = r.checked
	}
	r.state.State, r.state.Detail = state, detail
	if err != nil {
		return &etl.UserError{ETL: r.def.Name, Summary: detail}
	}
	return nil
}

// checkLater asks for the server's health unless that is under way.
func (r *remote) checkLater() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.checking || r.ctx.Err() != nil {
		return
	}
	r.checking = true
	r.checks.Go(func() {
		_ = r.check(r.ctx) // it remembers
		r.mu.Lock()
		defer r.mu.Unlock()
		r.checking = false
	})
}

func (r *remote) explain(e *endpoint, err error) *etl.UserError {
	r.checkLater()
	if isDial(err) {
		return &etl.UserError{Summary: "the server at " + e.base + " can't be reached: " + err.Error()}
	}
	return nil
}

func (r *remote) suspect(*endpoint) { r.checkLater() }

func (r *remote) health() etl.Health {
	r.mu.Lock()
	stale := r.state.State != etl.StateNew && time.Since(r.checked) > recheck
	state := r.state
	r.mu.Unlock()
	if stale {
		r.checkLater()
	}
	return state
}

func (r *remote) logs() string { return "" }

func (r *remote) running() int {
	if r.health().State == etl.StateReady {
		return 1
	}
	return 0
}

func (r *remote) restart(ctx context.Context) error { return r.check(ctx) }

func (r *remote) close() error {
	r.mu.Lock()
	r.cancel()
	r.mu.Unlock()
	r.checks.Wait()
	r.endpoint.close()
	return nil
}
