package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Container is a container that was started. Its owner removes it by Remove when it is done.
type Container struct {
	Name string

	engine Engine
	// selfRemoving says that the engine removes it when it ends; tidy removes what is this package's.
	selfRemoving bool
	tidy         func()
	oom          string // a file that is there if it ran out of memory; "": not known
	cmd          *exec.Cmd
	tail         tail // of what it, or the engine, wrote to stderr
	exited       chan struct{}
	exit         Exit
	once         sync.Once
	err          error
}

// Exit is how a container ended.
type Exit struct {
	Code   int
	Memory bool   // it was killed for want of memory; not every engine tells
	Failed bool   // the engine could not run it at all
	Detail string // the end of its stderr, or what the engine said
}

// Killed says whether it was killed by SIGKILL: by the kernel, where nobody here did it, for want of memory.
func (e Exit) Killed() bool { return e.Memory || e.Code == 128+int(syscall.SIGKILL) }

// String says it to a person.
func (e Exit) String() string {
	switch {
	case e.Failed:
		return "the container can't be run: " + lastLine(e.Detail)
	case e.Memory:
		return "the container ran out of memory"
	case e.Killed():
		return "the container was killed (SIGKILL; out of memory?)"
	case e.Code > 128 && e.Code < 160:
		return fmt.Sprintf("the container was killed by signal %d", e.Code-128)
	default:
		return fmt.Sprintf("the container ended with exit status %d", e.Code)
	}
}

// Codes by which podman, docker and runc tell their own failures from a program's.
const (
	codeEngine       = 125
	codeNotRunnable  = 126
	codeNotFound     = 127
	removeAfterExit  = 20 * time.Second
	outputAfterExit  = 2 * time.Second
	stderrKept       = 8 << 10
	detailOfFailures = 2 << 10
)

// start runs an attached command that is c's life; engine, cmd and tidy are set.
func (c *Container) start(ctx context.Context, stdio Stdio) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c.exited = make(chan struct{})
	cmd := c.cmd
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdio.In, stdio.Out, &c.tail
	if stdio.Err != nil {
		cmd.Stderr = io.MultiWriter(&c.tail, stdio.Err)
	}
	// A group of its own: Ctrl-C at the node's terminal is the node's to handle.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = outputAfterExit
	started := make(chan error, 1)
	go c.tend(started)
	if err := <-started; err != nil {
		return err
	}
	return nil
}

// tend waits for the end. It keeps its thread, since the parent-death signal comes when the thread that started a child
// ends, not only the process.
func (c *Container) tend(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := c.cmd.Start(); err != nil {
		started <- err
		return
	}
	started <- nil
	_ = c.cmd.Wait() // the state says how it ended
	c.exit = Exit{Code: c.cmd.ProcessState.ExitCode(), Detail: c.tail.String()}
	if ws, ok := c.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		c.exit.Code = 128 + int(ws.Signal())
	}
	if c.exit.Code == codeEngine || (c.exit.Code == codeNotRunnable || c.exit.Code == codeNotFound) && strings.Contains(c.exit.Detail, "Error: ") {
		c.exit.Failed = true
	}
	if c.oom != "" && c.exit.Code != 0 {
		_, err := os.Stat(c.oom)
		c.exit.Memory = err == nil
	}
	close(c.exited)
}

// Exited is closed when the container has ended and its output was read.
func (c *Container) Exited() <-chan struct{} { return c.exited }

// Exit is how it ended, once Exited is closed and until it is removed.
func (c *Container) Exit() Exit {
	<-c.exited
	return c.exit
}

// Remove kills the container, joins it and removes what the engine has of it. Idempotent.
func (c *Container) Remove() error {
	c.once.Do(func() {
		defer c.tidy()
		select {
		case <-c.exited:
			if c.selfRemoving && !c.exit.Failed {
				return
			}
		default:
		}
		ctx, cancel := context.WithTimeout(context.Background(), removeAfterExit)
		defer cancel()
		_ = c.engine.Remove(ctx, c.Name) // the second one tells
		select {
		case <-c.exited:
		case <-time.After(time.Second):
			// The engine's client lives on although its container is gone, or was not made yet.
			_ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL)
			<-c.exited
		}
		// One that was being made may have been made since, and never have run.
		c.err = c.engine.Remove(ctx, c.Name)
	})
	return c.err
}

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	data []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(p) > stderrKept {
		t.data = append(t.data[:0], p[len(p)-stderrKept:]...)
		return len(p), nil
	}
	if over := len(t.data) + len(p) - stderrKept; over > 0 {
		t.data = append(t.data[:0], t.data[over:]...)
	}
	t.data = append(t.data, p...)
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(strings.ToValidUTF8(string(t.data), "\uFFFD"))
}

// lastLine is the line in which engines say what went wrong.
func lastLine(text string) string {
	text = strings.TrimSpace(text)
	if i := strings.LastIndexByte(text, '\n'); i >= 0 {
		text = text[i+1:]
	}
	text = strings.TrimPrefix(text, "Error: ")
	if len(text) > detailOfFailures {
		text = strings.ToValidUTF8(text[:detailOfFailures], "") + "..."
	}
	return text
}

// output runs a short command of an engine and returns its stdout; the error is its last line on stderr.
func output(ctx context.Context, timeout time.Duration, program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	var stdout strings.Builder
	var stderr tail
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = outputAfterExit
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return "", fmt.Errorf("%s %s: no answer within %s: %w", program, args[0], timeout, ctx.Err())
		}
		var exit *exec.ExitError
		if errors.As(err, &exit) && stderr.String() != "" {
			return "", &commandError{program: program, said: stderr.String()}
		}
		return "", fmt.Errorf("%s: %w", program, err)
	}
	return strings.TrimSpace(stdout.String()), nil
}

// commandError is an engine's refusal.
type commandError struct{ program, said string }

func (e *commandError) Error() string { return e.program + ": " + lastLine(e.said) }
