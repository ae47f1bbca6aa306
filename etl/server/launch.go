package server

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shardstream/shardstream/etl"
	"github.com/shardstream/shardstream/etl/engine"
)

const (
	socketDir     = "/run/shardstream" // in the container
	socketName    = "etl.sock"
	bridgePort    = 8080 // that a server on a bridge is told to listen on
	healthPause   = 20 * time.Millisecond
	healthPauses  = 250 * time.Millisecond // the longest between two tries
	containerPIDs = 1024
)

// start starts a container and waits until its server answers.
func (k *keeper) start(ctx context.Context) (*instance, *etl.UserError) {
	l := &launch{keeper: k}
	i, err := l.run(ctx)
	if err != nil {
		l.undo()
		return nil, k.unavailable(err)
	}
	return i, nil
}

// launch is one container on its way.
type launch struct {
	keeper    *keeper
	engine    engine.Engine
	spec      engine.Spec
	sockets   string // directory of the host with the server's socket; "" where it listens on a port alone
	port      int    // that the server listens on; 0: only the socket
	container *engine.Container
}

// undo removes what there is so far.
func (l *launch) undo() {
	if l.container != nil {
		if err := l.container.Remove(); err != nil {
			l.keeper.log.Warn("a container could not be removed", "container", l.container.Name, "error", err)
		}
	}
	if l.sockets != "" {
		_ = os.RemoveAll(l.sockets)
	}
}

func (l *launch) run(ctx context.Context) (*instance, error) {
	k := l.keeper
	says := func(detail string) { k.set(func() { k.state.State, k.state.Detail = etl.StateBuilding, detail }) }
	says("looking for image " + k.def.Image)
	var err error
	if l.engine, err = k.opts.Engines.For(ctx, k.def.Image); err != nil {
		return nil, err
	}
	image, err := l.engine.Image(ctx, k.def.Image, says)
	if err != nil {
		return nil, err
	}
	l.spec = Spec(k.def, image, k.opts.Labels)
	k.opts.Engines.Identify(&l.spec, k.def.Name)
	if err := l.prepare(); err != nil {
		return nil, err
	}
	k.set(func() {
		k.state.State, k.state.Detail = etl.StateStarting, "waiting for the server in the container"
		k.state.Isolation, k.state.Confined = "container by "+l.engine.Name(), Confined(l.spec)
	})
	l.container, err = l.engine.Start(ctx, l.spec, engine.Stdio{Out: k.out, Err: k.out})
	if err != nil {
		return nil, err
	}
	e, err := l.await(ctx)
	if err != nil {
		return nil, err
	}
	return &instance{endpoint: e, container: l.container, giveUp: make(chan struct{}), remove: func() { e.close(); l.undo() }}, nil
}

// Spec is what every container of a definition has in common, server or filter.
func Spec(def etl.Definition, image engine.Image, labels map[string]string) engine.Spec {
	spec := engine.Spec{
		Image: image, Command: def.Command,
		Env: maps.Clone(def.Env), Labels: maps.Clone(labels), Memory: def.Limits.Memory, CPUs: def.Limits.CPUs,
		PIDs: containerPIDs, Tmp: def.Limits.Memory / 2, Network: def.Network,
	}
	if spec.Env == nil {
		spec.Env = map[string]string{}
	}
	if spec.Labels == nil {
		spec.Labels = map[string]string{}
	}
	spec.Labels["shardstream.etl"], spec.Labels["shardstream.version"] = def.Name, strconv.FormatInt(def.Version, 10)
	return spec
}

// Confined says to people what bounds a container.
func Confined(spec engine.Spec) []string {
	list := []string{"read-only root", "no capabilities", "no new privileges", fmt.Sprintf("%d processes", spec.PIDs)}
	if spec.Image.User == "" {
		list = append(list, "unprivileged user")
	}
	if spec.Memory > 0 {
		list = append(list, fmt.Sprintf("memory %d MiB", spec.Memory>>20))
	}
	if spec.CPUs > 0 {
		list = append(list, fmt.Sprintf("%g CPUs", spec.CPUs))
	}
	return append(list, "network "+spec.Network)
}

// prepare adds what makes the container a server: where it listens, and where it reads objects.
func (l *launch) prepare() error {
	k := l.keeper
	env := l.spec.Env
	for name, value := range map[string]string{
		"SHARDSTREAM_ETL": k.def.Name, "SHARDSTREAM_WORKERS": strconv.Itoa(k.book.Workers()),
		"SHARDSTREAM_TARGET_URL": k.opts.Source, "AIS_TARGET_URL": k.opts.Source,
	} {
		env[name] = value
	}
	if k.def.Transport != etl.TransportRedirect { // whose clients come from elsewhere
		dir, err := k.opts.Engines.TempDir()
		if err != nil {
			return err
		}
		l.sockets = dir
		inner := filepath.Join(dir, "s")
		// The container's user writes into the inner directory; the outer one keeps the machine's other users out.
		if err := os.Mkdir(inner, 0o700); err != nil {
			return err
		}
		if err := os.Chmod(inner, 0o777); err != nil { //nolint:gosec // see above
			return err
		}
		l.spec.Mounts = append(l.spec.Mounts, engine.Mount{Source: inner, Target: socketDir})
		env["SHARDSTREAM_SOCKET"] = socketDir + "/" + socketName
	}
	switch k.def.Network {
	case etl.NetworkHost:
		if l.port = k.def.Port; l.port != 0 {
			if err := l.checkPort(); err != nil {
				return err
			}
			break
		}
		port, err := freePort()
		if err != nil {
			return err
		}
		l.port = port
	case etl.NetworkBridge:
		if l.port = k.def.Port; l.port == 0 {
			l.port = bridgePort
		}
		l.spec.Publish, l.spec.Hosts = l.publishOn()+":"+strconv.Itoa(l.port), true
	}
	if l.port != 0 {
		env["PORT"] = strconv.Itoa(l.port)
	}
	if k.def.Network == etl.NetworkHost {
		env["SHARDSTREAM_LISTEN"] = l.direct() // and at no other address of this machine
	}
	return nil
}

// direct is where a server on the host's network is asked.
func (l *launch) direct() string {
	host := "127.0.0.1"
	if l.keeper.def.Transport == etl.TransportRedirect {
		host = l.keeper.opts.Host
	}
	return net.JoinHostPort(host, strconv.Itoa(l.port))
}

// publishOn is the address at which a container on a bridge is reached: by this node alone, or by clients too.
func (l *launch) publishOn() string {
	if l.keeper.def.Transport != etl.TransportRedirect {
		return "127.0.0.1"
	}
	if ip, err := netip.ParseAddr(l.keeper.opts.Host); err == nil {
		return ip.String()
	}
	return "0.0.0.0"
}

// checkPort refuses a port that is taken: whoever answers there is not the container that is to be started.
func (l *launch) checkPort() error {
	listener, err := net.Listen("tcp", l.direct()) //nolint:noctx // at once
	switch {
	case err == nil:
		return listener.Close()
	case errors.Is(err, syscall.EADDRINUSE):
		return &etl.UserError{ETL: l.keeper.def.Name, Summary: fmt.Sprintf("port %d of this machine is in use, perhaps by the version before: "+
			"leave the port out, so that each container is given one of its own ($PORT), or delete the etl first", l.port)}
	}
	return nil // the container will tell
}

// freePort finds a port that is free now; where somebody else takes it meanwhile, the next start gets another.
func freePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // at once
	if err != nil {
		return 0, err
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port, nil
}

// await tries the ways to the server until one of them answers.
func (l *launch) await(ctx context.Context) (*endpoint, error) {
	k := l.keeper
	ctx, cancel := context.WithTimeout(ctx, k.opts.StartTimeout)
	defer cancel()
	var last error
	for pause := healthPause; ; pause = min(2*pause, healthPauses) {
		for _, way := range l.ways(ctx, &last) {
			err := way.check(ctx)
			if err == nil {
				return way, nil
			}
			way.close()
			last = err
		}
		select {
		case <-l.container.Exited():
			fault := k.died(l.container.Exit())
			if fault.Summary += " before it answered GET /health"; l.container.Exit().Failed {
				fault = &etl.UserError{ETL: k.def.Name, Summary: l.container.Exit().String()}
			}
			return nil, fault
		case <-ctx.Done():
			if k.ctx.Err() != nil {
				return nil, etl.ErrClosed
			}
			return nil, &etl.UserError{
				ETL: k.def.Name, Traceback: k.lastWords(),
				Summary: fmt.Sprintf("the server in the container did not answer GET /health within %s %s (%v)", k.opts.StartTimeout, l.where(), last),
			}
		case <-time.After(pause):
		}
	}
}

// dialSocket connects to a socket in a directory that a container may write to, however long its path is. A link there
// could lead to any socket of the machine, so none is followed.
func dialSocket(ctx context.Context, path string) (net.Conn, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	defer func() { _ = unix.Close(fd) }()
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return nil, fmt.Errorf("%s is no socket", path)
	}
	return (&net.Dialer{Timeout: healthTimeout}).DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d", fd))
}

// where is where the server was expected.
func (l *launch) where() string {
	socket := "on the socket $SHARDSTREAM_SOCKET"
	switch {
	case l.port == 0:
		return socket + "; one that listens on a port needs the network host or bridge"
	case l.sockets == "":
		return fmt.Sprintf("on port %d ($PORT)", l.port)
	}
	return fmt.Sprintf("%s or on port %d ($PORT)", socket, l.port)
}

// ways are the endpoints at which the server may listen by now.
func (l *launch) ways(ctx context.Context, last *error) []*endpoint {
	var list []*endpoint
	workers := l.keeper.book.Workers()
	public := "http://" + net.JoinHostPort(l.keeper.opts.Host, strconv.Itoa(l.port))
	if l.sockets != "" {
		socket := filepath.Join(l.sockets, "s", socketName)
		if _, err := os.Lstat(socket); err == nil {
			list = append(list, newEndpoint("http://etl", "", workers, func(ctx context.Context) (net.Conn, error) {
				return dialSocket(ctx, socket)
			}))
		} else if *last == nil {
			*last = err
		}
	}
	if l.port == 0 {
		return list
	}
	address := l.direct()
	if l.spec.Network == engine.NetworkBridge {
		published, err := l.engine.Port(ctx, l.spec.Name, l.port)
		if err != nil {
			*last = err
			return list
		}
		address = published
		_, port, _ := net.SplitHostPort(published)
		public = "http://" + net.JoinHostPort(l.keeper.opts.Host, port)
	}
	return append(list, newEndpoint("http://"+address, public, workers, nil))
}
