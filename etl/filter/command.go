package filter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/shardstream/shardstream/etl"
)

// command is a program of the node.
type command struct {
	def  etl.Definition
	opts Options
}

func newCommand(def etl.Definition, opts Options) *command { return &command{def: def, opts: opts} }

func (c *command) prepare(context.Context) error {
	if _, err := exec.LookPath(c.def.Command[0]); err != nil {
		return &etl.UserError{ETL: c.def.Name, Summary: fmt.Sprintf("the program %s is not on this node: install it there, or use a container", c.def.Command[0])}
	}
	return nil
}

func (c *command) renew() {}

func (c *command) health() etl.Health {
	return etl.Health{State: etl.StateReady, Since: time.Now(), Isolation: etl.IsolationNone}
}

func (c *command) start(ctx context.Context, env map[string]string, stdin, stdout *os.File, stderr io.Writer) (process, error) {
	if err := c.prepare(ctx); err != nil {
		return nil, err
	}
	r := &running{cmd: exec.Command(c.def.Command[0], c.def.Command[1:]...), done: make(chan struct{})}
	r.cmd.Stdin, r.cmd.Stdout, r.cmd.Stderr = stdin, stdout, stderr
	r.cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	for name, value := range env {
		r.cmd.Env = append(r.cmd.Env, name+"="+value)
	}
	r.cmd.WaitDelay = time.Second
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	go r.tend(started)
	if err := <-started; err != nil {
		return nil, &etl.UserError{ETL: c.def.Name, Summary: fmt.Sprintf("the program %s can't be started: %v", c.def.Command[0], err)}
	}
	return r, nil
}

type running struct {
	cmd  *exec.Cmd
	done chan struct{}
	once sync.Once
}

func (r *running) tend(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := r.cmd.Start()
	started <- err
	if err != nil {
		return
	}
	_ = r.cmd.Wait()
	close(r.done)
}

func (r *running) exited() <-chan struct{} { return r.done }

func (r *running) verdict() string {
	<-r.done
	state := r.cmd.ProcessState
	if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return fmt.Sprintf("the program was killed by signal %d (%s)", ws.Signal(), ws.Signal())
	}
	if state.ExitCode() != 0 {
		return fmt.Sprintf("the program ended with exit status %d", state.ExitCode())
	}
	return ""
}

func (r *running) kill() {
	r.once.Do(func() {
		if err := syscall.Kill(-r.cmd.Process.Pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			_ = r.cmd.Process.Kill()
		}
	})
	<-r.done
}
