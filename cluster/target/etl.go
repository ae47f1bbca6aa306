package target

import (
	"context"
	"errors"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/etls"
	"github.com/shardstream/shardstream/etl"
	"github.com/shardstream/shardstream/etl/deploy"
	"github.com/shardstream/shardstream/etl/environment"
	"github.com/shardstream/shardstream/etl/outputs"
	"github.com/shardstream/shardstream/etl/sandbox"
)

const (
	// retireTimeout bounds how long work under way may go on with a definition that was changed or removed.
	retireTimeout = 5 * time.Minute
	// environmentsInterval is how often environments that nobody wants are looked for.
	environmentsInterval = 5 * time.Minute
	// refreshWait is how long whoever deployed a definition waits for it to be ready here once it is in force.
	refreshWait = 3 * time.Second
)

// ETLs are the transformations as this target runs them: it follows the cluster's definitions, makes each ready as soon
// as it is known, and lets it go when its definition changes or ends.
type ETLs struct {
	target       *Target
	definitions  etls.Definitions
	environments *environment.Manager
	options      deploy.Options
	light, heavy chan struct{}  // turns to be made ready: see attempt
	outputs      *outputs.Cache // nil: none are kept
	sources      sources
	trials       chan struct{} // one for each transformation under test
	undeployed   atomic.Int64  // transformations that were tried without being deployed
	aside        string        // where outputs lie that are being sent in parts; the system's temporary directory by default

	mu         sync.Mutex
	known      map[string]*deployed
	candidates map[string]*candidate // by id
	watched    bool                  // known are all there are
	closed     bool
	ctx        context.Context //nolint:containedctx // ends the runtimes that are being retired
	cancel     context.CancelFunc
	retired    sync.WaitGroup
}

// NewETLs makes the target's transformations, which have their files below dir, and adds what serves them: GET ?etl=
// and the routes that gateways use. Call it before Serve, Run beside it, and Close in any case.
func NewETLs(t *Target, dir string) (*ETLs, error) {
	environments, err := environment.Open(filepath.Join(dir, "environments"), environment.Options{Logger: t.log})
	if err != nil {
		return nil, err
	}
	e := &ETLs{
		target: t, definitions: etls.Of(t.members), environments: environments,
		options: deploy.Options{Logger: t.log, Dir: dir, Pool: etl.Options{Environments: environments}},
		light:   make(chan struct{}, lightTurns), heavy: make(chan struct{}, heavyTurns),
		trials: make(chan struct{}, maxTrials),
		known:  map[string]*deployed{}, candidates: map[string]*candidate{},
	}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	if err := t.metrics.WatchETLs(e.metrics); err != nil {
		return nil, err
	}
	t.SetTransform(e.transform)
	t.Handle("GET", "/v1/internal/etls", e.getStatus)
	t.Handle("POST", "/v1/internal/etls/{name}/refresh", e.postRefresh)
	t.Handle("POST", "/v1/internal/etls/{name}/restart", e.postRestart)
	t.Handle("GET", "/v1/internal/etls/{name}/logs", e.getLogs)
	t.Handle("POST", "/v1/internal/etls/{name}/try/{id}", e.postTry)
	t.Handle("DELETE", "/v1/internal/etls/{name}/try/{id}", e.deleteTry)
	t.Handle("POST", "/v1/internal/etls/{name}/test", e.postTrial)
	return e, nil
}

// Isolate sets the least isolation of users' code that this target accepts, and the directories that such code never
// sees. A level that was named and that the machine lacks is an error. Call it before Run.
func (e *ETLs) Isolate(ctx context.Context, least string, hide []string) error {
	e.options.Pool.Isolation, e.options.Pool.Hide = least, hide
	e.environments.Isolate(least, hide)
	if least == "" || least == sandbox.Auto {
		return nil // without transformations, what is missing for them harms nobody
	}
	report, err := sandbox.Probe(ctx)
	if err != nil {
		return err
	}
	_, err = report.Level(least)
	if least == sandbox.None {
		e.target.log.Warn("workers of transformations need not be isolated: a definition may run as a process like any other")
	}
	return err
}

// Run follows the definitions until the context ends, then closes.
func (e *ETLs) Run(ctx context.Context) error {
	defer e.Close()
	e.retired.Go(func() { e.sweepContainers(ctx) })
	if e.outputs != nil {
		e.retired.Go(func() { e.sweep(ctx) })
	}
	e.retired.Go(func() {
		for tick := time.NewTicker(environmentsInterval); ; {
			select {
			case <-ctx.Done():
				tick.Stop()
				return
			case <-tick.C:
				e.sweepEnvironments()
			}
		}
	})
	return e.definitions.Watch(ctx, e.apply)
}

// Close closes all runtimes and joins what they own. Idempotent.
func (e *ETLs) Close() {
	e.mu.Lock()
	e.closed = true
	for name := range e.known {
		e.forget(name)
	}
	e.mu.Unlock()
	e.cancel()
	e.retired.Wait()
	e.environments.Close()
}

// apply takes over all definitions as the watch saw them.
func (e *ETLs) apply(list []api.ETL) {
	e.mu.Lock()
	if !e.closed {
		e.watched = true
		seen := make(map[string]bool, len(list))
		for _, definition := range list {
			seen[definition.Name] = true
			e.learn(definition)
		}
		for name := range e.known {
			if !seen[name] {
				e.forget(name)
			}
		}
	}
	e.mu.Unlock()
	e.sweepEnvironments()
}

// sweepEnvironments removes the environments that no definition wants.
func (e *ETLs) sweepEnvironments() {
	e.mu.Lock()
	definitions := make([]etl.Definition, 0, len(e.known))
	for _, d := range e.known {
		definitions = append(definitions, etls.Definition(d.definition))
	}
	e.mu.Unlock()
	e.environments.Keep(etl.Environments(definitions))
}

// learn takes over a definition that is newer than the one known. The caller holds mu.
func (e *ETLs) learn(definition api.ETL) *deployed {
	if old := e.known[definition.Name]; old != nil {
		if definition.Version <= old.definition.Version {
			return old
		}
		e.forget(definition.Name)
	}
	d := newDeployed(e.ctx, definition)
	e.known[definition.Name] = d
	e.retired.Go(func() { e.makeReady(d) })
	return d
}

// forget drops a definition; what its runtime has in hand may finish. The caller holds mu.
func (e *ETLs) forget(name string) {
	d := e.known[name]
	delete(e.known, name)
	d.gone = true
	d.cancel()
	d.settle()
	e.retired.Go(func() {
		d.once.Do(func() { d.made = etl.ErrClosed })
		if d.runtime == nil {
			return
		}
		ctx, cancel := context.WithTimeout(e.ctx, retireTimeout)
		defer cancel()
		select {
		case <-d.idle:
		case <-ctx.Done():
		}
		if err := d.runtime.Shutdown(ctx); err != nil {
			e.target.log.Warn("closing an etl left something behind", "etl", name, "error", err)
		}
		e.sources.drop(d.definition)
	})
}

// refresh reads one definition as of now.
func (e *ETLs) refresh(ctx context.Context, name string) (*deployed, error) {
	definition, err := e.definitions.Get(ctx, name)
	e.mu.Lock()
	defer e.mu.Unlock()
	var answer *api.Error
	switch {
	case e.closed:
		return nil, e.errStopping()
	case err == nil:
		return e.learn(definition), nil
	case errors.As(err, &answer) && answer.Code == api.CodeNoETL && e.known[name] != nil:
		e.forget(name)
	}
	return nil, err
}

// settle says that nobody holds the definition any more, where that is so for good. The caller holds mu.
func (d *deployed) settle() {
	if d.gone && d.held == 0 {
		close(d.idle)
	}
}

// hold finds what runs a transformation, as Runtime does, and keeps it from being shut down until release is called,
// for as long as a changed definition may be kept at all.
func (e *ETLs) hold(name string) (runtime etl.Runtime, release func(), err error) {
	for {
		d, err := e.find(name)
		if err != nil {
			return nil, nil, err
		}
		e.mu.Lock()
		if d.gone {
			e.mu.Unlock()
			continue // replaced since it was found
		}
		d.held++
		e.mu.Unlock()
		release = func() {
			e.mu.Lock()
			defer e.mu.Unlock()
			d.held--
			d.settle()
		}
		if runtime, err = e.await(d); err == nil {
			return runtime, release, nil
		}
		release()
		if !errors.Is(err, etl.ErrClosed) {
			return nil, nil, err
		}
	}
}

// Runtime finds what runs a transformation and waits a while for one that is being made ready. Errors are *api.Error:
// CodeNoETL where there is none, CodeETLFailed where the definition keeps it from working. One that answers ErrClosed
// was replaced meanwhile: look it up again.
func (e *ETLs) Runtime(name string) (etl.Runtime, error) {
	runtime, release, err := e.hold(name)
	if err == nil {
		release()
	}
	return runtime, err
}

// peek is the definition of a name as this target knows it, nil where it knows none.
func (e *ETLs) peek(name string) *deployed {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.known[name]
}

// find looks a definition up, of the cluster where it is not known here.
func (e *ETLs) find(name string) (*deployed, error) {
	if d := e.peek(name); d != nil {
		return d, nil
	}
	d, err := e.refresh(e.target.Context(), name)
	if err != nil {
		return nil, AsError(err)
	}
	return d, nil
}

func (e *ETLs) postRefresh(r *Request) error {
	d, err := e.refresh(r.Context(), r.Param("name"))
	var answer *api.Error
	if err != nil && !(errors.As(err, &answer) && answer.Code == api.CodeNoETL) {
		return err
	}
	if d != nil && r.Query("wait") == "true" {
		limit := time.NewTimer(refreshWait)
		defer limit.Stop()
		select {
		case <-d.tried:
		case <-limit.C:
		case <-r.Context().Done():
		}
	}
	r.SetStatusCode(http.StatusNoContent)
	return nil
}

// postRestart replaces the workers of a transformation here.
func (e *ETLs) postRestart(r *Request) error {
	d, err := e.find(r.Param("name"))
	if err != nil {
		return err
	}
	runtime, err := e.runtimeOf(d)
	if err == nil {
		ctx, cancel := context.WithTimeout(r.Context(), restartTimeout)
		defer cancel()
		err = runtime.Restart(ctx)
	}
	d.note(err)
	if err != nil {
		return etlError("target "+e.target.id, err)
	}
	r.SetStatusCode(http.StatusNoContent)
	return nil
}

// getLogs answers with what the build and user code printed here.
func (e *ETLs) getLogs(r *Request) error {
	var answer struct{ Log string }
	if d := e.peek(r.Param("name")); d != nil {
		if runtime, err := e.runtimeOf(d); err == nil {
			answer.Log = runtime.Logs()
		}
	}
	return r.WriteJSON(http.StatusOK, answer)
}

// etlError is the error document for an error of package etl; about is what was being transformed.
func etlError(about string, err error) *api.Error {
	var (
		answer *api.Error
		fault  *etl.UserError
		size   *etl.SizeError
		form   *etl.DefinitionError
		build  *environment.BuildError
	)
	switch {
	case errors.As(err, &answer):
		return answer
	case errors.As(err, &size):
		return api.Errorf(http.StatusRequestEntityTooLarge, api.CodeBadRequest, "%s: %v", about, err)
	case errors.As(err, &form), errors.Is(err, etl.ErrLevel):
		return api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "%s: %v", about, err)
	case errors.As(err, &fault):
		return api.Errorf(http.StatusUnprocessableEntity, api.CodeETLFailed, "%s: %v", about, err)
	case errors.Is(err, etl.ErrClosed):
		return unavailable("%s: %v while it was in use; try again", about, err)
	case errors.As(err, &build), errors.Is(err, etl.ErrNoPython), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return unavailable("%s: %v", about, err)
	}
	return AsError(err)
}

func unavailable(format string, args ...any) *api.Error {
	return api.Errorf(http.StatusServiceUnavailable, api.CodeUnavailable, format, args...)
}

// errStopping is why nothing new is begun.
func (e *ETLs) errStopping() *api.Error { return unavailable("target %s is stopping", e.target.id) }
