package environment_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/etl/environment"
	"github.com/shardstream/shardstream/etl/environment/environmenttest"
)

func open(t *testing.T, dir string, opts environment.Options) *environment.Manager {
	t.Helper()
	m, err := environment.Open(dir, opts)
	require.NoError(t, err)
	t.Cleanup(m.Close)
	return m
}

func acquire(t *testing.T, m *environment.Manager, requirements ...string) *environment.Environment {
	t.Helper()
	env, err := m.Acquire(t.Context(), environment.Spec{Requirements: requirements}, nil)
	require.NoError(t, err)
	t.Cleanup(env.Release)
	return env
}

// says runs a line of Python in an environment.
func says(t *testing.T, env *environment.Environment, code string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), env.Interpreter().Path, "-E", "-c", code).CombinedOutput()
	require.NoError(t, err, string(out))
	return strings.TrimSpace(string(out))
}

func buildError(t *testing.T, m *environment.Manager, spec environment.Spec) *environment.BuildError {
	t.Helper()
	_, err := m.Acquire(t.Context(), spec, nil)
	var fault *environment.BuildError
	require.ErrorAs(t, err, &fault)
	return fault
}

func entries(t *testing.T, dir string) []string {
	t.Helper()
	found, err := os.ReadDir(dir)
	require.NoError(t, err)
	names := []string{}
	for _, f := range found {
		names = append(names, f.Name())
	}
	return names
}

func TestBuiltOnceAndShared(t *testing.T) {
	index := environmenttest.New(t)
	index.Wheel("base", "1.0", "X = 1")
	index.Wheel("top", "2.0", "import base\nY = base.X + 1", "base>=1")
	dir := t.TempDir()
	m := open(t, dir, environment.Options{})
	var mu sync.Mutex
	var lines []string
	var group sync.WaitGroup
	paths := make([]string, 4)
	for i, requirements := range [][]string{{"top"}, {"top"}, {" top "}, {"top", "top"}} {
		group.Go(func() {
			env, err := m.Acquire(t.Context(), environment.Spec{Requirements: requirements}, func(line string) {
				mu.Lock()
				defer mu.Unlock()
				lines = append(lines, line)
			})
			if err == nil {
				paths[i] = env.Dir()
				env.Release()
			}
		})
	}
	group.Wait()
	require.NotEmpty(t, paths[0])
	for _, path := range paths {
		require.Equal(t, paths[0], path)
	}
	require.Len(t, entries(t, dir), 1)
	told := strings.Join(lines, "\n")
	require.Contains(t, told, "Making a virtual environment of Python 3.")
	require.Contains(t, told, "Installing collected packages: base, top")

	env := acquire(t, m, "top")
	require.Equal(t, "2", says(t, env, "import top; print(top.Y)"))
	require.Contains(t, env.Log(), "Successfully installed base-1.0 top-2.0")
	require.Equal(t, says(t, env, "import sys; print('%d.%d.%d' % sys.version_info[:3])"), env.Interpreter().Version)

	t.Run("nothing of the node's Python is visible in it", func(t *testing.T) {
		out, err := exec.CommandContext(t.Context(), env.Interpreter().Path, "-E", "-c", "import numpy").CombinedOutput()
		require.Error(t, err)
		require.Contains(t, string(out), "No module named 'numpy'")
	})
	t.Run("kept over a restart", func(t *testing.T) {
		m.Close()
		_, err := m.Acquire(t.Context(), environment.Spec{Requirements: []string{"top"}}, nil)
		require.ErrorIs(t, err, environment.ErrClosed)
		index.Wheel("top", "3.0", "Y = 3") // a rebuild would take it
		again := open(t, dir, environment.Options{})
		require.Equal(t, "2", says(t, acquire(t, again, "top"), "import top; print(top.Y)"))
	})
}

func TestFailuresSayWhy(t *testing.T) {
	index := environmenttest.New(t)
	index.Wheel("base", "1.0", "")
	index.Wheel("base", "2.0", "")
	index.Wheel("old", "1.0", "", "base<2")
	index.Wheel("new", "1.0", "", "base>=2")
	index.Broken("broken", "1.0", "no compiler for this")
	m := open(t, t.TempDir(), environment.Options{})
	cases := map[string]struct {
		requirements []string
		want         []string
	}{
		"missing":  {[]string{"no-such-thing"}, []string{"there is no package that satisfies no-such-thing"}},
		"version":  {[]string{"base>=3"}, []string{"no version satisfies base>=3; there are 1.0, 2.0"}},
		"conflict": {[]string{"old", "new"}, []string{"the requirements conflict: old 1.0 depends on base<2; new 1.0 depends on base>=2"}},
		"broken":   {[]string{"broken"}, []string{"broken", "failed to build: RuntimeError: no compiler for this"}},
		"nonsense": {[]string{"==="}, []string{"pip does not understand the requirement", "==="}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			fault := buildError(t, m, environment.Spec{Requirements: c.requirements})
			for _, want := range c.want {
				require.Contains(t, fault.Summary, want)
			}
			require.NotContains(t, fault.Summary, "\n")
			require.NotEmpty(t, fault.Log)
			require.False(t, fault.Node)
		})
	}
	t.Run("no index", func(t *testing.T) {
		t.Setenv("PIP_NO_INDEX", "0")
		t.Setenv("PIP_RETRIES", "1")
		t.Setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
		fault := buildError(t, m, environment.Spec{Requirements: []string{"elsewhere"}})
		require.Contains(t, fault.Summary, "no package index could be reached")
		require.True(t, fault.Node)
	})
	t.Run("python", func(t *testing.T) {
		fault := buildError(t, m, environment.Spec{Python: "3.99"})
		own, err := environment.FindPython(t.Context(), "")
		require.NoError(t, err)
		require.Contains(t, fault.Summary, "there is no Python 3.99 on this node; there is ")
		require.Contains(t, fault.Summary, own.Version)
	})
}

func TestHalfBuiltIsSwept(t *testing.T) {
	index := environmenttest.New(t)
	index.Wheel("base", "1.0", "X = 1")
	dir := t.TempDir()
	m := open(t, dir, environment.Options{})
	whole := filepath.Base(acquire(t, m, "base").Dir())
	m.Close()
	half := filepath.Join(dir, "0123456789abcdef0123", "lib")
	require.NoError(t, os.MkdirAll(half, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "0123456789abcdef0123", "environment.json.1"), []byte("{}"), 0o600))
	open(t, dir, environment.Options{})
	require.Equal(t, []string{whole}, entries(t, dir))
}

func TestUnwantedIsRemoved(t *testing.T) {
	index := environmenttest.New(t)
	for _, name := range []string{"a", "b", "c"} {
		index.Wheel(name, "1.0", "")
	}
	dir := t.TempDir()
	m := open(t, dir, environment.Options{Grace: -1, Count: 2})
	a, b := acquire(t, m, "a"), acquire(t, m, "b")
	m.Keep([]environment.Spec{{Requirements: []string{"a"}}})
	a.Release()
	a.Release() // counts once
	m.Keep([]environment.Spec{{Requirements: []string{"a"}}})
	require.Len(t, entries(t, dir), 2, "one is wanted, the other lent")

	fault := buildError(t, m, environment.Spec{Requirements: []string{"c"}})
	require.Contains(t, fault.Summary, "as many as it may")
	require.True(t, fault.Node)
	m.Retry(environment.Spec{Requirements: []string{"c"}})
	b.Release()
	acquire(t, m, "c") // b had to go
	m.Close()          // joins the removal
	require.ElementsMatch(t, []string{filepath.Base(a.Dir()), filepath.Base(acquireDir(t, dir, "c"))}, entries(t, dir))
}

func acquireDir(t *testing.T, dir string, requirement string) string {
	t.Helper()
	return acquire(t, open(t, dir, environment.Options{}), requirement).Dir()
}

func TestFailureIsRemembered(t *testing.T) {
	index := environmenttest.New(t)
	m := open(t, t.TempDir(), environment.Options{})
	spec := environment.Spec{Requirements: []string{"late"}}
	first := buildError(t, m, spec)
	index.Wheel("late", "1.0", "")
	require.Same(t, first, buildError(t, m, spec), "nothing was tried")
	m.Retry(spec)
	acquire(t, m, "late")
}

func TestNobodyWaits(t *testing.T) {
	index := environmenttest.New(t)
	index.Gated("slow", "1.0")
	dir := t.TempDir()
	m := open(t, dir, environment.Options{})
	building := make(chan string, 100)
	wait := func(ctx context.Context) <-chan error {
		done := make(chan error, 1)
		go func() {
			env, err := m.Acquire(ctx, environment.Spec{Requirements: []string{"slow"}}, func(line string) {
				select {
				case building <- line:
				default:
				}
			})
			if env != nil {
				env.Release()
			}
			done <- err
		}()
		return done
	}
	one, leaveOne := context.WithCancel(t.Context())
	two, leaveTwo := context.WithCancel(t.Context())
	defer leaveOne()
	defer leaveTwo()
	first := wait(one)
	for line := ""; !strings.HasPrefix(line, "Preparing") && !strings.HasPrefix(line, "Processing"); {
		select {
		case line = <-building:
		case err := <-first:
			t.Fatal("the build ended: ", err)
		}
	}
	second := wait(two)
	leaveOne()
	require.ErrorIs(t, <-first, context.Canceled)
	require.Len(t, entries(t, dir), 1, "it goes on for the other")
	leaveTwo()
	require.ErrorIs(t, <-second, context.Canceled)
	require.Eventually(t, func() bool { return len(entries(t, dir)) == 0 }, 20*time.Second, 5*time.Millisecond, "nothing half is left")

	third := wait(t.Context()) // it was not a failure of the requirements
	index.Open("slow")
	require.NoError(t, <-third)
}

// What a package runs while it is built sees nothing of the node.
func TestBuildsAreConfined(t *testing.T) {
	index := environmenttest.New(t)
	secret := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(secret, []byte("key"), 0o644))
	t.Setenv("SHARDSTREAM_TOKEN", "key")
	data := filepath.Join(index.Dir, "data") // of the node, below what pip has to see
	require.NoError(t, os.Mkdir(data, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(data, "object"), []byte("key"), 0o644))
	m := open(t, t.TempDir(), environment.Options{Hide: []string{data}})
	index.Source("spy", "1.0", fmt.Sprintf(`
import os
found = [n for n in os.environ if "SHARDSTREAM" in n]
try:
    found.append(open(%q).read())
except OSError as e:
    found.append(type(e).__name__)
try:
    found.append(open(%q).read())
except OSError as e:
    found.append(type(e).__name__)
try:
    open(os.path.join(%q, "left"), "w")
except OSError:
    found.append("not written")
raise RuntimeError("saw " + ", ".join(found))
`, secret, filepath.Join(data, "object"), filepath.Dir(secret)))
	fault := buildError(t, m, environment.Spec{Requirements: []string{"spy"}})
	require.Contains(t, fault.Summary, "saw FileNotFoundError, FileNotFoundError, not written")
}

// What a build leaves in its environment does not lead the node astray when it takes that over.
func TestBuildsLeaveTraps(t *testing.T) {
	index := environmenttest.New(t)
	victim := filepath.Join(t.TempDir(), "victim")
	require.NoError(t, os.WriteFile(victim, []byte("whole"), 0o600))
	index.Source("trap", "1.0", fmt.Sprintf(`
import os, zipfile

def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    env = os.path.dirname(os.environ["TMPDIR"])
    for name in ("build.log", "environment.json"):
        os.symlink(%q, os.path.join(env, name))
    os.mkdir(os.path.join(env, "closed"))
    open(os.path.join(env, "closed", "file"), "w").close()
    os.chmod(os.path.join(env, "closed"), 0)
    name, info = "trap-1.0-py3-none-any.whl", "trap-1.0.dist-info/"
    with zipfile.ZipFile(os.path.join(wheel_directory, name), "w") as z:
        z.writestr("trap.py", "X = 1")
        z.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: trap\nVersion: 1.0\n")
        z.writestr(info + "WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        z.writestr(info + "RECORD", "trap.py,,\n")
    return name
`, victim))
	m := open(t, t.TempDir(), environment.Options{})
	env := acquire(t, m, "trap")
	require.Equal(t, "1", says(t, env, "import trap; print(trap.X)"))
	content, err := os.ReadFile(victim)
	require.NoError(t, err)
	require.Equal(t, "whole", string(content))
	require.Contains(t, env.Log(), "Successfully installed trap-1.0")
	info, err := os.Stat(filepath.Join(env.Dir(), "closed"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o555), info.Mode().Perm())
}

func TestBuildsFillNoDisk(t *testing.T) {
	index := environmenttest.New(t)
	index.Source("large", "1.0", `
import os, time
env = os.path.dirname(os.environ["TMPDIR"])
for i in range(40):
    with open(os.path.join(env, f"f{i}"), "wb") as f:
        f.write(bytes(1 << 20))
time.sleep(600)
`)
	dir := t.TempDir()
	m := open(t, dir, environment.Options{Size: 32 << 20})
	fault := buildError(t, m, environment.Spec{Requirements: []string{"large"}})
	require.Contains(t, fault.Summary, "more than the 32 MiB that this node has left for it")
	require.Empty(t, entries(t, dir))
}

func TestTimeLimit(t *testing.T) {
	index := environmenttest.New(t)
	index.Gated("slow", "1.0")
	m := open(t, t.TempDir(), environment.Options{Timeout: 3 * time.Second})
	fault := buildError(t, m, environment.Spec{Requirements: []string{"slow"}})
	require.Contains(t, fault.Summary, "was not built within 3s; it was at: ")
}

// Another version than the node's, where the machine has one that can make environments.
func TestPythonVersion(t *testing.T) {
	environmenttest.New(t)
	own, err := environment.FindPython(t.Context(), "")
	require.NoError(t, err)
	m := open(t, t.TempDir(), environment.Options{})
	env, err := m.Acquire(t.Context(), environment.Spec{Python: own.Minor()}, nil)
	require.NoError(t, err)
	defer env.Release()
	require.Equal(t, own.Version, env.Interpreter().Version)
	for _, version := range []string{"3.10", "3.11", "3.12", "3.13", "3.14"} {
		if version == own.Minor() {
			continue
		}
		if other, err := environment.FindVersion(t.Context(), "", version); err == nil {
			env, err := m.Acquire(t.Context(), environment.Spec{Python: version}, nil)
			require.NoError(t, err)
			defer env.Release()
			require.Equal(t, other.Version, env.Interpreter().Version)
			return
		}
	}
	t.Skip("this machine has one Python only")
}

// With the real index, where it can be reached.
func TestRealIndex(t *testing.T) {
	m := open(t, t.TempDir(), environment.Options{Timeout: time.Minute})
	env, err := m.Acquire(t.Context(), environment.Spec{Requirements: []string{"six"}}, nil)
	if err != nil {
		t.Skipf("no package index can be used here: %.300v", err)
	}
	defer env.Release()
	require.Equal(t, "True", says(t, env, "import six; print(six.PY3)"))
}
