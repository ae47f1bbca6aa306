package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/membership"
)

const (
	// steadyRun is how long a child must have lived for its death to be answered by a restart at
	// once; one that dies sooner waits, longer each time.
	steadyRun    = time.Second
	firstBackoff = 50 * time.Millisecond
	maxBackoff   = 5 * time.Second

	// ownBinary is the running program itself, even where its file was replaced by an upgrade: a
	// cluster runs one version until it is taken down.
	ownBinary = "/proc/self/exe"
)

// child is one node's process, started again whenever it dies.
type child struct {
	spec   NodeSpec
	layout Layout
	args   []string
	forker *forker
	log    *slog.Logger

	removed func(context.Context) bool // from the cluster, says the cluster
	exited  chan error                 // the first process's end, for whoever waits for it to become ready
}

// nodeArgs is the command line of a node; `shardstream node run` is its other side.
func nodeArgs(layout Layout, spec Spec, node NodeSpec, extra []string) []string {
	args := []string{"node", "run", "--id", node.ID, "--role", node.Role, "--listen", node.Addr()}
	if node.Role == api.RoleGateway {
		args = append(args, "--data", layout.data(node.ID))
	} else {
		disks := make([]string, spec.Disks)
		for i := range disks {
			disks[i] = layout.disk(node.ID, i+1)
		}
		args = append(args, "--data", strings.Join(disks, ","))
	}
	// The first gateway begins the cluster, once; if it has lost its data later, it joins the others.
	if join := spec.others(node.ID); len(join) > 0 && (node.ID != spec.Nodes[0].ID || spec.Begun) {
		args = append(args, "--join", strings.Join(join, ","))
	}
	if node.Role == api.RoleGateway && spec.count(api.RoleGateway) >= membership.DefaultEtcdMembers {
		args = append(args, "--etcd-members", strconv.Itoa(membership.DefaultEtcdMembers))
	}
	return append(args, extra...)
}

// errRemoved is the end of a node that was taken out of the cluster.
var errRemoved = errors.New("removed from the cluster")

// run keeps the node running until the context ends, then stops it within grace; or until it was removed from the cluster.
func (c *child) run(ctx context.Context, grace time.Duration) error {
	output, err := openLog(c.layout.log(c.spec.ID), maxLog)
	if err != nil {
		return err
	}
	defer output.Close()
	// One pipe for all processes of the node. The supervisor reads it, and not the nodes' own files,
	// so that a log can be rotated; it outlives a process, so that nothing of a panic is lost.
	pipe, err := newLogPipe(output)
	if err != nil {
		return err
	}
	defer pipe.close()
	defer func() { _ = os.Remove(c.layout.pid(c.spec.ID)) }()

	backoff := time.Duration(0)
	for {
		started := time.Now()
		stopped, err := c.once(ctx, pipe.writer, grace)
		if stopped {
			return nil
		}
		select {
		case c.exited <- err:
		default: // only the first end is asked for
		}
		if err == nil && c.removed(ctx) {
			return errRemoved
		}
		if time.Since(started) >= steadyRun {
			backoff = 0
		}
		c.log.Warn("node ended, starting it again", "node", c.spec.ID, "ended", ending(err), "in", backoff)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(backoff):
		}
		backoff = min(max(2*backoff, firstBackoff), maxBackoff)
	}
}

// once runs one process of the node until it ends, or until the context does and it was stopped.
func (c *child) once(ctx context.Context, output *os.File, grace time.Duration) (stopped bool, err error) {
	cmd, err := c.start(output)
	if err != nil {
		return false, err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }() // ends with the process
	select {
	case <-ctx.Done():
		c.stop(cmd, done, grace)
		return true, nil
	case err := <-done:
		return false, err
	}
}

func (c *child) start(output *os.File) (*exec.Cmd, error) {
	cmd := exec.Command(ownBinary, c.args...)
	cmd.Args[0] = "shardstream"
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:   true,            // Ctrl-C on the terminal reaches the supervisor, who stops nodes in order
		Pdeathsig: syscall.SIGKILL, // nothing outlives the supervisor; nodes survive a kill -9 by design
	}
	if err := c.forker.start(cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.spec.ID, err)
	}
	if err := writeFile(c.layout.pid(c.spec.ID), []byte(strconv.Itoa(cmd.Process.Pid)+"\n")); err != nil {
		c.log.Warn("pid file not written", "node", c.spec.ID, "error", err)
	}
	return cmd, nil
}

// stop asks the process to end, and makes it end after grace.
func (c *child) stop(cmd *exec.Cmd, done <-chan error, grace time.Duration) {
	_ = cmd.Process.Signal(syscall.SIGTERM)
	timer := time.NewTimer(grace)
	defer timer.Stop()
	var err error
	select {
	case err = <-done:
	case <-timer.C:
		c.log.Warn("node did not stop in time, killing it", "node", c.spec.ID, "after", grace)
		_ = cmd.Process.Kill()
		err = <-done
	}
	c.log.Debug("node stopped", "node", c.spec.ID, "ended", ending(err))
}

func ending(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

// forker starts processes from one thread that lives as long as the supervisor. Linux sends
// PDEATHSIG when the starting *thread* ends, and Go ends threads as it likes.
type forker struct {
	requests chan forkRequest
}

type forkRequest struct {
	cmd *exec.Cmd
	err chan error
}

func newForker() *forker {
	f := &forker{requests: make(chan forkRequest)}
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends with close
		for r := range f.requests {
			r.err <- r.cmd.Start()
		}
	}()
	return f
}

func (f *forker) start(cmd *exec.Cmd) error {
	r := forkRequest{cmd: cmd, err: make(chan error, 1)}
	f.requests <- r
	return <-r.err
}

// close ends the thread and with it, by PDEATHSIG, every child that still runs.
func (f *forker) close() { close(f.requests) }

// killStale ends what an earlier supervisor of this directory may have left: processes in its pid
// files whose command line is that of the node. Any other process that got such a pid is let be. It
// tells whether that supervisor was killed, and so left pid files.
func killStale(layout Layout, spec Spec) (found bool) {
	for _, node := range spec.Nodes {
		path := layout.pid(node.ID)
		content, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		found = true
		pid, err := strconv.Atoi(strings.TrimSpace(string(content)))
		if err == nil && isNode(pid, layout, node) {
			if process, err := os.FindProcess(pid); err == nil {
				_ = process.Kill()
				awaitGone(process, time.Second)
			}
		}
		_ = os.Remove(path)
	}
	return found
}

// isNode tells whether the process runs this node of this directory.
func isNode(pid int, layout Layout, node NodeSpec) bool {
	content, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil {
		return false
	}
	var id, data bool
	args := strings.Split(string(content), "\x00")
	for i := 1; i < len(args); i++ {
		id = id || args[i-1] == "--id" && args[i] == node.ID
		data = data || args[i-1] == "--data" && strings.HasPrefix(args[i], layout.data(node.ID))
	}
	return id && data
}

// awaitGone waits for a process that is not our child.
func awaitGone(process *os.Process, limit time.Duration) bool {
	deadline := time.Now().Add(limit)
	for process.Signal(syscall.Signal(0)) == nil {
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(5 * time.Millisecond)
	}
	return true
}
