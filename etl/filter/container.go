package filter

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"sync"
	"time"

	"github.com/shardstream/shardstream/etl"
	"github.com/shardstream/shardstream/etl/engine"
	"github.com/shardstream/shardstream/etl/server"
)

// container is a program in an image: a new container for each object.
type container struct {
	def  etl.Definition
	opts Options

	mu     sync.Mutex
	engine engine.Engine
	image  engine.Image
	state  etl.Health
}

func newContainer(def etl.Definition, opts Options) *container {
	return &container{def: def, opts: opts, state: etl.Health{State: etl.StateNew, Since: time.Now(), Isolation: "container"}}
}

// find finds the image once. Callers that come meanwhile wait.
func (c *container) prepare(ctx context.Context) error {
	_, _, err := c.find(ctx)
	return err
}

func (c *container) find(ctx context.Context) (engine.Engine, engine.Image, error) {
	c.mu.Lock()
	e, image := c.engine, c.image
	c.mu.Unlock()
	if e != nil {
		return e, image, nil
	}
	says := func(detail string) { c.set(etl.StateBuilding, detail) }
	says("looking for image " + c.def.Image)
	e, err := c.opts.Engines.For(ctx, c.def.Image)
	if err == nil {
		image, err = e.Image(ctx, c.def.Image, says)
	}
	if err != nil {
		c.set(etl.StateFailed, err.Error())
		if ctx.Err() != nil {
			return nil, image, ctx.Err()
		}
		return nil, image, &etl.UserError{ETL: c.def.Name, Summary: err.Error()}
	}
	c.set(etl.StateReady, "")
	c.mu.Lock()
	defer c.mu.Unlock()
	c.engine, c.image = e, image
	c.state.Isolation = "container by " + e.Name()
	c.state.Confined = server.Confined(server.Spec(c.def, image, nil))
	return e, image, nil
}

func (c *container) set(state, detail string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.State != state {
		c.state.Since = time.Now()
	}
	c.state.State, c.state.Detail = state, detail
}

func (c *container) renew() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.engine = nil
}

func (c *container) health() etl.Health {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

func (c *container) start(ctx context.Context, env map[string]string, stdin, stdout *os.File, stderr io.Writer) (process, error) {
	e, image, err := c.find(ctx)
	if err != nil {
		return nil, err
	}
	spec := server.Spec(c.def, image, c.opts.Labels)
	maps.Copy(spec.Env, env)
	spec.Once = true
	c.opts.Engines.Identify(&spec, c.def.Name)
	running, err := e.Start(ctx, spec, engine.Stdio{In: stdin, Out: stdout, Err: stderr})
	if err != nil {
		return nil, &etl.UserError{ETL: c.def.Name, Summary: err.Error()}
	}
	return &contained{running, c}, nil
}

// contained is one container.
type contained struct {
	container *engine.Container
	of        *container
}

func (c *contained) exited() <-chan struct{} { return c.container.Exited() }

func (c *contained) verdict() string {
	exit := c.container.Exit()
	switch {
	case exit.Code == 0:
		return ""
	case exit.Killed():
		return exit.String() + fmt.Sprintf("; its limit is %d MiB", c.of.def.Limits.Memory>>20)
	}
	return exit.String()
}

func (c *contained) kill() {
	if err := c.container.Remove(); err != nil {
		c.of.opts.Logger.Warn("a container could not be removed", "etl", c.of.def.Name, "container", c.container.Name, "error", err)
	}
}
