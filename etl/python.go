package etl

import (
	"context"
	"embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// workerFiles are what workers run.
//
//go:embed worker/worker.py worker/shardstream_worker/*.py
var workerFiles embed.FS

// PythonEnv names the environment variable that chooses the interpreter of workers.
const PythonEnv = "SHARDSTREAM_PYTHON"

// resolved remembers the interpreter behind each path, which takes a process to find out.
var resolved sync.Map

// FindPython returns the interpreter that workers run under: preferred if not empty, else what
// SHARDSTREAM_PYTHON names, else python3 beside the running binary (a wheel's environment), else
// python3 on PATH. It is resolved to the real interpreter, past launchers that depend on the directory or
// environment they are started in. The error wraps ErrNoPython.
func FindPython(ctx context.Context, preferred string) (string, error) {
	path, err := lookPython(preferred)
	if err != nil {
		return "", err
	}
	if found, ok := resolved.Load(path); ok {
		return found.(string), nil
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	const ask = "import sys; print(sys.executable); print('%d.%d' % sys.version_info[:2]); print(sys.version_info >= (3, 10))"
	out, err := exec.CommandContext(ctx, path, "-I", "-c", ask).Output()
	if err != nil {
		return "", fmt.Errorf("%w: %s does not run: %w", ErrNoPython, path, err)
	}
	told := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(told) != 3 || told[0] == "" {
		return "", fmt.Errorf("%w: %s is no Python", ErrNoPython, path)
	}
	interpreter := told[0]
	if told[2] != "True" {
		return "", fmt.Errorf("%w: %s is Python %s", ErrNoPython, path, told[1])
	}
	resolved.Store(path, interpreter)
	return interpreter, nil
}

func lookPython(preferred string) (string, error) {
	for _, choice := range []string{preferred, os.Getenv(PythonEnv)} {
		if choice == "" {
			continue
		}
		path, err := exec.LookPath(choice)
		if err != nil {
			return "", fmt.Errorf("%w: %w", ErrNoPython, err)
		}
		return filepath.Abs(path)
	}
	if self, err := os.Executable(); err == nil {
		if path, err := exec.LookPath(filepath.Join(filepath.Dir(self), "python3")); err == nil {
			return path, nil
		}
	}
	path, err := exec.LookPath("python3")
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrNoPython, err)
	}
	return filepath.Abs(path)
}
