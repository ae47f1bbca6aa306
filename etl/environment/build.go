package environment

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/shardstream/shardstream/etl/sandbox"
)

const (
	logName = "build.log" // in an environment: what its build printed
	tmpName = "tmp"       // in one that is being built: where the build has its temporary files
)

var errTooLong = errors.New("the build took too long")

// build makes an environment in its final place, since the programs that packages install carry their path. The
// marker, written last, makes it one.
func (m *Manager) build(ctx context.Context, id string, spec Spec, base Interpreter, tell func(string)) (*entry, error) {
	select {
	case m.turn <- struct{}{}:
		defer func() { <-m.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	m.mu.Lock()
	room, err := m.room()
	m.mu.Unlock()
	if err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeoutCause(ctx, m.opts.Timeout, errTooLong)
	defer cancel()
	begun := time.Now()
	e := &entry{id: id, path: filepath.Join(m.dir, id), used: begun, marker: marker{Key: spec.key(), Python: base.Version, Reads: base.Reads, Created: begun.UTC()}}
	b := &builder{dir: e.path, base: base, spec: spec, isolation: m.opts.Isolation, hide: m.opts.Hide, room: room, log: newTranscript(tell)}
	if err = b.run(limited); err == nil {
		err = e.seal(b.log.String())
	}
	if err == nil {
		m.opts.Logger.Info("environment built", "environment", id, "python", base.Version, "requirements", spec.Requirements, "size", e.Size, "took", time.Since(begun))
		return e, nil
	}
	if failed := sandbox.Remove(e.path); failed != nil {
		m.opts.Logger.Warn("half an environment can't be removed", "path", e.path, "error", failed)
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if errors.Is(context.Cause(limited), errTooLong) {
		err = &BuildError{Summary: fmt.Sprintf("the environment was not built within %v; it was at: %s", m.opts.Timeout, b.log.last()), Log: b.log.tail()}
	}
	var fault *BuildError
	if !errors.As(err, &fault) {
		err = &BuildError{Node: true, Summary: "the environment can't be built: " + err.Error(), Log: b.log.tail()}
	}
	m.opts.Logger.Warn("environment not built", "environment", id, "python", base.Version, "requirements", spec.Requirements, "error", err)
	return nil, err
}

// builder is one build: a virtual environment, and pip that fills it.
type builder struct {
	dir       string
	base      Interpreter
	spec      Spec
	isolation string
	hide      []string
	room      int64 // bytes that it may take
	log       *transcript
}

func (b *builder) run(ctx context.Context) error {
	if err := sandbox.Remove(b.dir); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(b.dir, tmpName), 0o755); err != nil { //nolint:gosec // workers of another user read it
		return err
	}
	b.log.say("Making a virtual environment of Python " + b.base.Version)
	if err := b.command(ctx, b.base.Path, "-m", "venv", "--without-pip", b.dir); err != nil {
		return b.blame(err)
	}
	if len(b.spec.Requirements) > 0 {
		if err := b.install(ctx); err != nil {
			return err
		}
	}
	return sandbox.Remove(filepath.Join(b.dir, tmpName))
}

// install runs pip: the node's own, so that it need not be copied into every environment, or the one that Python
// brings along.
func (b *builder) install(ctx context.Context) error {
	pip := []string{b.base.Path, "-m", "pip", "--python", pythonOf(b.dir)}
	if !b.hasPip(ctx) {
		if err := b.command(ctx, pythonOf(b.dir), "-m", "ensurepip"); err != nil {
			return &BuildError{Node: true, Log: b.log.tail(), Summary: fmt.Sprintf("%s has no pip to install requirements with: install pip 22.3 or later there (%s -m ensurepip, or the packages python3-pip and python3-venv)", b.base.Path, b.base.Path)}
		}
		pip = []string{pythonOf(b.dir), "-m", "pip"}
	}
	pip = append(pip, "install", "--disable-pip-version-check", "--no-input", "--no-cache-dir", "--progress-bar", "off", "--no-warn-script-location")
	pip = append(pip, b.spec.Requirements...)
	if err := b.lend(); err != nil {
		return err
	}
	return b.confined(ctx, pip...)
}

// hasPip says whether the base interpreter has a pip that can work on another environment.
func (b *builder) hasPip(ctx context.Context) bool {
	out, err := exec.CommandContext(ctx, b.base.Path, "-m", "pip", "--version").Output()
	var major, minor int
	if err != nil {
		return false
	}
	if _, err := fmt.Sscanf(string(out), "pip %d.%d", &major, &minor); err != nil {
		return false
	}
	return major > 22 || major == 22 && minor >= 3
}

// command runs a step that runs nobody's code but the node's Python's own, in a session of its own that ends with it.
func (b *builder) command(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = filepath.Join(b.dir, tmpName)
	cmd.Env = buildEnv(cmd.Dir)
	cmd.Stdout, cmd.Stderr = b.log, b.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second // for what has left the session and keeps the output open
	done := make(chan error, 1)
	go func() {
		// The kernel sends the parent-death signal when the thread that started a child ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		done <- cmd.Run()
	}()
	err := <-done
	if cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what it has left running
	}
	return err
}

// blame makes the error of a step that failed one that says why.
func (b *builder) blame(err error) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err // it did not even start
	}
	return b.verdict()
}

// verdict is the error that the output tells of.
func (b *builder) verdict() error {
	node, summary := reason(b.log.String())
	return &BuildError{Node: node, Summary: summary, Log: b.log.tail()}
}

// seal takes the environment over, and writes the log and the marker.
func (e *entry) seal(log string) error {
	if err := e.takeBack(); err != nil {
		return err
	}
	// The build may have left a link under the name, which must not be followed.
	if err := sandbox.Remove(filepath.Join(e.path, logName)); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(e.path, logName), []byte(log), 0o644); err != nil { //nolint:gosec // it is no secret
		return err
	}
	content, err := json.MarshalIndent(e.marker, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(e.path, markerName+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(append(content, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), filepath.Join(e.path, markerName))
}
