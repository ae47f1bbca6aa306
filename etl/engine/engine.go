// Package engine runs OCI containers on this machine by the command line of a container engine: podman, docker, or bare
// runc for images that are unpacked already. It knows nothing of transformations: it is told what to run, how confined,
// and under which labels, and says how it ended.
//
// A container runs attached to this process by its standard streams, so that its end is noticed at once and its output
// lies in no log file that could grow. It does not end with this process where that is killed: containers carry labels,
// and Sweep removes those of a node that is starting.
package engine

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// Engines to choose from.
const (
	Auto   = "auto" // podman, else docker; runc for bundles
	Podman = "podman"
	Docker = "docker"
	Runc   = "runc"
	None   = "none" // no containers on this node
)

// Names are the values of Options.Engine.
var Names = []string{Auto, Podman, Docker, Runc, None}

// Networks of a container.
const (
	NetworkNone   = "none"
	NetworkHost   = "host"
	NetworkBridge = "bridge"
)

// Bundle begins the name of an image that is a directory: an OCI bundle, unpacked.
const Bundle = "bundle:"

// ErrNone is returned where no engine can run an image; the error that wraps it says what to do.
var ErrNone = errors.New("no container engine")

// Deadlines of the engines' own commands. Pulling is bounded by the caller's context and pullTimeout.
const (
	probeTimeout = 10 * time.Second
	callTimeout  = 30 * time.Second
	pullTimeout  = 15 * time.Minute
	probeAgain   = 10 * time.Second // after which an engine that was not there is looked for once more
)

// Image is an image that is on this machine.
type Image struct {
	ID   string // runs the same bits also when its name is given to others meanwhile
	User string // that it wants to run as; "" where it does not say
}

// Mount is a directory of the host that a container sees, for reading and writing.
type Mount struct{ Source, Target string }

// Spec is a container to run.
type Spec struct {
	Name    string // unique on the machine
	Image   Image
	Command []string // in place of the image's own; empty: the image's
	Env     map[string]string
	Labels  map[string]string
	Memory  int64   // bytes, swap included; 0: no limit
	CPUs    float64 // 0: no limit
	PIDs    int     // processes and threads
	Tmp     int64   // bytes of /tmp, which is in memory; all else is read-only
	Network string
	Publish string // of network bridge: host:containerport, reachable at a port that the engine chooses (see Port)
	Hosts   bool   // of network bridge: HostName stands for this machine
	Mounts  []Mount
	Once    bool // removed by the engine when it ends, where nothing is to be learned of it any more
}

// HostName is how a container on a bridge calls the machine that it runs on.
const HostName = "host.containers.internal"

// Stdio are the streams of a container. Nil ones are empty, or thrown away.
type Stdio struct {
	In       io.Reader
	Out, Err io.Writer
}

// Engine runs containers. It is safe for concurrent use.
type Engine interface {
	// Name is the engine's, as in "podman 4.3.1".
	Name() string
	// Image finds an image on this machine or pulls it; progress is told what the engine says meanwhile.
	Image(ctx context.Context, name string, progress func(string)) (Image, error)
	// Start runs a container. The context bounds the start only; the container lives until it ends or is removed.
	Start(ctx context.Context, spec Spec, stdio Stdio) (*Container, error)
	// Port is the address at which a published port of a running container is reached.
	Port(ctx context.Context, name string, port int) (string, error)
	// Remove kills a container and removes all that the engine has of it. One that is not there is no error.
	Remove(ctx context.Context, name string) error
	// List names the containers that have the label.
	List(ctx context.Context, label, value string) ([]string, error)
}

// Options are a node's surroundings.
type Options struct {
	Engine string // one of Names; Auto by default
	// Dir is for sockets, the state of runc and the like, and this process's alone. Containers carry its name as a
	// label. By default it is a new one in the system's temporary directory, of which nothing is found again later.
	Dir    string
	Logger *slog.Logger
}

// Engines are the engines of a node, looked for when they are first needed.
type Engines struct {
	opts Options
	run  string // of this process, in the names of all that it makes

	mu     sync.Mutex
	made   int    // names
	images Engine // for images
	bundle Engine // for bundles
	failed map[string]failure
}

// failure is why an engine could not be had, and when it was tried.
type failure struct {
	err error
	at  time.Time
}

// New checks the choice; nothing is started.
func New(opts Options) (*Engines, error) {
	if opts.Engine == "" {
		opts.Engine = Auto
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if !slices.Contains(Names, opts.Engine) {
		return nil, fmt.Errorf("container engine %q: use one of %s", opts.Engine, strings.Join(Names, ", "))
	}
	var run [4]byte
	_, _ = rand.Read(run[:]) // never fails
	e := &Engines{opts: opts, run: hex.EncodeToString(run[:]), failed: map[string]failure{}}
	if e.opts.Dir == "" {
		e.opts.Dir = filepath.Join(os.TempDir(), "shardstream-containers-"+e.run)
	}
	return e, nil
}

// For finds the engine that runs an image; errors wrap ErrNone.
func (e *Engines) For(ctx context.Context, image string) (Engine, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.opts.Engine == None {
		return nil, fmt.Errorf("%w: this node runs none (--etl-engine none)", ErrNone)
	}
	if strings.HasPrefix(image, Bundle) {
		return e.cached(ctx, &e.bundle, "bundle", e.findRunc)
	}
	return e.cached(ctx, &e.images, "image", e.findCLI)
}

// cached remembers what find found, and for a while what it did not. The caller holds mu.
func (e *Engines) cached(ctx context.Context, place *Engine, what string, find func(context.Context) (Engine, error)) (Engine, error) {
	if *place != nil {
		return *place, nil
	}
	if f, ok := e.failed[what]; ok && time.Since(f.at) < probeAgain {
		return nil, f.err
	}
	found, err := find(ctx)
	if err != nil {
		if ctx.Err() == nil {
			e.failed[what] = failure{err, time.Now()}
		}
		return nil, err
	}
	if err := e.mark(); err != nil {
		return nil, err
	}
	*place = found
	e.opts.Logger.Info("container engine found", "engine", found.Name(), "for", what)
	return found, nil
}

func (e *Engines) findRunc(ctx context.Context) (Engine, error) {
	if e.opts.Engine == Podman || e.opts.Engine == Docker {
		return nil, fmt.Errorf("%w: %s runs no unpacked bundle; give the name of an image, or let the node use runc (--etl-engine auto)", ErrNone, e.opts.Engine)
	}
	r, err := openRunc(ctx, e.opts.Dir)
	if err != nil {
		return nil, fmt.Errorf("%w: a bundle needs runc, which does not work here: %w", ErrNone, err)
	}
	return r, nil
}

func (e *Engines) findCLI(ctx context.Context) (Engine, error) {
	if e.opts.Engine == Runc {
		return nil, fmt.Errorf("%w: this node has runc only (--etl-engine runc), which runs unpacked images: unpack it (skopeo copy, umoci unpack) and give bundle:/path", ErrNone)
	}
	var errs []string
	for _, dialect := range []dialect{podmanDialect, dockerDialect} {
		if e.opts.Engine != Auto && e.opts.Engine != dialect.program {
			continue
		}
		c, err := openCLI(ctx, dialect, e.TempDir)
		if err == nil {
			return c, nil
		}
		errs = append(errs, err.Error())
	}
	return nil, fmt.Errorf("%w: install podman or docker on this node (%s)", ErrNone, strings.Join(errs, "; "))
}
