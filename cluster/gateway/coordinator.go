package gateway

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/jobs"
)

const (
	maxRunning    = 16 // jobs that one gateway coordinates at a time
	takeOverEvery = 500 * time.Millisecond
)

// Coordinator runs the cluster's jobs, of which each gateway takes its share: a job belongs to the gateway that wrote
// its name into it. When that gateway's lease is over, another writes its own; what the first one still writes is
// refused then. A coordinator keeps nothing that it could not read again.
type Coordinator struct {
	gateway *Gateway

	mu      sync.Mutex
	known   []api.Job
	running map[string]*jobRun
	work    sync.WaitGroup
}

// Run coordinates jobs until the context ends; those that are under way then are left to others.
func (c *Coordinator) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return c.folder().Watch(ctx, func(list []api.Job) { c.learn(ctx, list) }) })
	group.Go(func() error {
		tick := time.NewTicker(takeOverEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				c.take(ctx)
			case <-ctx.Done():
				return nil
			}
		}
	})
	err := group.Wait()
	c.work.Wait()
	return err
}

// Running is the number of jobs that this gateway coordinates.
func (c *Coordinator) Running() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.running)
}

// learn takes note of all jobs as they are now.
func (c *Coordinator) learn(ctx context.Context, list []api.Job) {
	c.mu.Lock()
	c.known = list
	for i := range list {
		if r := c.running[list[i].ID]; r != nil && list[i].Aborting {
			r.cancel(errAborted)
		}
	}
	c.mu.Unlock()
	c.take(ctx)
}

// take begins the jobs that nobody coordinates.
func (c *Coordinator) take(ctx context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.known {
		j := &c.known[i]
		id := j.ID
		if ctx.Err() != nil || len(c.running) >= maxRunning {
			return
		}
		if c.running[id] != nil || !c.free(j) {
			continue
		}
		r := &jobRun{coordinator: c, job: *j}
		// The run's own context ends with an abort; what has to be written down then outlives it.
		r.ctx, r.cancel = context.WithCancelCause(ctx)
		c.running[id] = r
		c.work.Go(func() {
			defer r.cancel(nil)
			r.run(ctx)
			c.mu.Lock()
			defer c.mu.Unlock()
			delete(c.running, id)
		})
	}
}

// free says whether a job has nobody who coordinates it. One that bears this gateway's own name, but that it does not
// run, is left from before it was started again.
func (c *Coordinator) free(j *api.Job) bool {
	if j.Finished() {
		return false
	}
	if j.Runner == "" || j.Runner == c.gateway.id {
		return true
	}
	m := c.gateway.members.View().Map()
	node, ok := m.Node(j.Runner)
	return !ok || node.State != api.StateOK
}

// claim writes this gateway's name into a job, if it is still free.
func (c *Coordinator) claim(ctx context.Context, id string) (api.Job, error) {
	return c.folder().Update(ctx, id, func(j *api.Job) error {
		if !c.free(j) {
			return jobs.ErrTaken
		}
		now := time.Now().UTC()
		j.Runner, j.State = c.gateway.id, api.JobRunning
		if j.Started == nil {
			j.Started = &now
		}
		return nil
	})
}

var errAborted = errors.New("the job was aborted")
