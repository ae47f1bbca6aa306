package target

import (
	"context"
	"errors"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/etls"
	"github.com/shardstream/shardstream/etl"
	"github.com/shardstream/shardstream/etl/deploy"
	"github.com/shardstream/shardstream/etl/environment"
	"github.com/shardstream/shardstream/etl/outputs"
)

const (
	// retireTimeout bounds how long work under way may go on with a definition that was changed or removed.
	retireTimeout = 5 * time.Minute
	// sweepInterval is how often environments and outputs that nobody wants any more are looked for.
	sweepInterval = 5 * time.Minute
)

// ETLs are the transformations as this target runs them: it follows the cluster's definitions, makes each ready as soon
// as it is known, and lets it go when its definition changes or ends.
type ETLs struct {
	target       *Target
	definitions  etls.Definitions
	environments *environment.Manager
	options      deploy.Options
	outputs      *outputs.Cache // nil: none are kept
	aside        string         // where outputs lie that are being sent in parts; the system's temporary directory by default
	trials       chan struct{}  // one for each transformation under test
	light, heavy chan struct{}  // turns to be made ready: see attempt

	mu         sync.Mutex
	known      map[string]*deployed
	secrets    map[string]api.ETL    // by which containers read objects; see source
	candidates map[string]*candidate // by id
	watched    bool                  // known are all there are
	closed     bool
	ctx        context.Context //nolint:containedctx // ends the runtimes that are being retired
	cancel     context.CancelFunc
	tasks      sync.WaitGroup
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
		known:  map[string]*deployed{}, candidates: map[string]*candidate{}, secrets: map[string]api.ETL{},
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

// Run follows the definitions until the context ends, then closes.
func (e *ETLs) Run(ctx context.Context) error {
	defer e.Close()
	var sweeps sync.WaitGroup
	defer sweeps.Wait()
	sweeps.Go(func() { e.sweepContainers(ctx) })
	if e.outputs != nil {
		sweeps.Go(func() { e.sweepOutputs(ctx) })
	}
	sweeps.Go(func() {
		for tick := time.NewTicker(sweepInterval); ; {
			select {
			case <-ctx.Done():
				tick.Stop()
				return
			case <-tick.C:
				e.sweep()
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
	e.tasks.Wait()
	e.environments.Close()
}

// apply takes over all definitions as the watch saw them.
func (e *ETLs) apply(list []api.ETL) {
	e.mu.Lock()
	e.watched = true
	if !e.closed {
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
	e.sweep()
}

// sweep removes the environments that no definition wants.
func (e *ETLs) sweep() {
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
	e.tasks.Go(func() { e.makeReady(d) })
	return d
}

// forget drops a definition; what its runtime has in hand may finish. The caller holds mu.
func (e *ETLs) forget(name string) {
	d := e.known[name]
	delete(e.known, name)
	d.cancel()
	d.gone = true
	d.settle()
	e.tasks.Go(func() {
		defer e.dropSource(d)
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

// find is the definition of a name as this target knows it, nil where it knows none.
func (e *ETLs) find(name string) *deployed {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.known[name]
}

// lookup finds a definition, in the cluster where it is not known here.
func (e *ETLs) lookup(ctx context.Context, name string) (*deployed, error) {
	if d := e.find(name); d != nil {
		return d, nil
	}
	return e.refresh(ctx, name)
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

// hold finds what runs a transformation, as Runtime does, and keeps it from being shut down until release is called,
// for as long as a changed definition may be kept at all.
func (e *ETLs) hold(name string) (runtime etl.Runtime, release func(), err error) {
	for replaced := false; ; replaced = true {
		d, err := e.lookup(e.target.Context(), name)
		if err != nil {
			return nil, nil, AsError(err)
		}
		if !e.acquire(d) {
			continue // replaced since it was found
		}
		runtime, err := e.await(d)
		if err == nil {
			return runtime, func() { e.release(d) }, nil
		}
		e.release(d)
		if replaced || !errors.Is(err, etl.ErrClosed) {
			return nil, nil, err
		}
	}
}

func (e *ETLs) postRefresh(r *Request) error {
	_, err := e.refresh(r.Context(), r.Param("name"))
	var answer *api.Error
	if err != nil && !(errors.As(err, &answer) && answer.Code == api.CodeNoETL) {
		return err
	}
	r.SetStatusCode(http.StatusNoContent)
	return nil
}

// postRestart replaces the workers of a transformation here.
func (e *ETLs) postRestart(r *Request) error {
	d, err := e.lookup(r.Context(), r.Param("name"))
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
	if d := e.find(r.Param("name")); d != nil {
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
