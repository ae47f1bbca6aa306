package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// startTimeout bounds the time from asking for a process to the program's first instruction.
const startTimeout = 30 * time.Second

// Start runs a program at a level of this machine's. It returns once the program itself runs; ctx bounds the start only.
// The caller must Close the process, however it ended.
func Start(ctx context.Context, level string, spec Spec) (*Process, error) {
	report, err := Probe(ctx)
	if err != nil {
		return nil, err
	}
	if level, err = report.Level(level); err != nil {
		return nil, err
	}
	return report.machine.start(ctx, level, spec)
}

// launch is a start under way: what was opened for it, and must be closed when it is over.
type launch struct {
	*Process
	machine *machine
	spec    Spec
	orders  orders
	opened  []*os.File
	files   []*os.File // descriptors 3 and on
	said    *os.File   // what bubblewrap or the child writes before the program takes over
	status  *os.File
}

func (m *machine) start(ctx context.Context, level string, spec Spec) (_ *Process, err error) {
	spec.Limits = spec.Limits.withDefaults()
	l := &launch{machine: m, spec: spec, Process: &Process{level: level, exited: make(chan struct{}), release: func() {}}}
	defer func() {
		for _, f := range l.opened {
			_ = f.Close()
		}
		if err != nil {
			err = fmt.Errorf("start %s with isolation %s: %w", spec.Path, level, errors.Join(err, l.abandon()))
		}
	}()
	if m.root && level != None {
		l.id, l.release = m.ids.take()
		if err := os.Chown(spec.Dir, l.id, l.id); err != nil {
			return nil, err
		}
	}
	if m.groups.version != 0 {
		if l.group, err = m.groups.newGroup(spec.Limits); err != nil {
			return nil, err
		}
	}
	l.compose()
	if err := l.open(); err != nil {
		return nil, err
	}
	if err := l.run(ctx); err != nil {
		return nil, err
	}
	if !m.boundsScratch(level) {
		go l.watchScratch(spec.Dir, spec.Limits.Scratch)
	}
	return l.Process, nil
}

// compose writes the child's orders, but for the numbers of descriptors.
func (l *launch) compose() {
	m, spec := l.machine, &l.spec
	l.orders = orders{
		Path: spec.Path, Argv: append([]string{spec.Path}, spec.Args...), Env: spec.Env, Dir: spec.Dir,
		ID: l.id, Drop: l.level != None, Rlimits: m.rlimits(l.level, spec.Limits), Nothing: spec.Path == "",
	}
	if l.level != Strict {
		l.orders.Parent = os.Getpid()
	}
	if l.level == Landlock {
		l.landlock()
	}
	if l.level == Strict && spec.Network && m.abi >= abiScopes { // other namespaces see to the rest
		l.orders.Fence = &fence{Sockets: true}
	}
}

func (l *launch) landlock() {
	m, spec := l.machine, &l.spec
	entries := spec.entries()
	f := &fence{Files: true, TCP: !spec.Network, Signals: true, Sockets: true}
	f.Read, f.Write = grants(entries)
	f.Read = append(f.Read, around("/usr", spec.Hide)...)
	f.Read = append(f.Read, system[1:]...)
	f.Read = append(f.Read, "/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/filesystems", "/proc/sys/kernel", "/proc/sys/vm")
	f.Write = append(f.Write, spec.Dir, "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
	if m.spaces {
		l.orders.Mounts = &mountOrders{
			Scratch: spec.Dir, Size: spec.Limits.Scratch, ID: os.Getuid(), Expose: append(bound(entries), spec.Dir),
		}
		if l.id != 0 {
			l.orders.Mounts.ID = l.id
		}
		f.Write = append(f.Write, sharedMemory)
	}
	l.orders.Fence = f
}

// rlimits are the resource limits of a level, those in place of a missing control group among them.
func (m *machine) rlimits(level string, l Limits) []rlimit {
	limits := []rlimit{
		{unix.RLIMIT_CORE, 0}, {unix.RLIMIT_FSIZE, uint64(l.Scratch)}, {unix.RLIMIT_NOFILE, defaultFiles},
	}
	switch {
	case m.root && level != None:
		limits = append(limits, rlimit{unix.RLIMIT_NPROC, uint64(l.Processes)}) // of a user of its own
	case !m.root && !m.groups.has(pidsController):
		// Counted with all else that this user runs.
		limits = append(limits, rlimit{unix.RLIMIT_NPROC, uint64(threadsOf(os.Getuid()) + l.Processes)})
	}
	if l.Memory > 0 && !m.groups.has(memoryController) {
		limits = append(limits, rlimit{unix.RLIMIT_AS, uint64(l.Memory)}) // last: the child itself has to live with it
	}
	return limits
}

// open makes what the child gets: the program's descriptors, then its own.
func (l *launch) open() error {
	l.files = append(l.files, l.spec.ExtraFiles...)
	l.orders.Keep = 3 + len(l.files)
	l.orders.Stdio = l.orders.Keep
	var null *os.File
	for _, f := range []*os.File{l.spec.Stdin, l.spec.Stdout, l.spec.Stderr} {
		if f == nil && null == nil {
			var err error
			if null, err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err != nil {
				return err
			}
			l.opened = append(l.opened, null)
		}
		if f == nil {
			f = null
		}
		l.files = append(l.files, f)
	}
	if l.group != nil {
		joins, err := l.group.join()
		l.opened = append(l.opened, joins...)
		if err != nil {
			return err
		}
		for _, f := range joins {
			l.orders.Groups = append(l.orders.Groups, l.pass(f))
		}
	}
	ours, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	l.opened, l.status = append(l.opened, ours, theirs), ours
	l.orders.Status = l.pass(theirs)
	return nil
}

// pass gives a file to the child and returns its number there.
func (l *launch) pass(f *os.File) int {
	l.files = append(l.files, f)
	return 2 + len(l.files)
}

// run starts the child and waits until it has become the program.
func (l *launch) run(ctx context.Context) error {
	letter, err := l.letter()
	if err != nil {
		return err
	}
	words := []string{childWord, strconv.Itoa(l.pass(letter))}
	said, voice, err := os.Pipe()
	if err != nil {
		return err
	}
	l.opened, l.said = append(l.opened, said, voice), said
	l.cmd = &exec.Cmd{
		Path: "/proc/self/exe", Args: append([]string{"shardstream"}, words...),
		Env: []string{}, Dir: "/", Stdout: voice, Stderr: voice, // what the program's environment holds is not to touch the child
		SysProcAttr: &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL},
	}
	switch l.level {
	case Strict:
		self, err := os.Open("/proc/self/exe")
		if err != nil {
			return err
		}
		l.opened = append(l.opened, self)
		l.cmd.Path = l.machine.bwrap
		args := append([]string{"bwrap"}, l.spec.wrap(l.machine.root)...)
		l.cmd.Args = append(append(args, "--", fmt.Sprintf("/proc/self/fd/%d", l.pass(self))), words...)
	case Landlock:
		l.namespaces(l.cmd.SysProcAttr)
	}
	l.cmd.ExtraFiles = l.files
	if err := l.spawn(); err != nil {
		return err
	}
	return l.await(ctx)
}

// namespaces gives a program of level landlock what it can have of its own without bubblewrap.
func (l *launch) namespaces(attr *syscall.SysProcAttr) {
	if !l.machine.spaces {
		return
	}
	attr.Cloneflags = unix.CLONE_NEWNS | unix.CLONE_NEWIPC
	if !l.spec.Network {
		attr.Cloneflags |= unix.CLONE_NEWNET
	}
	if !l.machine.root {
		attr.Cloneflags |= unix.CLONE_NEWUSER
		attr.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_SETPCAP} // in there; exec would drop them
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}}
	}
}

// letter holds the orders in memory.
func (l *launch) letter() (*os.File, error) {
	fd, err := unix.MemfdCreate("shardstream-confine", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "orders")
	l.opened = append(l.opened, f)
	return f, json.NewEncoder(f).Encode(&l.orders)
}

// spawn starts the process from a goroutine that tends it to its end. That even this much hangs has been seen.
func (l *launch) spawn() error {
	started := make(chan error, 1)
	l.spawned = true
	go l.tend(started)
	timeout := time.NewTimer(startTimeout)
	defer timeout.Stop()
	select { // not ctx: what was opened must stay so until the child has it
	case err := <-started:
		return err
	case <-timeout.C:
		return fmt.Errorf("the kernel did not start it within %s", startTimeout)
	}
}

// await waits for the child's report, which ends when it becomes the program.
func (l *launch) await(ctx context.Context) error {
	// The child alone must hold the other ends.
	for _, f := range l.opened {
		if f != l.status && f != l.said {
			_ = f.Close()
		}
	}
	_ = l.status.SetReadDeadline(time.Now().Add(startTimeout))
	defer context.AfterFunc(ctx, func() { _ = l.status.SetReadDeadline(time.Unix(1, 0)) })()
	report, err := io.ReadAll(io.LimitReader(l.status, 16<<10))
	text, ready := strings.CutPrefix(string(report), statusReady)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return fmt.Errorf("it was not ready within %s", startTimeout)
	case ready && text == "":
		return nil
	case text != "":
		return errors.New(strings.TrimPrefix(text, ": "))
	}
	l.Kill()
	_ = l.said.SetReadDeadline(time.Now().Add(time.Second))
	said, _ := io.ReadAll(io.LimitReader(l.said, 4<<10))
	if l.level == Strict {
		return errors.New(wrapFault(string(said)))
	}
	return fmt.Errorf("it ended before it was confined: %s", strings.TrimSpace(string(said)))
}

// abandon frees what a failed start has left.
func (l *launch) abandon() error {
	if !l.spawned {
		close(l.exited)
	}
	return l.Close()
}
