package etl

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

// Options are a pool's surroundings; all have defaults.
type Options struct {
	Python       string        // interpreter; else SHARDSTREAM_PYTHON, python3 beside the binary, python3 on PATH
	Dir          string        // where workers get their temporary directories; the system's by default
	Logger       *slog.Logger  // worker restarts and the like; not the user's output, which Logs returns
	StartTimeout time.Duration // for loading the source, imports included; default 60 s
	MaxSample    int64         // payload bytes of one sample, in or out; default 1 GiB
	LogBytes     int           // of user output kept; default 64 KiB
}

// Stats are a pool's counts since it was made.
type Stats struct {
	Workers  int   // processes wanted
	Running  int   // processes alive
	Samples  int64 // transformed, failures included
	Errors   int64 // samples that failed
	Restarts int64 // processes replaced after a crash or a timeout
	Timeouts int64
	BytesIn  int64
	BytesOut int64
	Waiting  int64         // samples given to Transform and not yet answered
	Busy     time.Duration // summed over workers
}

// Pool is a set of worker processes that all run one definition. It is safe for concurrent use.
type Pool struct {
	def  Definition
	opts Options
}

var errNotBuilt = errors.New("not built yet")

// NewPool checks the definition's form and finds the interpreter; processes start with the first samples.
func NewPool(def Definition, opts Options) (*Pool, error) {
	def = def.WithDefaults()
	if err := def.Validate(); err != nil {
		return nil, err
	}
	return &Pool{def: def, opts: opts}, nil
}

// Definition is what the pool runs, defaults filled in.
func (p *Pool) Definition() Definition { return p.def }

// Transform applies the function to every sample of in; out[i] answers in[i] and must be as long. Samples run
// in parallel. A sample that fails has its Err set and does not stop the others; the error returned means
// that the pool can't work at all (ErrClosed, ErrLevel, a source that doesn't load), or that ctx
// ended. Neither in nor out is touched once Transform has returned. Results own their memory.
func (p *Pool) Transform(ctx context.Context, in []Sample, out []Result) error { return errNotBuilt }

// TransformObject applies an object-level function to one object; name is for messages.
func (p *Pool) TransformObject(ctx context.Context, name string, data []byte) ([]byte, error) {
	return nil, errNotBuilt
}

// Logs is the end of what user code wrote to stdout and stderr.
func (p *Pool) Logs() string { return "" }

// Stats are the pool's counts.
func (p *Pool) Stats() Stats { return Stats{} }

// Close ends the pool: running samples are given up, every process and goroutine is joined. Idempotent.
func (p *Pool) Close() error { return nil }

// Check loads a definition's source in a worker of its own: syntax errors, failing imports, missing
// requirements and a missing entry come back as *UserError, faults of form as *DefinitionError.
func Check(ctx context.Context, def Definition, opts Options) error { return errNotBuilt }
