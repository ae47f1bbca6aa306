package target

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/etls"
	"github.com/shardstream/shardstream/etl"
	"github.com/shardstream/shardstream/etl/deploy"
	"github.com/shardstream/shardstream/etl/outputs"
)

// retireTimeout bounds how long work under way may go on with a definition that was changed or removed.
const retireTimeout = 5 * time.Minute

// ETLs are the transformations as this target runs them: it follows the cluster's definitions, makes a
// runtime when one is first used, and lets it go when its definition changes or ends.
type ETLs struct {
	target      *Target
	definitions etls.Definitions
	options     deploy.Options
	outputs     *outputs.Cache // nil: none are kept
	trials      chan struct{}  // one for each transformation under test
	sources     sources
	aside       string // where outputs lie that are being sent in parts; the system's temporary directory by default

	mu      sync.Mutex
	known   map[string]*deployed
	watched bool // known are all there are
	closed  bool
	ctx     context.Context //nolint:containedctx // ends the runtimes that are being retired
	cancel  context.CancelFunc
	retired sync.WaitGroup
}

// deployed is one definition, and its runtime once it was used.
type deployed struct {
	definition api.ETL
	once       sync.Once
	runtime    etl.Runtime
	err        error

	held int           // by requests that go on with it
	gone bool          // a newer one is known, or none
	idle chan struct{} // closed once it is gone and not held
}

// NewETLs makes the target's transformations and adds what serves them: GET ?etl= and the routes that gateways
// use. Call it before Serve, and Run beside it.
func NewETLs(t *Target) *ETLs {
	e := &ETLs{
		target: t, definitions: etls.Of(t.members), options: deploy.Options{Logger: t.log}, known: map[string]*deployed{},
		trials: make(chan struct{}, maxTrials),
	}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	t.SetTransform(e.transform)
	t.Handle("POST", "/v1/internal/etls/{name}/refresh", e.postRefresh)
	t.Handle("GET", "/v1/internal/etls/{name}/logs", e.getLogs)
	t.Handle("POST", "/v1/internal/etls/{name}/test", e.postTrial)
	return e
}

// Run follows the definitions until the context ends, then closes all runtimes and joins what they own.
func (e *ETLs) Run(ctx context.Context) error {
	e.retired.Go(func() { e.sweepContainers(ctx) })
	if e.outputs != nil {
		e.retired.Go(func() { e.sweep(ctx) })
	}
	err := e.definitions.Watch(ctx, e.apply)
	e.mu.Lock()
	e.closed = true
	for name := range e.known {
		e.forget(name)
	}
	e.mu.Unlock()
	e.cancel()
	e.retired.Wait()
	return err
}

// apply takes over all definitions as the watch saw them.
func (e *ETLs) apply(list []api.ETL) {
	e.mu.Lock()
	defer e.mu.Unlock()
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

// learn takes over a definition that is newer than the one known. The caller holds mu.
func (e *ETLs) learn(definition api.ETL) *deployed {
	if old := e.known[definition.Name]; old != nil {
		if definition.Version <= old.definition.Version {
			return old
		}
		e.forget(definition.Name)
	}
	d := &deployed{definition: definition, idle: make(chan struct{})}
	e.known[definition.Name] = d
	return d
}

// forget drops a definition; what its runtime has in hand may finish. The caller holds mu.
func (e *ETLs) forget(name string) {
	d := e.known[name]
	delete(e.known, name)
	d.gone = true
	d.settle()
	e.retired.Go(func() {
		d.once.Do(func() { d.err = etl.ErrClosed })
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
		return nil, unavailable("target %s is stopping", e.target.id)
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
		if runtime, err = e.start(d); err != nil {
			release()
		}
		return runtime, release, err
	}
}

// Runtime finds what runs a transformation. Errors are *api.Error: CodeNoETL where there is none. One that
// answers ErrClosed was replaced meanwhile: look it up again.
func (e *ETLs) Runtime(name string) (etl.Runtime, error) {
	d, err := e.find(name)
	if err != nil {
		return nil, err
	}
	return e.start(d)
}

// find looks a definition up, of the cluster where it is not known here.
func (e *ETLs) find(name string) (*deployed, error) {
	e.mu.Lock()
	d := e.known[name]
	e.mu.Unlock()
	if d == nil {
		var err error
		if d, err = e.refresh(e.target.Context(), name); err != nil {
			return nil, AsError(err)
		}
	}
	return d, nil
}

func (e *ETLs) start(d *deployed) (etl.Runtime, error) {
	d.once.Do(func() { d.runtime, d.err = deploy.New(etls.Definition(d.definition), e.options) })
	if d.err != nil {
		return nil, etlError(e.target.id, d.err)
	}
	return d.runtime, nil
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

// getLogs answers with what user code printed here, nothing where it has not run.
func (e *ETLs) getLogs(r *Request) error {
	e.mu.Lock()
	d := e.known[r.Param("name")]
	e.mu.Unlock()
	var answer struct{ Log string }
	if d != nil {
		d.once.Do(func() { d.runtime, d.err = deploy.New(etls.Definition(d.definition), e.options) })
		if d.runtime != nil {
			answer.Log = d.runtime.Logs()
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
	case errors.Is(err, etl.ErrNoPython), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return unavailable("%s: %v", about, err)
	}
	return AsError(err)
}

func unavailable(format string, args ...any) *api.Error {
	return api.Errorf(http.StatusServiceUnavailable, api.CodeUnavailable, format, args...)
}
