package etl

import (
	"bytes"
	"context"
	"io"
	"time"
)

// Runtime is a definition at work on this node: a pool of worker processes, a container, a server or a program. It is
// safe for concurrent use. Errors of the user's side are *UserError, *SizeError or ErrLevel; ErrClosed says that the
// definition was replaced.
type Runtime interface {
	Definition() Definition

	// Prepare brings up what the first request would otherwise wait for, and says why that can't be done.
	Prepare(ctx context.Context) error

	// Transform applies the definition to every sample of in; out[i] answers in[i] and must be as long. A sample that
	// fails has its Err set and does not stop the others; the error returned means that nothing can work, or that ctx
	// ended. Neither in nor out is touched once Transform has returned.
	Transform(ctx context.Context, args Args, in []Sample, out []Result) error

	// TransformObject applies an object-level definition to one object. The answer may still be in the making:
	// reading its body can fail as the call can. The caller closes it.
	TransformObject(ctx context.Context, args Args, object Object) (*Output, error)

	Health() Health
	Logs() string // the end of what user code printed
	Stats() Stats

	// Restart replaces processes or containers by new ones; what is under way may finish.
	Restart(ctx context.Context) error

	// Shutdown refuses new calls with ErrClosed, lets the running ones finish and closes; at once when ctx ends first.
	Shutdown(ctx context.Context) error
	Close() error
}

// Redirector is a Runtime of transport redirect: clients are sent on to it.
type Redirector interface {
	// Location is where a client gets the transformed object.
	Location(ctx context.Context, args Args, object Object) (string, error)
}

// Object is what an object-level transformation is given.
type Object struct {
	Bucket, Key, Member string // where it lies, for messages and for servers that read it themselves
	Derived             bool   // Body is not what lies there, but what another transformation has made of it
	Size                int64  // -1: not known
	Body                io.Reader
}

// Name is how messages call an object.
func (o Object) Name() string {
	name := o.Key
	if o.Bucket != "" {
		name = "ss://" + o.Bucket + "/" + o.Key
	}
	if o.Member != "" {
		name += "?member=" + o.Member
	}
	return name
}

// Output is a transformed object.
type Output struct {
	Body        io.ReadCloser
	Size        int64  // -1: not known yet
	ContentType string // empty: not told
}

// ReadAll reads what a field becomes into memory, as far as both the limit and MaxHeld allow, and closes the output.
func (o *Output) ReadAll(key string, limit int64) ([]byte, error) {
	defer func() { _ = o.Body.Close() }() // what matters of it was read
	limit = min(limit, MaxHeld)
	if o.Size > limit {
		return nil, &SizeError{Key: key, Size: o.Size, Limit: limit}
	}
	var data bytes.Buffer
	if o.Size > 0 {
		data.Grow(int(o.Size) + bytes.MinRead) // which ReadFrom wants at the end
	}
	n, err := data.ReadFrom(io.LimitReader(o.Body, limit+1))
	switch {
	case err != nil:
		return nil, err
	case n > limit:
		return nil, &SizeError{Key: key, Size: n, Limit: limit}
	case o.Size >= 0 && n != o.Size:
		return nil, io.ErrUnexpectedEOF
	}
	return data.Bytes(), nil
}

// States of a runtime.
const (
	StateNew      = "new"      // nothing was asked of it yet
	StateBuilding = "building" // its environment or image is being made
	StateStarting = "starting"
	StateReady    = "ready"
	StateFailed   = "failed" // Detail says why
)

// Health is how a runtime is on this node.
type Health struct {
	State     string    `json:"state"`
	Detail    string    `json:"detail,omitempty"` // one line, for people: why it failed, what is being built
	Since     time.Time `json:"since"`
	Isolation string    `json:"isolation,omitempty"` // the level in force; empty where the node does not start it
	Confined  []string  `json:"confined,omitempty"`  // what exactly: "user namespace", "memory by cgroup", ...
	Python    string    `json:"python,omitempty"`    // version of the interpreter of a function
}

// Stats are a runtime's counts since it was made.
type Stats struct {
	Workers  int // processes wanted, or requests at once
	Running  int // processes alive
	Requests int64
	Samples  int64 // transformed, failures included; objects count as one
	Errors   int64 // samples that failed
	Restarts int64 // processes that died and were given up: crashes and timeouts
	Timeouts int64
	BytesIn  int64
	BytesOut int64
	Waiting  int64         // samples given to it and not yet answered
	Busy     time.Duration // summed over workers
	Latency  Histogram     // of calls, from the request to the end of the answer
}
