package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"
)

// probeTimeout bounds all attempts together.
const probeTimeout = 2 * time.Minute

// machine is what can be done here.
type machine struct {
	root   bool
	bwrap  string
	abi    int  // of landlock
	spaces bool // namespaces can be made without bubblewrap
	groups hierarchies
	ids    identities
}

// boundsScratch says whether a level gives the scratch directory a file system of its own.
func (m *machine) boundsScratch(level string) bool {
	return level == Strict || level == Landlock && m.spaces
}

// Report is what a probe has found.
type Report struct {
	machine *machine
	faults  map[string]error // by level, why it can't be had
}

var probed struct {
	sync.Mutex
	report *Report
}

// Probe finds out what the machine can do, by doing it. The answer is kept for the life of the process; the first probe
// also removes what a node that was killed has left.
func Probe(ctx context.Context) (*Report, error) {
	probed.Lock()
	defer probed.Unlock()
	if probed.report != nil {
		return probed.report, nil
	}
	// One caller's haste must not decide what the others get.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), probeTimeout)
	defer cancel()
	report, err := probe(ctx)
	if err != nil {
		return nil, fmt.Errorf("find out how users' code can be isolated: %w", err)
	}
	probed.report = report
	return report, nil
}

func probe(ctx context.Context) (*Report, error) {
	dir, err := os.MkdirTemp("", "shardstream-probe-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	m := &machine{root: os.Geteuid() == 0, bwrap: bubblewrap(), abi: landlockABI(), groups: findHierarchies()}
	m.groups.sweepGroups()
	try := func(level string) error {
		p, err := m.start(ctx, level, Spec{Dir: dir})
		if err != nil {
			return err
		}
		end := p.Wait()
		if err := p.Close(); err != nil {
			return err
		}
		if end.Code != 0 {
			return fmt.Errorf("a trial ended with %+v", end)
		}
		return nil
	}
	if err := try(None); err != nil && m.groups.version != 0 {
		m.groups = hierarchies{} // they can be made, but not used
	}
	r := &Report{machine: m, faults: map[string]error{None: try(None)}}
	if r.faults[None] != nil {
		return nil, r.faults[None]
	}
	r.faults[Strict] = errors.New("it needs bubblewrap, which is not installed (Debian, Ubuntu, Fedora: package bubblewrap)")
	if m.bwrap != "" {
		r.faults[Strict] = try(Strict)
	}
	r.faults[Landlock] = tryLandlock(m, try)
	return r, ctx.Err()
}

// tryLandlock tries the level with namespaces and without.
func tryLandlock(m *machine, try func(string) error) error {
	if m.abi == 0 {
		return errors.New("it needs a kernel of 5.13 or later with landlock among its security modules (lsm=landlock,... on its command line)")
	}
	m.spaces = true
	if try(Landlock) == nil {
		return nil
	}
	m.spaces = false
	if m.abi < abiNetwork {
		return fmt.Errorf("it needs a kernel of 6.7 or later (landlock 4, this one has %d), or leave to make namespaces: without either the network can't be cut off", m.abi)
	}
	return try(Landlock)
}

// order is that of the levels, from the least to the most.
var order = []string{None, Landlock, Strict}

// Best is the most that the machine has.
func (r *Report) Best() string {
	for _, level := range slices.Backward(order) {
		if r.faults[level] == nil {
			return level
		}
	}
	return None
}

// Level is the level that runs when one is wanted: itself, or for Auto and "" the most that the machine has, which must not
// be None. The error says what is missing and what to do.
func (r *Report) Level(want string) (string, error) {
	switch want {
	case "", Auto:
		if best := r.Best(); best != None {
			return best, nil
		}
		return "", fmt.Errorf("users' code can't be isolated on this machine: for strict, %w; for landlock, %w; "+
			"or accept workers without isolation with --etl-isolation none", r.faults[Strict], r.faults[Landlock])
	case Strict, Landlock, None:
		if err := r.faults[want]; err != nil {
			return "", fmt.Errorf("isolation %s can't be had on this machine: %w", want, err)
		}
		return want, nil
	}
	return "", fmt.Errorf("isolation %q: use %s, %s, %s or %s", want, Auto, Strict, Landlock, None)
}

// Choose is the level of a program, from the least that the node accepts and the least that the program's owner does
// (Auto or "": the most that there is). The stronger wins.
func (r *Report) Choose(node, owner string) (string, error) {
	least, err := r.Level(node)
	if err != nil {
		return "", err
	}
	if owner == "" || owner == Auto {
		return r.Best(), nil // not less than least, which is there
	}
	level, err := r.Level(owner)
	if err != nil {
		return "", err
	}
	if slices.Index(order, level) < slices.Index(order, least) {
		return least, nil
	}
	return level, nil
}

// endsAll says whether a program's end is that of everything which it has started: by a namespace of processes, a
// control group, or the user that they run under.
func (r *Report) endsAll(level string) bool {
	return level == Strict || r.machine.groups.version != 0 || r.machine.root && level == Landlock
}

// Confined says for people what holds a program of a level.
func (r *Report) Confined(level string, spec Spec) []string {
	m := r.machine
	var list []string
	add := func(when bool, what string) {
		if when {
			list = append(list, what)
		}
	}
	spaces := level == Landlock && m.spaces
	fenced := level == Landlock
	add(level == Strict, "root directory, processes, IPC and host name of its own (bubblewrap)")
	add(level == Strict && !m.root, "user namespace")
	add(fenced, fmt.Sprintf("files by landlock (version %d)", m.abi))
	add(spaces, "mounts and IPC of its own")
	add(m.root && level != None, "unprivileged user of its own")
	add(level != None, "no capabilities")
	add(level != None, "no new privileges")
	switch {
	case spec.Network || level == None:
		list = append(list, "network of the node")
	case level == Strict || spaces:
		list = append(list, "no network (network namespace)")
	default:
		list = append(list, "no TCP (landlock); UDP is not cut off")
	}
	add(fenced && !spaces, "Unix sockets in the file system are not cut off")
	add(fenced && m.abi >= abiScopes, "signals and abstract sockets by landlock")
	limits := spec.Limits.withDefaults()
	if limits.Memory > 0 {
		add(m.groups.has(memoryController), "memory by control group")
		add(!m.groups.has(memoryController), "memory by resource limit")
	}
	add(limits.CPUs > 0 && m.groups.has(cpuController), "processors by control group")
	add(limits.CPUs > 0 && !m.groups.has(cpuController), "processors are not limited: no control group")
	add(m.groups.has(pidsController), "number of processes by control group")
	add(!m.groups.has(pidsController) && (level != None || !m.root), "number of processes by resource limit")
	add(!r.endsAll(level), "what leaves the worker's session is not ended with it")
	add(m.boundsScratch(level), "scratch directory in memory, of bounded size")
	add(!m.boundsScratch(level), "scratch directory of watched size")
	return list
}
