// Package deploy makes the runtime of a definition, whatever its kind.
package deploy

import (
	"log/slog"

	"github.com/shardstream/shardstream/etl"
	"github.com/shardstream/shardstream/etl/engine"
	"github.com/shardstream/shardstream/etl/filter"
	"github.com/shardstream/shardstream/etl/server"
)

// Options are what a node gives to the runtimes that it makes. All have defaults.
type Options struct {
	Logger *slog.Logger
	Dir    string // for environments, unpacked images and the like; the system's temporary directory by default
	Pool   etl.Options

	Engines *engine.Engines   // for containers; those that the machine has by default
	Labels  map[string]string // of every container that is started
	Host    string            // address of this node, as clients and servers know it
	Target  string            // id of this node
	// Source makes the URL at which the server of a definition reads this node's objects; nil: it can't.
	Source func(etl.Definition) string
}

// New makes the runtime of a definition. It starts nothing: Prepare, or the first request, does.
func New(def etl.Definition, opts Options) (etl.Runtime, error) {
	def = def.WithDefaults()
	if err := def.Validate(); err != nil {
		return nil, err
	}
	if opts.Pool.Logger == nil {
		opts.Pool.Logger = opts.Logger
	}
	switch def.Kind {
	case etl.KindFunction:
		pool, err := etl.NewPool(def, opts.Pool)
		if err != nil {
			return nil, err // and no pool in an interface
		}
		return pool, nil
	case etl.KindCommand:
		return newFilter(def, opts)
	}
	if opts.Engines == nil {
		engines, err := engine.New(engine.Options{Logger: opts.Logger})
		if err != nil {
			return nil, err
		}
		opts.Engines = engines
	}
	if def.Transport == etl.TransportStdio {
		return newFilter(def, opts)
	}
	o := server.Options{Logger: opts.Logger, Engines: opts.Engines, Labels: opts.Labels, Host: opts.Host, Target: opts.Target}
	if opts.Source != nil {
		o.Source = opts.Source(def)
	}
	return server.New(def, o)
}

func newFilter(def etl.Definition, opts Options) (etl.Runtime, error) {
	f, err := filter.New(def, filter.Options{
		Logger: opts.Logger, Engines: opts.Engines, Labels: opts.Labels,
		Dir: opts.Pool.Dir, Hide: opts.Pool.Hide, Isolation: opts.Pool.Isolation,
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}
