package etl

import (
	"context"
	"errors"
	"fmt"

	"github.com/shardstream/shardstream/etl/environment"
)

// environmentSpec is the environment that a definition wants; an empty one where a Python of the node will do. The version
// of a pickle is that of who made it: by itself no wish for an environment, which would lack the cloudpickle to load it.
func (d Definition) environmentSpec() environment.Spec {
	if len(d.Pickle) > 0 && len(d.Requirements) == 0 {
		return environment.Spec{}
	}
	return environment.Spec{Python: d.Python, Requirements: d.Requirements}
}

// Environments are the specs of the environments that definitions want.
func Environments(definitions []Definition) []environment.Spec {
	var specs []environment.Spec
	for i := range definitions {
		if spec := definitions[i].environmentSpec(); !spec.Empty() {
			specs = append(specs, spec)
		}
	}
	return specs
}

// furnish settles the interpreter of the workers: that of the environment which the definition wants, built first where
// it is not there yet, or the node's. A *UserError means that the requirements can't be met.
func (s *spawner) furnish(ctx context.Context) error {
	spec := s.def.environmentSpec()
	s.mu.Lock()
	settled := s.python != nil
	s.mu.Unlock()
	if settled {
		return nil
	}
	if spec.Empty() || s.opts.Environments == nil {
		return s.settle(ctx, s.def.Python)
	}
	env, err := s.opts.Environments.Acquire(ctx, spec, func(line string) { s.condition.building(line) })
	if err != nil {
		return s.unfurnished(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.environment != nil {
		env.Release() // another worker's start was quicker
		return nil
	}
	python := env.Interpreter()
	s.environment, s.python = env, &python
	return nil
}

// settle takes an interpreter of the node as it is.
func (s *spawner) settle(ctx context.Context, version string) error {
	found, err := environment.FindVersion(ctx, s.opts.Python, version)
	if err != nil {
		return s.unfurnished(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.python == nil {
		s.python = &found
	}
	return nil
}

// unfurnished makes the error of an environment that can't be had the definition's, unless the node is to blame.
func (s *spawner) unfurnished(err error) error {
	var fault *environment.BuildError
	if errors.As(err, &fault) {
		s.mu.Lock()
		s.unbuilt = fault.Log
		s.mu.Unlock()
	}
	if fault != nil && !fault.Node {
		return &UserError{ETL: s.def.Name, Summary: fault.Summary, Traceback: fault.Log}
	}
	if errors.Is(err, environment.ErrClosed) {
		return ErrClosed
	}
	return fmt.Errorf("etl %q: %w", s.def.Name, err)
}

// checked are the requirements that a worker looks for itself: all of them where no environment was built.
func (s *spawner) checked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.environment != nil {
		return []string{}
	}
	return append([]string{}, s.def.Requirements...)
}

// vacate gives the environment back. The caller holds mu.
func (s *spawner) vacate() {
	if s.environment != nil {
		s.environment.Release()
		s.environment = nil
	}
}

// buildLog is the end of what the last build of the environment printed, though it failed.
func (s *spawner) buildLog() string {
	s.mu.Lock()
	env, unbuilt := s.environment, s.unbuilt
	s.mu.Unlock()
	if env == nil {
		return unbuilt
	}
	return env.Log()
}
