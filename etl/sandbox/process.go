package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Process is a program at work in its sandbox.
type Process struct {
	level   string
	cmd     *exec.Cmd
	group   *group // nil where there is none
	id      int    // the user that it runs under, 0 where it is the node's
	release func() // gives that user back

	spawned bool
	once    sync.Once
	err     error // of Close

	mu       sync.Mutex
	pid      int // of the outermost process; 0 before it was started
	killed   bool
	reaped   bool
	outcome  Exit
	exited   chan struct{}
	overfull atomic.Bool
}

// Exit is how a program ended.
type Exit struct {
	Code        int            // its exit status; -1 where a signal ended it
	Signal      syscall.Signal // that ended it, 0 for none
	OutOfMemory bool           // it was killed because it used more memory than it may
	ScratchFull bool           // it was killed because it filled its scratch directory
}

// Level is the isolation in force.
func (p *Process) Level() string { return p.level }

// Pid is that of the outermost process, as the node sees it: at level strict that of bubblewrap.
func (p *Process) Pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pid
}

// Exited is closed when the program has ended and all that it started was killed.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Wait waits for the program's end.
func (p *Process) Wait() Exit {
	<-p.exited
	return p.outcome
}

// ForksRefused says whether the program has tried to have more processes than it may, where that can be known.
func (p *Process) ForksRefused() bool { return p.group != nil && p.group.forksRefused() > 0 }

// Kill ends the program and all that it started. It does not wait.
func (p *Process) Kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.killed = true
	p.signal()
}

// signal kills what there is; the caller holds mu. Before the process is reaped its pid can't be another's.
func (p *Process) signal() {
	if p.pid != 0 && !p.reaped {
		_ = unix.Kill(-p.pid, unix.SIGKILL)
	}
	if p.group != nil && !p.reaped {
		p.group.kill()
	}
}

// Close kills the program if it runs, waits until nothing of it is left, and frees what it had. Idempotent.
func (p *Process) Close() error {
	p.once.Do(func() {
		p.Kill()
		select {
		case <-p.exited:
		case <-time.After(removeTimeout):
			p.err = fmt.Errorf("process %d does not die", p.Pid())
			return // its user and its group stay taken
		}
		if p.group != nil {
			p.err = p.group.remove()
		}
		p.release()
	})
	return p.err
}

// tend starts the process and waits for its end. It keeps its thread all the while, since the kernel
// sends the parent-death signal when the thread that started a child ends, not only the process.
func (p *Process) tend(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(p.exited)
	if err := p.cmd.Start(); err != nil {
		started <- err
		return
	}
	pid := p.cmd.Process.Pid
	p.mu.Lock()
	p.pid = pid
	if p.killed { // given up meanwhile
		p.signal()
	}
	p.mu.Unlock()
	started <- nil
	// Wait without reaping: the pid, and so its group's name, can't be reused before the group is killed.
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	p.mu.Lock()
	p.signal()
	p.reaped = true
	p.mu.Unlock()
	if p.id != 0 && p.id != nobody && p.group == nil {
		killUser(p.id)
	}
	_ = p.cmd.Wait() // the state says how it ended
	p.outcome = p.exit()
}

// exit reads the outcome of a process that has ended. Bubblewrap passes a signal on as a shell does.
func (p *Process) exit() Exit {
	e := Exit{Code: -1, ScratchFull: p.overfull.Load()}
	if status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok {
		switch {
		case status.Signaled():
			e.Signal = status.Signal()
		case p.level == Strict && status.ExitStatus() > 128 && status.ExitStatus() <= 128+64:
			e.Signal = syscall.Signal(status.ExitStatus() - 128)
		default:
			e.Code = status.ExitStatus()
		}
	}
	e.OutOfMemory = e.Signal == unix.SIGKILL && p.group != nil && p.group.oomKills() > 0
	return e
}

const scratchInterval = 500 * time.Millisecond

// watchScratch kills a program whose scratch directory holds too much, where no file system of its own bounds that.
func (p *Process) watchScratch(dir string, limit int64) {
	tick := time.NewTicker(scratchInterval)
	defer tick.Stop()
	for {
		select {
		case <-p.exited:
			return
		case <-tick.C:
		}
		if Used(dir) > limit {
			p.overfull.Store(true)
			p.Kill()
			return
		}
	}
}

// Used is the disk space that is taken below a directory. What can't be read counts for nothing.
func Used(dir string) int64 {
	var total int64
	_ = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // gone meanwhile
		}
		if info, err := entry.Info(); err == nil {
			if stat, ok := info.Sys().(*syscall.Stat_t); ok {
				total += stat.Blocks * 512
			}
		}
		return nil
	})
	return total
}
