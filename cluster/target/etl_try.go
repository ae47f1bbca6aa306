package target

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/etls"
	"github.com/shardstream/shardstream/etl"
	"github.com/shardstream/shardstream/etl/deploy"
)

const (
	// candidateLease is how long a candidate lives that nobody asks about: its gateway, or the client of that, is gone.
	candidateLease = 15 * time.Second
	// candidateWait is how long one question is held while there is nothing to tell.
	candidateWait = time.Second
	maxCandidates = 32
	maxCandidate  = 8 << 20 // bytes of a definition as JSON
)

// candidate is a definition that is tried before it is deployed: it is prepared as if it were, and let go.
type candidate struct {
	name   string
	health func() api.ETLHealth
	cancel context.CancelFunc
	lease  *time.Timer
	done   chan struct{}
	err    error // once done is closed
}

// postTry begins to try a definition, or asks how far that is; an id stands for one attempt. The answer comes when
// it is known, or after a second.
func (e *ETLs) postTry(r *Request) error {
	var definition api.ETL
	if err := r.JSON(maxCandidate, &definition); err != nil {
		return err
	}
	c, err := e.candidate(r.Param("id"), definition)
	if err != nil {
		return err
	}
	wait := time.NewTimer(candidateWait)
	defer wait.Stop()
	select {
	case <-c.done:
	case <-wait.C:
	case <-e.target.Context().Done():
		return e.errStopping()
	}
	answer := api.ETLAttempt{Health: c.health()}
	select {
	case <-c.done:
		answer.Done = true
		if c.err != nil {
			answer.Error = etlError("target "+e.target.id, c.err)
			answer.Status = answer.Error.Status
		}
	default:
	}
	return r.WriteJSON(http.StatusOK, answer)
}

// candidate finds an attempt or begins it, and keeps it alive for a while.
func (e *ETLs) candidate(id string, definition api.ETL) (*candidate, error) {
	if c := e.renew(id); c != nil {
		return c, nil
	}
	definition.Version = -e.undeployed.Add(1) // which tells it from what is deployed
	def := etls.Definition(definition)
	runtime, err := deploy.New(def, e.options)
	if err != nil {
		return nil, etlError("target "+e.target.id, err)
	}
	ctx, cancel := context.WithCancel(e.ctx)
	c := &candidate{name: definition.Name, cancel: cancel, done: make(chan struct{})}
	c.health = func() api.ETLHealth { return healthOf(runtime.Health()) }
	if err := e.admit(id, c); err != nil {
		cancel()
		err = errors.Join(err, runtime.Close())
		e.sources.drop(definition)
		return nil, err
	}
	for _, spec := range etl.Environments([]etl.Definition{def}) {
		e.environments.Retry(spec) // whoever deploys wants to know how it is now
	}
	go func() { // counted by admit
		defer e.retired.Done()
		defer cancel()
		c.err = runtime.Prepare(ctx)
		close(c.done)
		if err := runtime.Close(); err != nil {
			e.target.log.Warn("closing a candidate left something behind", "etl", c.name, "error", err)
		}
		e.sources.drop(definition)
	}()
	return c, nil
}

// renew finds an attempt that is under way and keeps it alive.
func (e *ETLs) renew(id string) *candidate {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.candidates[id]
	if c != nil {
		c.lease.Reset(candidateLease)
	}
	return c
}

// admit takes a candidate in, for whose goroutine it counts.
func (e *ETLs) admit(id string, c *candidate) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.closed:
		return e.errStopping()
	case len(e.candidates) >= maxCandidates || e.candidates[id] != nil:
		return api.Errorf(http.StatusTooManyRequests, api.CodeBusy, "target %s tries %d transformations already; try again later", e.target.id, maxCandidates)
	}
	c.lease = time.AfterFunc(candidateLease, func() { e.dropCandidate(id) })
	e.candidates[id] = c
	e.retired.Add(1)
	return nil
}

// dropCandidate gives an attempt up.
func (e *ETLs) dropCandidate(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if c := e.candidates[id]; c != nil {
		c.lease.Stop()
		c.cancel()
		delete(e.candidates, id)
	}
}

func (e *ETLs) deleteTry(r *Request) error {
	e.dropCandidate(r.Param("id"))
	r.SetStatusCode(http.StatusNoContent)
	return nil
}

// candidatesOf is the health of the candidates, by name; of one name where it is given.
func (e *ETLs) candidatesOf(only string) map[string]api.ETLHealth {
	e.mu.Lock()
	defer e.mu.Unlock()
	list := map[string]api.ETLHealth{}
	for _, c := range e.candidates {
		if only == "" || only == c.name {
			list[c.name] = c.health()
		}
	}
	return list
}
