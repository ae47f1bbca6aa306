package local

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shardstream/shardstream/cluster/api"
)

// Grow adds nodes to a cluster whose supervisor runs, and returns when they are ready. RunningError where there is none to
// add: the cluster is up as it is.
func Grow(ctx context.Context, dir string, want Size) (Spec, error) {
	layout, err := NewLayout(dir)
	if err != nil {
		return Spec{}, err
	}
	pid, err := Running(layout.Dir)
	if err != nil {
		return Spec{}, err
	}
	if pid == 0 {
		return Spec{}, fmt.Errorf("the cluster in %s is %w", layout.Dir, ErrNotRunning)
	}
	spec, err := LoadSpec(layout.Dir)
	if err != nil {
		return Spec{}, err
	}
	grown, err := spec.grow(layout, want)
	if err != nil {
		return Spec{}, err
	}
	if len(grown.Nodes) == len(spec.Nodes) {
		return Spec{}, &RunningError{Dir: layout.Dir, PID: pid}
	}
	if err := grown.save(layout); err != nil {
		return Spec{}, err
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return Spec{}, fmt.Errorf("reach supervisor %d of %s: %w", pid, layout.Dir, err)
	}
	defer unix.Close(fd) //nolint:errcheck // nothing to lose
	if again, err := Running(layout.Dir); err != nil || again != pid {
		return Spec{}, errors.Join(err, fmt.Errorf("the cluster in %s is %w any more", layout.Dir, ErrNotRunning))
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGHUP, nil, 0); err != nil {
		return Spec{}, fmt.Errorf("tell supervisor %d of %s: %w", pid, layout.Dir, err)
	}
	s := &supervisor{layout: layout, spec: grown}
	return grown, s.awaitReady(ctx, nil)
}

// grow is the cluster with as many nodes as are wanted. It does not shrink: objects would be looked for in places where they
// are not.
func (s Spec) grow(layout Layout, want Size) (Spec, error) {
	if want.Disks != 0 && want.Disks != s.Disks {
		return s, fmt.Errorf("the targets of the cluster in %s have %d disks each, not %d: leave out --disks, or choose another --dir; "+
			"`shardstream node disk add` adds one to a target", layout.Dir, s.Disks, want.Disks)
	}
	grown := s
	grown.Nodes = slices.Clone(s.Nodes)
	ports := portPicker{next: 0}
	for _, n := range s.Nodes {
		ports.next = max(ports.next, n.Port+1)
	}
	for _, c := range []struct {
		role string
		want int
	}{{api.RoleGateway, want.Gateways}, {api.RoleTarget, want.Targets}} {
		have := s.count(c.role)
		if c.want != 0 && c.want < have {
			return s, fmt.Errorf("the cluster in %s has %d %ss, not %d: `shardstream node drain NODE --wait` and `shardstream node rm NODE` "+
				"take one out; leave out --%ss, or choose another --dir", layout.Dir, have, c.role, c.want, c.role)
		}
		if c.want > maxNodes {
			return s, fmt.Errorf("a local cluster has up to %d %ss, not %d", maxNodes, c.role, c.want)
		}
		for ; have < c.want; have++ {
			grown.Nodes = append(grown.Nodes, NodeSpec{ID: grown.newID(layout, c.role), Role: c.role, Port: ports.pick()})
		}
	}
	slices.SortStableFunc(grown.Nodes, func(a, b NodeSpec) int { return strings.Compare(a.Role, b.Role) }) // gateways first
	return grown, ports.err
}

// newID is a name that no node of the directory has, nor had: the data of one that was removed may still be there.
func (s Spec) newID(layout Layout, role string) string {
	last := 0
	note := func(id string) {
		if n, err := strconv.Atoi(strings.TrimPrefix(id, role+"-")); err == nil && strings.HasPrefix(id, role+"-") {
			last = max(last, n)
		}
	}
	for _, n := range s.Nodes {
		note(n.ID)
	}
	entries, err := os.ReadDir(layout.data(""))
	if err == nil {
		for _, e := range entries {
			note(e.Name())
		}
	}
	return fmt.Sprintf("%s-%d", role, last+1)
}

// without is the cluster less one node.
func (s Spec) without(id string) Spec {
	s.Nodes = slices.DeleteFunc(slices.Clone(s.Nodes), func(n NodeSpec) bool { return n.ID == id })
	return s
}

// reload starts the nodes that cluster.json has by now and the supervisor has not.
func (s *supervisor) reload(groups map[string]*group) {
	spec, err := LoadSpec(s.layout.Dir)
	if err != nil {
		s.log.Error("the cluster stays as it is", "error", err)
		return
	}
	for _, node := range spec.Nodes {
		if !slices.Contains(s.spec.Nodes, node) {
			s.log.Info("starting another node", "node", node.ID)
			s.startNode(groups[node.Role], spec, node)
		}
	}
	s.spec = spec
}

// drop forgets a node that was removed from the cluster. Its data stays where it is.
func (s *supervisor) drop(id string) {
	s.log.Info("a node was removed from the cluster; its data stays until you delete it", "node", id, "data", s.layout.data(id))
	spec, err := LoadSpec(s.layout.Dir)
	if err == nil {
		s.spec = spec.without(id)
		err = s.spec.save(s.layout)
	}
	if err != nil {
		s.log.Error("a node that was removed from the cluster is still in cluster.json", "node", id, "error", err)
	}
}

// removed asks the gateways, those too that came later than the node, whether it is no member any more.
func (s *supervisor) removed(ctx context.Context, id string) bool {
	spec, err := LoadSpec(s.layout.Dir)
	if err != nil {
		s.log.Error("whether a node was removed from the cluster is not known", "node", id, "error", err)
		return false
	}
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for _, endpoint := range spec.others(id) {
		if status, err := statusOf(ctx, client, endpoint); err == nil {
			return !slices.ContainsFunc(status.Nodes, func(n api.Node) bool { return n.ID == id })
		}
	}
	return false
}
