// Package filter runs transformations that are programs: started for each object, they read it from stdin and write what
// it becomes to stdout. The program is one of the node's, or one in a container.
//
// A program gets its arguments by its environment, never by its command line, where they could be taken for options:
// SHARDSTREAM_ARGS is the JSON object, SHARDSTREAM_ARG_<name> is each argument that is a string, a number or a truth
// value, and SHARDSTREAM_OBJECT says what is being transformed. Exit status 0 means that the output is whole; with any
// other, the object has failed however much was written.
package filter

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/shardstream/shardstream/etl"
	"github.com/shardstream/shardstream/etl/calls"
	"github.com/shardstream/shardstream/etl/engine"
)

const (
	defaultLogBytes = 64 << 10
	// held is how much of an answer is waited for before it is handed out: a program that fails soon, or says little,
	// is known to have failed before anybody was sent a byte.
	held = 64 << 10
)

// Options are what a node gives to its filters.
type Options struct {
	Logger  *slog.Logger
	Engines *engine.Engines   // for containers
	Labels  map[string]string // of every container that is started
	Dir     string            // for scratch directories of programs; the system's temporary directory by default
	Hide    []string          // directories of the node that programs must not see
	// Isolation is the least that a program of the node is confined to, as package sandbox has it; "": the most there is.
	Isolation string
	LogBytes  int // of stderr kept; default 64 KiB
}

// program is what is started for each object.
type program interface {
	// prepare looks whether it is there.
	prepare(ctx context.Context) error
	// start runs it with these variables and streams.
	start(ctx context.Context, env map[string]string, stdin, stdout *os.File, stderr io.Writer) (process, error)
	health() etl.Health
	// renew forgets what is known of the program, so that the next call looks again.
	renew()
}

// process is one run of a program.
type process interface {
	// exited is closed when it has ended and its stderr was read.
	exited() <-chan struct{}
	// verdict is how it ended, once it has: "" for exit status 0.
	verdict() string
	// kill ends it and all that it has started, and joins it. Idempotent.
	kill()
}

// Filter is a definition of transport stdio at work. It is safe for concurrent use.
type Filter struct {
	def     etl.Definition
	book    *calls.Book
	program program
	log     *etl.Log
}

var _ etl.Runtime = (*Filter)(nil)

// New makes the runtime of a definition of kind command, or of kind container and transport stdio.
func New(def etl.Definition, opts Options) (*Filter, error) {
	def = def.WithDefaults()
	if err := def.Validate(); err != nil {
		return nil, err
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.LogBytes <= 0 {
		opts.LogBytes = defaultLogBytes
	}
	f := &Filter{def: def, book: calls.New(def.Workers), log: etl.NewLog(opts.LogBytes)}
	switch {
	case def.Kind == etl.KindCommand:
		f.program = newCommand(def, opts)
	case def.Kind == etl.KindContainer && def.Transport == etl.TransportStdio && opts.Engines != nil:
		f.program = newContainer(def, opts)
	default:
		return nil, &etl.DefinitionError{Field: "transport", Reason: def.Transport + " is no filter's"}
	}
	return f, nil
}

// Definition is what the filter runs, defaults filled in.
func (f *Filter) Definition() etl.Definition { return f.def }

// Prepare looks whether the program, or the image, is there.
func (f *Filter) Prepare(ctx context.Context) error { return f.program.prepare(ctx) }

// Transform runs fields of each sample through the program.
func (f *Filter) Transform(ctx context.Context, args etl.Args, in []etl.Sample, out []etl.Result) error {
	return calls.Fields(ctx, f.def, f.book.Workers(), in, out, func(ctx context.Context, name string, data []byte) ([]byte, error) {
		output, err := f.TransformObject(ctx, args, etl.Object{Key: name, Size: int64(len(data)), Body: bytes.NewReader(data)})
		if err != nil {
			return nil, err
		}
		return output.ReadAll(name, f.def.Limits.Output)
	})
}

// TransformObject runs one object through the program. Its answer streams.
func (f *Filter) TransformObject(ctx context.Context, args etl.Args, object etl.Object) (*etl.Output, error) {
	merged, err := f.def.MergeArgs(args)
	if err != nil {
		return nil, err
	}
	call, err := f.book.Begin(ctx)
	if err != nil {
		return nil, err
	}
	r, err := f.begin(call, object, merged)
	if err != nil {
		call.End(1, 1)
		return nil, err
	}
	body := call.Answer(r, r.close, r.name, f.def.Limits.Output, r.fail)
	head := make([]byte, held)
	n, err := io.ReadFull(body, head)
	switch {
	case err == nil:
		return &etl.Output{Body: &joined{io.MultiReader(bytes.NewReader(head), body), body}, Size: -1}, nil
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return &etl.Output{Body: &joined{bytes.NewReader(head[:n]), body}, Size: int64(n)}, nil
	}
	_ = body.Close()
	return nil, err
}

// joined reads from one and closes another.
type joined struct {
	io.Reader
	io.Closer
}

// environment is what a run is told beside its stdin.
func environment(def etl.Definition, args etl.Args, name string) map[string]string {
	env := map[string]string{"SHARDSTREAM_ETL": def.Name, "SHARDSTREAM_OBJECT": name, "SHARDSTREAM_ARGS": "{}"}
	for name, value := range def.Env {
		env[name] = value
	}
	if len(args) == 0 {
		return env
	}
	env["SHARDSTREAM_ARGS"] = string(args)
	var values map[string]json.RawMessage
	if json.Unmarshal(args, &values) != nil {
		return env // they were checked before
	}
	for name, value := range values {
		var text string
		switch {
		case json.Unmarshal(value, &text) == nil && string(value) != "null":
		case value[0] == '{' || value[0] == '[' || string(value) == "null":
			continue
		default:
			text = string(value)
		}
		env["SHARDSTREAM_ARG_"+name] = text
	}
	return env
}

// Health is how the program is on this node.
func (f *Filter) Health() etl.Health { return f.program.health() }

// Logs is the end of what the program wrote to stderr.
func (f *Filter) Logs() string { return f.log.String() }

// Stats are the filter's counts.
func (f *Filter) Stats() etl.Stats {
	stats := f.book.Stats(0)
	stats.Running = int(min(stats.Waiting, int64(stats.Workers)))
	return stats
}

// Restart looks for the program anew; each object has a process of its own as it is.
func (f *Filter) Restart(ctx context.Context) error {
	f.program.renew()
	return f.program.prepare(ctx)
}

// Shutdown refuses new calls and lets the running ones finish; it ends them when ctx ends first.
func (f *Filter) Shutdown(ctx context.Context) error {
	f.book.Drain(ctx)
	return nil
}

// Close ends the running calls. Idempotent.
func (f *Filter) Close() error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return f.Shutdown(ctx)
}

// failure is a fault of the user's program.
func (f *Filter) failure(name, summary, detail string) error {
	return &etl.UserError{ETL: f.def.Name, Key: name, Summary: summary, Traceback: detail}
}

func (f *Filter) tooLarge(name string) error {
	return f.failure(name, fmt.Sprintf("its output has more than the %d bytes that are allowed (max_output)", f.def.Limits.Output), "")
}
