package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Controllers that a group may have.
const (
	memoryController = "memory"
	pidsController   = "pids"
	cpuController    = "cpu"
)

// groupPrefix begins the names of our groups: prefix, namespace of process ids, id of the node, its start, number.
const groupPrefix = "shardstream-etl."

// hierarchies are the places where this process may make control groups.
type hierarchies struct {
	version int               // 1 or 2; 0: nowhere
	parents map[string]string // by controller: the directory in which groups are made
}

func (h hierarchies) has(controller string) bool { return h.parents[controller] != "" }

// dirs are the distinct directories, in a fixed order.
func (h hierarchies) dirs() []string {
	var dirs []string
	for _, c := range []string{memoryController, pidsController, cpuController} {
		if dir := h.parents[c]; dir != "" && !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// findHierarchies tries out where groups can be made and joined.
func findHierarchies() hierarchies {
	self, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return hierarchies{}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return hierarchies{}
	}
	best := hierarchies{}
	for _, found := range []hierarchies{findV2(string(self), string(mounts)), findV1(string(self), string(mounts))} {
		if len(found.parents) > len(best.parents) {
			best = found
		}
	}
	return best
}

// mountOf is where a hierarchy is mounted, and which of its groups is the root there.
func mountOf(mounts, kind, controller string) (point, root string) {
	for line := range strings.Lines(mounts) {
		before, after, ok := strings.Cut(line, " - ")
		fields, rest := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(rest) < 3 || rest[0] != kind {
			continue
		}
		if controller == "" || slices.Contains(strings.Split(rest[2], ","), controller) {
			return fields[4], fields[3]
		}
	}
	return "", ""
}

// within is the directory of a group, seen through a mount that may show only a part of the hierarchy.
func within(point, root, group string) string {
	if relative, err := filepath.Rel(root, group); err == nil && filepath.IsLocal(relative) {
		return filepath.Join(point, relative)
	}
	return point
}

func findV1(self, mounts string) hierarchies {
	found := hierarchies{version: 1, parents: map[string]string{}}
	for line := range strings.Lines(self) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		for _, c := range []string{memoryController, pidsController, cpuController} {
			if !slices.Contains(strings.Split(parts[1], ","), c) {
				continue
			}
			point, root := mountOf(mounts, "cgroup", c)
			if point == "" {
				continue
			}
			if dir := within(point, root, parts[2]); canMakeGroup(dir, nil) {
				found.parents[c] = dir
			}
		}
	}
	return found
}

// findV2 looks for a parent that hands its controllers on: the group of this process (which holds processes, so only
// the root may), the one above it, which a service manager may have delegated to us, and the root.
func findV2(self, mounts string) hierarchies {
	point, root := mountOf(mounts, "cgroup2", "")
	if point == "" {
		return hierarchies{}
	}
	own := point
	for line := range strings.Lines(self) {
		if group, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			own = within(point, root, group)
		}
	}
	best := hierarchies{}
	for _, dir := range []string{own, filepath.Dir(own), point} {
		if !strings.HasPrefix(dir+"/", point+"/") {
			continue
		}
		found := hierarchies{version: 2, parents: map[string]string{}}
		for _, c := range []string{memoryController, pidsController, cpuController} {
			enabled := readWords(filepath.Join(dir, "cgroup.subtree_control"))
			if !slices.Contains(enabled, c) {
				_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0)
				enabled = readWords(filepath.Join(dir, "cgroup.subtree_control"))
			}
			if slices.Contains(enabled, c) {
				found.parents[c] = dir
			}
		}
		if len(found.parents) > len(best.parents) && canMakeGroup(dir, found.parents) {
			best = found
		}
	}
	return best
}

// canMakeGroup makes a group and opens what a process joins it by. That a process can be moved is seen by the probe.
func canMakeGroup(dir string, _ map[string]string) bool {
	group := filepath.Join(dir, groupName())
	if err := os.Mkdir(group, 0o755); err != nil { //nolint:gosec // a control group's files have modes of their own
		return false
	}
	defer func() { _ = os.Remove(group) }()
	f, err := os.OpenFile(filepath.Join(group, "cgroup.procs"), os.O_WRONLY, 0)
	if err != nil {
		return false
	}
	return f.Close() == nil
}

func readWords(path string) []string {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	return strings.Fields(string(data))
}

var groupCount atomic.Int64

// nodeMark tells this process from all others, past and present, that may make groups in the same place.
var nodeMark = sync.OnceValue(func() string {
	namespace, _ := os.Readlink("/proc/self/ns/pid")
	namespace = strings.Trim(strings.TrimPrefix(namespace, "pid:"), "[]")
	return fmt.Sprintf("%s.%d.%s", namespace, os.Getpid(), startOf(os.Getpid()))
})

// startOf is when a process started, in the kernel's ticks; empty if there is none.
func startOf(pid int) string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(stat[strings.LastIndexByte(string(stat), ')')+1:]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 20 {
		return ""
	}
	return fields[19]
}

func groupName() string {
	return fmt.Sprintf("%s%s.%d", groupPrefix, nodeMark(), groupCount.Add(1))
}

// sweepGroups removes the groups of nodes that were killed, and ends what still runs in them.
func (h hierarchies) sweepGroups() {
	for _, parent := range h.dirs() {
		stale, _ := filepath.Glob(filepath.Join(parent, groupPrefix+"*"))
		for _, dir := range stale {
			parts := strings.Split(strings.TrimPrefix(filepath.Base(dir), groupPrefix), ".")
			mine := strings.Split(nodeMark(), ".")
			if len(parts) != 4 || parts[0] != mine[0] {
				continue // of another namespace, whose processes can't be seen from here
			}
			pid, err := strconv.Atoi(parts[1])
			if err != nil || startOf(pid) == parts[2] {
				continue
			}
			_ = removeGroup(dir, h.version)
		}
	}
}

// group is the control group of one program; in version 1 a directory for each controller.
type group struct {
	version int
	dirs    map[string]string // by controller
}

// newGroup makes a group with the limits that its controllers know.
func (h hierarchies) newGroup(l Limits) (*group, error) {
	g := &group{version: h.version, dirs: map[string]string{}}
	name := groupName()
	for c, parent := range h.parents {
		dir := filepath.Join(parent, name)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) { //nolint:gosec // see canMakeGroup
			return nil, errors.Join(err, g.remove())
		}
		g.dirs[c] = dir
	}
	if err := g.limit(l); err != nil {
		return nil, errors.Join(fmt.Errorf("set the limits of a control group: %w", err), g.remove())
	}
	return g, nil
}

func (g *group) limit(l Limits) error {
	var faults []error
	set := func(controller, file, value string, optional bool) {
		dir := g.dirs[controller]
		if dir == "" {
			return
		}
		if err := os.WriteFile(filepath.Join(dir, file), []byte(value), 0); err != nil && !optional {
			faults = append(faults, err)
		}
	}
	set(pidsController, "pids.max", strconv.Itoa(l.Processes), false)
	memory := strconv.FormatInt(l.Memory, 10)
	period := int64(100_000) // microseconds
	quota := strconv.FormatInt(max(1000, int64(l.CPUs*float64(period))), 10)
	if g.version == 2 {
		if l.Memory > 0 {
			set(memoryController, "memory.max", memory, false)
			set(memoryController, "memory.swap.max", "0", true)   // not there without swap
			set(memoryController, "memory.oom.group", "1", true) // since Linux 4.19
		}
		if l.CPUs > 0 {
			set(cpuController, "cpu.max", fmt.Sprintf("%s %d", quota, period), false)
		}
		return errors.Join(faults...)
	}
	if l.Memory > 0 {
		set(memoryController, "memory.limit_in_bytes", memory, false)
		set(memoryController, "memory.memsw.limit_in_bytes", memory, true) // not there without swap accounting
	}
	if l.CPUs > 0 {
		set(cpuController, "cpu.cfs_period_us", strconv.FormatInt(period, 10), false)
		set(cpuController, "cpu.cfs_quota_us", quota, false)
	}
	return errors.Join(faults...)
}

// join opens what a process writes "0" to in order to enter the group.
func (g *group) join() ([]*os.File, error) {
	var files []*os.File
	for _, dir := range g.distinct() {
		f, err := os.OpenFile(filepath.Join(dir, "cgroup.procs"), os.O_WRONLY, 0)
		if err != nil {
			for _, f := range files {
				_ = f.Close()
			}
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

func (g *group) distinct() []string {
	var dirs []string
	for _, c := range []string{memoryController, pidsController, cpuController} {
		if dir := g.dirs[c]; dir != "" && !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// counter reads a number of a file of "name number" lines.
func (g *group) counter(controller, file, name string) int {
	dir := g.dirs[controller]
	if dir == "" {
		return 0
	}
	words := readWords(filepath.Join(dir, file))
	for i := 0; i+1 < len(words); i += 2 {
		if words[i] == name {
			n, _ := strconv.Atoi(words[i+1])
			return n
		}
	}
	return 0
}

// oomKills is how many processes of the group the kernel ended for want of memory.
func (g *group) oomKills() int {
	if g.version == 2 {
		return g.counter(memoryController, "memory.events", "oom_kill")
	}
	return g.counter(memoryController, "memory.oom_control", "oom_kill")
}

// forksRefused is how often the limit of processes was met.
func (g *group) forksRefused() int { return g.counter(pidsController, "pids.events", "max") }

// kill ends all processes of the group.
func (g *group) kill() {
	for _, dir := range g.distinct() {
		killGroup(dir, g.version)
	}
}

// killGroup ends what runs in a group. Where the kernel can't do it at once, nothing new may start meanwhile.
func killGroup(dir string, version int) {
	if version == 2 && os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0) == nil {
		return
	}
	_ = os.WriteFile(filepath.Join(dir, "pids.max"), []byte("0"), 0) // only where it is that controller's directory
	for _, word := range readWords(filepath.Join(dir, "cgroup.procs")) {
		if pid, err := strconv.Atoi(word); err == nil && pid > 0 {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
}

// remove ends what runs in the group and removes it.
func (g *group) remove() error {
	var faults []error
	// The directory of pids is first: once it is at its end, nothing can fork in the others either.
	dirs := g.distinct()
	slices.SortStableFunc(dirs, func(a, b string) int {
		if a == g.dirs[pidsController] {
			return -1
		}
		if b == g.dirs[pidsController] {
			return 1
		}
		return 0
	})
	for _, dir := range dirs {
		faults = append(faults, removeGroup(dir, g.version))
	}
	return errors.Join(faults...)
}

// removeTimeout bounds how long a group's processes may take to die once they were killed.
const removeTimeout = 10 * time.Second

func removeGroup(dir string, version int) error {
	for pause, begun := time.Millisecond, time.Now(); ; pause = min(2*pause, 50*time.Millisecond) {
		err := syscall.Rmdir(dir)
		if err == nil || errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if time.Since(begun) > removeTimeout {
			return fmt.Errorf("control group %s can't be removed: %w", dir, err)
		}
		killGroup(dir, version)
		time.Sleep(pause)
	}
}
