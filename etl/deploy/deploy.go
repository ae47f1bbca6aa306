// Package deploy makes the runtime of a definition, whatever its kind.
package deploy

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/shardstream/shardstream/etl"
)

// Options are what a node gives to the runtimes that it makes. All have defaults.
type Options struct {
	Logger *slog.Logger
	Dir    string // for environments, unpacked images and the like; the system's temporary directory by default
	Pool   etl.Options
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
	default:
		return nil, &etl.DefinitionError{Field: "kind", Reason: fmt.Sprintf("%q does not run yet", def.Kind)}
	}
}

// Check tries a definition as far as that is possible away from the targets that will run it: the source of a function
// is loaded. What the user has to mend comes back as *etl.UserError or *etl.DefinitionError.
func Check(ctx context.Context, def etl.Definition, opts Options) error {
	def = def.WithDefaults()
	if err := def.Validate(); err != nil {
		return err
	}
	if def.Kind != etl.KindFunction {
		return nil
	}
	if opts.Pool.Logger == nil {
		opts.Pool.Logger = opts.Logger
	}
	return etl.Check(ctx, def, opts.Pool)
}
