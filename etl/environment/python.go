package environment

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// PythonEnv names the environment variable that chooses the node's interpreter.
const PythonEnv = "SHARDSTREAM_PYTHON"

// ErrNoPython is returned when no interpreter was found.
var ErrNoPython = errors.New("no usable python3: set " + PythonEnv + " to a Python of 3.10 or later")

const (
	oldestMinor  = 10
	probeTimeout = 20 * time.Second
)

// Interpreter is a Python of this machine.
type Interpreter struct {
	Path    string // past launchers that depend on the directory or environment they are started in
	Version string // "3.11.7"
}

// Minor is the version as definitions name it: "3.11".
func (i Interpreter) Minor() string {
	parts := strings.SplitN(i.Version, ".", 3)
	return strings.Join(parts[:min(2, len(parts))], ".")
}

// probed remembers the interpreter behind each path, which takes a process to find out.
var probed sync.Map

// probe asks an interpreter what it is.
func probe(ctx context.Context, path string) (Interpreter, error) {
	if found, ok := probed.Load(path); ok {
		return found.(Interpreter), nil
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	const ask = "import sys; print(sys.executable); print('%d.%d.%d' % sys.version_info[:3])"
	out, err := exec.CommandContext(ctx, path, "-I", "-c", ask).Output()
	if err != nil {
		return Interpreter{}, fmt.Errorf("%w: %s does not run: %w", ErrNoPython, path, err)
	}
	told := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(told) < 2 || told[0] == "" {
		return Interpreter{}, fmt.Errorf("%w: %s is no Python", ErrNoPython, path)
	}
	found := Interpreter{Path: told[0], Version: told[1]}
	if !recent(found.Minor()) {
		return found, fmt.Errorf("%w: %s is Python %s", ErrNoPython, path, found.Version)
	}
	probed.Store(path, found)
	return found, nil
}

func recent(minor string) bool {
	text, ok := strings.CutPrefix(minor, "3.")
	n, err := strconv.Atoi(text)
	return ok && err == nil && n >= oldestMinor
}

// FindPython returns the node's interpreter: preferred if not empty, else what SHARDSTREAM_PYTHON names, else
// python3 beside the running binary (a wheel's environment), else python3 on PATH. The error wraps ErrNoPython.
func FindPython(ctx context.Context, preferred string) (Interpreter, error) {
	path, err := lookPython(preferred)
	if err != nil {
		return Interpreter{}, err
	}
	return probe(ctx, path)
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

// FindVersion returns an interpreter of a version such as "3.11", the node's own where that is one; else
// python3.11 beside it, beside the running binary or on PATH. The error is a *BuildError that names what there is.
func FindVersion(ctx context.Context, node, version string) (Interpreter, error) {
	own, err := FindPython(ctx, node)
	if version == "" || err == nil && own.Minor() == version {
		return own, err
	}
	for _, path := range installed(own, "python"+version) {
		if found, err := probe(ctx, path); err == nil && found.Minor() == version {
			return found, nil
		}
	}
	there := []string{}
	for _, path := range installed(own, "python3", "python3.*[0-9]") {
		if found, err := probe(ctx, path); err == nil {
			there = append(there, found.Version+" ("+found.Path+")")
		}
	}
	slices.Sort(there)
	known := strings.Join(slices.Compact(there), ", ")
	if known == "" {
		known = "none of 3.10 or later"
	}
	return Interpreter{}, &BuildError{Summary: fmt.Sprintf("there is no Python %s on this node; there is %s", version, known)}
}

// installed are the programs whose name matches one of the patterns, in the order in which they are looked for.
func installed(own Interpreter, patterns ...string) []string {
	var dirs, paths []string
	if own.Path != "" {
		dirs = append(dirs, filepath.Dir(own.Path))
	}
	if self, err := os.Executable(); err == nil {
		dirs = append(dirs, filepath.Dir(self))
	}
	dirs = append(dirs, filepath.SplitList(os.Getenv("PATH"))...)
	for _, dir := range dirs {
		if !filepath.IsAbs(dir) {
			continue
		}
		for _, pattern := range patterns {
			found, _ := filepath.Glob(filepath.Join(dir, pattern)) // the pattern is well formed
			for _, path := range found {
				if _, err := exec.LookPath(path); err == nil && !slices.Contains(paths, path) {
					paths = append(paths, path)
				}
			}
		}
	}
	return paths
}
