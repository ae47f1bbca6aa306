package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const (
	homeLabel  = "shardstream.home" // of every container: the directory of the node that it belongs to
	namePrefix = "shardstream-"
	markName   = "used" // a file that says that this directory's node has run containers
	tempPrefix = "temp-"
)

// mark notes that this node runs containers, so that the next process of the node looks for what was left behind; others
// are spared the engines' start.
func (e *Engines) mark() error {
	if err := os.MkdirAll(e.opts.Dir, 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(e.opts.Dir, markName), nil, 0o600)
}

// Identify gives a container a name of its own and the labels by which Sweep finds it.
func (e *Engines) Identify(spec *Spec, about string) {
	e.mu.Lock()
	e.made++
	number := e.made
	e.mu.Unlock()
	spec.Name = fmt.Sprintf("%s%s-%s-%d", namePrefix, about, e.run, number)
	if spec.Labels == nil {
		spec.Labels = map[string]string{}
	}
	spec.Labels[homeLabel] = e.opts.Dir
}

// TempDir makes a directory that is gone after the next Sweep of another process at the latest.
func (e *Engines) TempDir() (string, error) {
	if err := e.mark(); err != nil {
		return "", err
	}
	return os.MkdirTemp(e.opts.Dir, tempPrefix+e.run+"-")
}

// Sweep removes what a process of this node that was killed has left behind: containers, by all engines that work here,
// and directories. What this process has made stays. It says how many containers there were.
func (e *Engines) Sweep(ctx context.Context) (int, error) {
	if _, err := os.Stat(filepath.Join(e.opts.Dir, markName)); err != nil {
		return 0, nil //nolint:nilerr // nothing was ever run
	}
	var errs []error
	swept := 0
	for _, image := range []string{"", Bundle} {
		engine, err := e.For(ctx, image)
		if err != nil {
			continue // not here: it has left nothing
		}
		names, err := engine.List(ctx, homeLabel, e.opts.Dir)
		errs = append(errs, err)
		for _, name := range names {
			if strings.Contains(name, "-"+e.run+"-") {
				continue
			}
			err := engine.Remove(ctx, name)
			if err == nil {
				swept++
			}
			errs = append(errs, err)
		}
	}
	left, err := filepath.Glob(filepath.Join(e.opts.Dir, tempPrefix+"*"))
	errs = append(errs, err)
	for _, dir := range left {
		if !strings.HasPrefix(filepath.Base(dir), tempPrefix+e.run+"-") {
			errs = append(errs, os.RemoveAll(dir))
		}
	}
	return swept, errors.Join(errs...)
}
