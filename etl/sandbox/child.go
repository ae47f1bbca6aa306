package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// childWord, as the first of two arguments, says that this process was started to become a confined program. The other
// is the number of the descriptor that holds its orders.
const childWord = "shardstream-confine"

// statusReady is what the child says before it becomes the program; anything else is why it can't.
const statusReady = "ready"

// orders tell a child what to give up and what to become.
type orders struct {
	Path string
	Argv []string
	Env  []string
	Dir  string

	Stdio  int   // the first of three descriptors that become 0, 1 and 2
	Keep   int   // descriptors from here on are not the program's
	Status int   // where to report
	Groups []int // of the control groups to join

	Parent  int          // pid, whose death ends the program; 0: somebody else sees to that
	ID      int          // uid and gid to run under; 0: as it is
	Drop    bool         // all capabilities, and the means to gain any
	Mounts  *mountOrders // in a mount namespace of its own
	Fence   *fence       // by landlock
	Rlimits []rlimit
	Nothing bool // end with status 0 in place of becoming a program: a probe
}

type rlimit struct {
	Resource int
	Max      uint64
}

// The hook stands in an init function, so that it works in every binary that starts programs, tests included; the
// program is already there when main would begin.
func init() {
	if len(os.Args) != 3 || os.Args[1] != childWord {
		return
	}
	fd, err := strconv.Atoi(os.Args[2])
	if err != nil {
		os.Exit(2)
	}
	runtime.LockOSThread() // identity and landlock are a thread's; exec keeps this one
	become(fd)
}

// become carries out the orders and never returns.
func become(fd int) {
	var o orders
	data, err := io.ReadAll(io.NewSectionReader(os.NewFile(uintptr(fd), "orders"), 0, 16<<20))
	if err == nil {
		err = json.Unmarshal(data, &o)
	}
	if err != nil {
		os.Exit(2)
	}
	report := func(text string) { _, _ = unix.Write(o.Status, []byte(text)) }
	unix.CloseOnExec(o.Status)
	if err := o.carryOut(); err != nil {
		report(err.Error())
		os.Exit(1)
	}
	report(statusReady)
	if o.Nothing {
		os.Exit(0)
	}
	err = syscall.Exec(o.Path, o.Argv, o.Env)
	report(fmt.Sprintf(": run %s: %v", o.Path, err))
	os.Exit(1)
}

// carryOut takes the steps in the one order that works: what needs privileges before they are given up, what would
// hinder the next step last.
func (o *orders) carryOut() error {
	for _, fd := range o.Groups {
		if _, err := unix.Write(fd, []byte("0")); err != nil {
			return fmt.Errorf("join a control group: %w", err)
		}
	}
	if o.Mounts != nil {
		ownProc, err := o.Mounts.make()
		if err != nil {
			return err
		}
		if ownProc {
			o.Fence.Read = append(o.Fence.Read, "/proc")
		}
	}
	for i := range 3 {
		if err := unix.Dup3(o.Stdio+i, i, 0); err != nil {
			return fmt.Errorf("set descriptor %d: %w", i, err)
		}
	}
	if err := closeOnExecFrom(o.Keep); err != nil {
		return err
	}
	ruleset := -1
	if o.Fence != nil {
		var err error
		if ruleset, err = o.Fence.ruleset(); err != nil {
			return err
		}
	}
	unix.Umask(0o022)
	if err := o.giveUp(); err != nil {
		return err
	}
	if err := unix.Chdir(o.Dir); err != nil {
		return fmt.Errorf("enter the scratch directory %s: %w", o.Dir, err)
	}
	if ruleset >= 0 {
		if err := restrictSelf(ruleset); err != nil {
			return err
		}
	}
	for _, l := range o.Rlimits {
		if err := setRlimit(l); err != nil {
			return err
		}
	}
	return nil
}

// giveUp changes the identity, drops capabilities and makes sure that none can be had again.
func (o *orders) giveUp() error {
	if o.Drop {
		for c := 0; c <= unix.CAP_LAST_CAP; c++ {
			// Refused where the process lacks CAP_SETPCAP; then no_new_privs alone sees to it.
			_ = unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0)
		}
	}
	if o.Drop {
		// The node's keys are open to whoever has its session keyring, as any user. Refused where there are no keyrings.
		_, _, _ = unix.Syscall(unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0)
	}
	// Of this thread only, and past libc: the others end with exec.
	if o.ID != 0 {
		id := uintptr(o.ID)
		if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); e != 0 {
			return fmt.Errorf("drop groups: %w", e)
		}
		if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, id, id, id); e != 0 {
			return fmt.Errorf("become group %d: %w", o.ID, e)
		}
		if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, id, id, id); e != 0 {
			return fmt.Errorf("become user %d: %w", o.ID, e)
		}
	}
	if o.Drop {
		_ = unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			return fmt.Errorf("drop capabilities: %w", err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	if o.Parent == 0 {
		return nil
	}
	// A change of identity has cleared what the parent had set.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("die with the node: %w", err)
	}
	if os.Getppid() != o.Parent {
		return errors.New("the node is gone")
	}
	return nil
}

// setRlimit lowers a limit; one that is lower already stays.
func setRlimit(l rlimit) error {
	var now syscall.Rlimit
	if err := syscall.Getrlimit(l.Resource, &now); err != nil {
		return fmt.Errorf("read resource limit %d: %w", l.Resource, err)
	}
	limit := min(l.Max, now.Max)
	if err := syscall.Setrlimit(l.Resource, &syscall.Rlimit{Cur: limit, Max: limit}); err != nil {
		return fmt.Errorf("set resource limit %d: %w", l.Resource, err)
	}
	return nil
}

// closeOnExecFrom keeps the descriptors from first on from the program.
func closeOnExecFrom(first int) error {
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("list open descriptors: %w", err)
	}
	for _, entry := range open {
		if fd, err := strconv.Atoi(entry.Name()); err == nil && fd >= first {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}
