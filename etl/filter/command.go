package filter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/shardstream/shardstream/etl"
	"github.com/shardstream/shardstream/etl/sandbox"
)

// command is a program of the node, in a sandbox.
type command struct {
	def  etl.Definition
	opts Options

	mu    sync.Mutex
	path  string // of the program, once it was found
	level string
	state etl.Health
}

func newCommand(def etl.Definition, opts Options) *command {
	return &command{def: def, opts: opts, state: etl.Health{State: etl.StateNew, Since: time.Now()}}
}

func (c *command) prepare(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.path != "" {
		return nil
	}
	err := c.find(ctx)
	state, detail := etl.StateReady, ""
	if err != nil {
		state, detail = etl.StateFailed, err.Error()
		err = &etl.UserError{ETL: c.def.Name, Summary: detail}
	}
	if state != c.state.State {
		c.state.Since = time.Now()
	}
	c.state.State, c.state.Detail = state, detail
	return err
}

// find finds the program and how it is confined. The caller holds mu.
func (c *command) find(ctx context.Context) error {
	name := c.def.Command[0]
	if strings.Contains(name, "/") && !filepath.IsAbs(name) { // the node's own directory is nothing to go by
		return fmt.Errorf("the program %s: give its name or its absolute path", name)
	}
	path, err := exec.LookPath(name)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return fmt.Errorf("the program %s is not on this node: install it there, or use a container", name)
	}
	report, err := sandbox.Probe(ctx)
	if err != nil {
		return err
	}
	level, err := report.Choose(c.opts.Isolation, c.def.Isolation)
	if err != nil {
		return err
	}
	c.path, c.level = path, level
	c.state.Isolation, c.state.Confined = level, report.Confined(level, c.spec())
	return nil
}

// spec is what all runs have in common.
func (c *command) spec() sandbox.Spec {
	return sandbox.Spec{
		Path: c.path, Args: c.def.Command[1:], Read: []string{c.path}, Hide: c.opts.Hide, Network: c.def.Network == etl.NetworkHost,
		Limits: sandbox.Limits{Memory: c.def.Limits.Memory, CPUs: c.def.Limits.CPUs},
	}
}

func (c *command) renew() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.path = ""
}

func (c *command) health() etl.Health {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

func (c *command) start(ctx context.Context, env map[string]string, stdin, stdout *os.File, stderr io.Writer) (process, error) {
	if err := c.prepare(ctx); err != nil {
		return nil, err
	}
	c.mu.Lock()
	spec, level := c.spec(), c.level
	c.mu.Unlock()
	dir, err := os.MkdirTemp(c.opts.Dir, "shardstream-filter-")
	if err != nil {
		return nil, err
	}
	said, theirs, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	spec.Dir, spec.Stdin, spec.Stdout, spec.Stderr = dir, stdin, stdout, theirs
	spec.Env = []string{"PATH=" + os.Getenv("PATH"), "LANG=C.UTF-8", "HOME=" + dir, "TMPDIR=" + dir}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		spec.Env = append(spec.Env, name+"="+env[name])
	}
	sandboxed, err := sandbox.Start(ctx, level, spec)
	err = errors.Join(err, theirs.Close())
	if err != nil {
		_ = said.Close()
		_ = os.RemoveAll(dir)
		return nil, &etl.UserError{ETL: c.def.Name, Summary: err.Error()}
	}
	r := &running{of: c, sandboxed: sandboxed, dir: dir, done: make(chan struct{})}
	go r.listen(said, stderr)
	return r, nil
}

// running is one run of the program.
type running struct {
	of        *command
	sandboxed *sandbox.Process
	dir       string
	done      chan struct{} // closed when it has ended and its stderr was read
	once      sync.Once
}

// listen copies stderr until the program has ended. What has escaped from it may hold the pipe open.
func (r *running) listen(said *os.File, to io.Writer) {
	defer close(r.done)
	defer said.Close()
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		_, _ = io.Copy(to, said)
	}()
	<-r.sandboxed.Exited()
	_ = said.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	<-copied
}

func (r *running) exited() <-chan struct{} { return r.done }

func (r *running) verdict() string {
	<-r.done
	exit := r.sandboxed.Wait()
	switch {
	case exit.OutOfMemory:
		return fmt.Sprintf("the program ran out of memory; its limit is %d MiB", r.of.def.Limits.Memory>>20)
	case exit.ScratchFull:
		return "the program was killed because it filled its scratch directory"
	case exit.Signal != 0:
		return fmt.Sprintf("the program was killed by signal %d (%s)", exit.Signal, exit.Signal)
	case exit.Code != 0:
		return fmt.Sprintf("the program ended with exit status %d", exit.Code)
	}
	return ""
}

func (r *running) kill() {
	r.once.Do(func() {
		if err := errors.Join(r.sandboxed.Close(), sandbox.Remove(r.dir)); err != nil {
			r.of.opts.Logger.Warn("a program of an etl has left something behind", "etl", r.of.def.Name, "error", err)
		}
	})
	<-r.done
}
