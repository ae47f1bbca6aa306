// Package server runs transformations that are HTTP servers: containers that the node starts, and servers that somebody
// else runs. The contract, which servers written for AIStore's ETL fulfil as they are:
//
//	GET  /health            2xx once the server can work
//	PUT  /{bucket}/{key}    push: the object is the body, the answer is what it becomes
//	GET  /{bucket}/{key}    redirect, proxy: the server reads the object at $SHARDSTREAM_TARGET_URL + the path, which is
//	                        also called $AIS_TARGET_URL
//	POST /samples           levels sample and batch: package etl/samples says how these travel
//
// Arguments are JSON in the query, ?etl_args=. Whatever answers with another status than 2xx has failed on this object.
package server

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/shardstream/shardstream/etl"
	"github.com/shardstream/shardstream/etl/calls"
	"github.com/shardstream/shardstream/etl/engine"
)

const (
	defaultStart    = time.Minute
	defaultLogBytes = 64 << 10
)

// Options are what a node gives to its servers.
type Options struct {
	Logger       *slog.Logger
	Engines      *engine.Engines   // for containers
	Labels       map[string]string // of every container that is started, by which the node finds them again
	Host         string            // address of this node; 127.0.0.1 by default
	Target       string            // id of this node
	Source       string            // URL at which the server reads this node's objects, without the slash at its end
	StartTimeout time.Duration     // for a container to answer; default 60 s
	LogBytes     int               // of a container's output kept; default 64 KiB
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Host == "" {
		o.Host = "127.0.0.1"
	}
	if o.StartTimeout <= 0 {
		o.StartTimeout = defaultStart
	}
	if o.LogBytes <= 0 {
		o.LogBytes = defaultLogBytes
	}
	return o
}

// host is where a server lives.
type host interface {
	// acquire waits until the server can be asked, and says why it can't be.
	acquire(ctx context.Context) (*endpoint, error)
	// explain says what a failed request means, nil where the host knows no more than the error; it may wait a moment
	// for the end of a server that has just broken off.
	explain(e *endpoint, err error) *etl.UserError
	// suspect is told of a server that did not answer a request in time.
	suspect(e *endpoint)
	health() etl.Health
	logs() string
	running() int
	restart(ctx context.Context) error
	close() error
}

// Server is a definition of kind container or server at work. It is safe for concurrent use.
type Server struct {
	def  etl.Definition
	book *calls.Book
	host host
}

var _ etl.Runtime = (*Server)(nil)

// New makes the runtime of a definition whose transport is push, redirect or proxy. Nothing is started.
func New(def etl.Definition, opts Options) (etl.Runtime, error) {
	def = def.WithDefaults()
	if err := def.Validate(); err != nil {
		return nil, err
	}
	opts = opts.withDefaults()
	s := &Server{def: def, book: calls.New(def.Workers)}
	switch def.Kind {
	case etl.KindServer:
		remote, err := newRemote(def, opts)
		if err != nil {
			return nil, err
		}
		s.host = remote
	case etl.KindContainer:
		if opts.Engines == nil {
			return nil, errors.New("a container needs Options.Engines")
		}
		s.host = newKeeper(def, opts, s.book)
	default:
		return nil, &etl.DefinitionError{Field: "kind", Reason: def.Kind + " is no server"}
	}
	if def.Transport == etl.TransportRedirect {
		return &redirector{s}, nil
	}
	return s, nil
}

// redirector is a Server that clients may be sent on to.
type redirector struct{ *Server }

var _ etl.Redirector = (*redirector)(nil)

// Location is where a client gets the transformed object.
func (r *redirector) Location(ctx context.Context, args etl.Args, object etl.Object) (string, error) {
	merged, err := r.def.MergeArgs(args)
	if err != nil {
		return "", err
	}
	call, err := r.book.Begin(ctx)
	if err != nil {
		return "", err
	}
	e, err := r.host.acquire(call.Ctx)
	if err != nil {
		call.End(1, 1)
		return "", err
	}
	defer e.release()
	call.End(1, 0)
	return e.public + path(object) + query(merged), nil
}

// Definition is what the server runs, defaults filled in.
func (s *Server) Definition() etl.Definition { return s.def }

// Prepare brings the server up, or sees whether it is.
func (s *Server) Prepare(ctx context.Context) error {
	e, err := s.host.acquire(ctx)
	if err != nil {
		return err
	}
	defer e.release()
	if remote, ok := s.host.(*remote); ok {
		return remote.check(ctx)
	}
	return nil
}

// Transform applies the server to samples: as they are, or to the fields of each where it works on whole objects.
func (s *Server) Transform(ctx context.Context, args etl.Args, in []etl.Sample, out []etl.Result) error {
	if s.def.Level != etl.LevelObject {
		return s.samples(ctx, args, in, out)
	}
	return calls.Fields(ctx, s.def, s.book.Workers(), in, out, func(ctx context.Context, name string, data []byte) ([]byte, error) {
		return s.bytes(ctx, args, name, data)
	})
}

// Health is how the server is on this node.
func (s *Server) Health() etl.Health { return s.host.health() }

// Logs is the end of what a container wrote.
func (s *Server) Logs() string { return s.host.logs() }

// Stats are the server's counts.
func (s *Server) Stats() etl.Stats { return s.book.Stats(s.host.running()) }

// Restart replaces the container by a new one; a server of somebody else's is asked whether it is well.
func (s *Server) Restart(ctx context.Context) error { return s.host.restart(ctx) }

// Shutdown refuses new calls, lets the running ones finish and removes the container; at once when ctx ends first.
func (s *Server) Shutdown(ctx context.Context) error {
	s.book.Drain(ctx)
	return s.host.close()
}

// Close ends the running calls and removes the container. Idempotent.
func (s *Server) Close() error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return s.Shutdown(ctx)
}
