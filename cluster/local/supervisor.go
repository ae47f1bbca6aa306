package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shardstream/shardstream/cluster/api"
)

const (
	readyTimeout = 30 * time.Second
	nodeGrace    = 8 * time.Second
)

// Options say which cluster to run.
type Options struct {
	Dir  string
	Size Size
	Port int // of the first gateway; 0: the one it has, or DefaultPort; AnyPort: free ones for a new cluster
	// NodeArgs are added to every node's command line: log format, level.
	NodeArgs []string
	Logger   *slog.Logger
}

// Up runs the cluster of a directory until the context ends, then stops it. It calls ready once,
// when every node answers.
func Up(ctx context.Context, o Options, ready func(Spec)) error {
	layout, err := NewLayout(o.Dir)
	if err != nil {
		return err
	}
	if err := layout.make(); err != nil {
		return err
	}
	lock, err := acquire(layout)
	if err != nil {
		return err
	}
	defer lock.release() //nolint:errcheck // the process ends; the kernel unlocks in any case
	spec, err := resolve(layout, o.Size, o.Port)
	if err != nil {
		return err
	}
	if err := checkPorts(spec, killStale(layout, spec)); err != nil {
		return err
	}
	if err := spec.save(layout); err != nil { // not before: a first up that fails must leave the choice open
		return err
	}
	s := &supervisor{layout: layout, spec: spec, log: o.Logger, forker: newForker(), nodeArgs: o.NodeArgs, gone: make(chan string)}
	defer s.forker.close()
	return s.run(ctx, ready)
}

// checkPorts finds a taken port before nodes are started that would fail one by one. The nodes of a
// supervisor killed a moment ago may be about to die still: then it asks again for a while.
func checkPorts(spec Spec, afterKill bool) error {
	deadline := time.Now().Add(2 * time.Second)
	for {
		err := takenPort(spec)
		if err == nil || !afterKill || time.Now().After(deadline) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func takenPort(spec Spec) error {
	for i, node := range spec.Nodes {
		err := portFree(node.Port)
		if err == nil {
			continue
		}
		remedy := "stop the program that listens there"
		if i == 0 {
			remedy += ", or choose another --port"
		}
		var op *net.OpError
		if errors.As(err, &op) {
			err = op.Err
		}
		return fmt.Errorf("port %d of %s can't be used (%w): %s", node.Port, node.ID, err, remedy)
	}
	return nil
}

// supervisor owns the nodes' processes.
type supervisor struct {
	layout   Layout
	spec     Spec
	log      *slog.Logger
	forker   *forker
	nodeArgs []string
	gone     chan string // ids of nodes that were removed from the cluster
}

// run starts all nodes, reports them ready, and stops them when the context ends: targets first, as
// they take their leave at a gateway.
func (s *supervisor) run(ctx context.Context, ready func(Spec)) error {
	gateways := s.startAll(ctx, api.RoleGateway)
	targets := s.startAll(ctx, api.RoleTarget)
	defer gateways.stop()
	defer targets.stop()

	grow := make(chan os.Signal, 1)
	signal.Notify(grow, unix.SIGHUP)
	defer signal.Stop(grow)
	if err := s.awaitReady(ctx, append(gateways.children, targets.children...)); err != nil {
		return err
	}
	if ctx.Err() == nil {
		s.begun()
		ready(s.spec)
	}
	defer s.log.Info("stopping the cluster", "dir", s.layout.Dir)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-grow:
			s.reload(map[string]*group{api.RoleGateway: gateways, api.RoleTarget: targets})
		case id := <-s.gone:
			s.drop(id)
		case err := <-gateways.failed:
			return err
		case err := <-targets.failed:
			return err
		}
	}
}

// begun notes that the cluster exists.
func (s *supervisor) begun() {
	if s.spec.Begun {
		return
	}
	s.spec.Begun = true
	if err := s.spec.save(s.layout); err != nil {
		s.log.Error("cluster.json could not be written", "error", err)
	}
}

// group is the nodes of one role.
type group struct {
	children []*child
	ctx      context.Context //nolint:containedctx // the nodes' life, which ends with stop
	cancel   context.CancelFunc
	wait     sync.WaitGroup
	failed   chan error
}

// startAll starts the nodes of a role; they run until the group's stop, whatever becomes of ctx.
func (s *supervisor) startAll(ctx context.Context, role string) *group {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	g := &group{ctx: ctx, cancel: cancel, failed: make(chan error, 2*maxNodes)}
	for _, node := range s.spec.Nodes {
		if node.Role == role {
			s.startNode(g, s.spec, node)
		}
	}
	return g
}

// startNode adds a node to its group.
func (s *supervisor) startNode(g *group, spec Spec, node NodeSpec) {
	c := &child{
		spec: node, layout: s.layout, args: nodeArgs(s.layout, spec, node, s.nodeArgs),
		forker: s.forker, log: s.log, exited: make(chan error, 1),
		removed: func(ctx context.Context) bool { return s.removed(ctx, node.ID) },
	}
	g.children = append(g.children, c)
	g.wait.Go(func() {
		err := c.run(g.ctx, nodeGrace)
		switch {
		case errors.Is(err, errRemoved):
			select {
			case s.gone <- node.ID:
			case <-g.ctx.Done():
			}
		case err != nil:
			g.failed <- err
		}
	})
}

func (g *group) stop() {
	g.cancel()
	g.wait.Wait()
}
