package sandbox_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/etl/sandbox"
)

// groups are the control groups that a process has made.
func groups(pid int) []string {
	var found []string
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, entry os.DirEntry, err error) error {
		if err == nil && strings.Contains(entry.Name(), fmt.Sprintf(".%d.", pid)) && strings.HasPrefix(entry.Name(), "shardstream-etl.") {
			found = append(found, path)
		}
		return nil
	})
	return found
}

func TestLimits(t *testing.T) {
	limited := func(s *sandbox.Spec) {
		s.Limits = sandbox.Limits{Memory: 64 << 20, CPUs: 0.5, Processes: 20, Scratch: 4 << 20}
	}
	for _, level := range levels(t) {
		t.Run(level, func(t *testing.T) {
			text, exit := run(t, level, "head -c 200000000 /dev/zero | tail -c 200000000 | wc -c; echo $?", limited)
			require.NotContains(t, text, "200000000", "tail holds that much")
			t.Log(exit, text)

			text, _ = run(t, level, "for i in 1 2 3 4 5 6 7 8 9; do head -c 1000000 /dev/zero > f$i || break; sleep 0.3; done; echo stopped", limited)
			if level != sandbox.None && !strings.Contains(text, "No space left") {
				require.NotContains(t, text, "stopped", "nothing bounds its files")
			}
			text, _ = run(t, level, "i=0; while [ $i -lt 60 ]; do sleep 5 & i=$((i+1)); done; echo all", limited)
			if level != sandbox.None {
				require.NotContains(t, text, "all")
			}
			text, _ = run(t, level, "ulimit -c; ulimit -n", limited)
			require.Equal(t, "0\n1024\n", text)
		})
	}
	require.Empty(t, groups(os.Getpid()))
}

func TestExitIsTold(t *testing.T) {
	for _, level := range levels(t) {
		t.Run(level, func(t *testing.T) {
			for script, want := range map[string]sandbox.Exit{
				"exit 0": {}, "exit 100": {Code: 100},
				"kill -9 $$": {Code: -1, Signal: syscall.SIGKILL}, "kill -11 $$": {Code: -1, Signal: syscall.SIGSEGV},
			} {
				_, exit := run(t, level, script)
				require.Equal(t, want, exit, script)
			}
		})
	}
}

// Everything dies with the program, and with Kill, wherever it has gone.
func TestNothingOutlivesTheProgram(t *testing.T) {
	for _, level := range levels(t) {
		t.Run(level, func(t *testing.T) {
			report, err := sandbox.Probe(t.Context())
			require.NoError(t, err)
			if slices.Contains(report.Confined(level, sandbox.Spec{}), "what leaves the worker's session is not ended with it") {
				t.Skip("this level can't see to it without control groups or another user")
			}
			mark := fmt.Sprintf("MARK=%s-%d", level, time.Now().UnixNano())
			spec := sandbox.Spec{
				Path: "/bin/sh", Args: []string{"-c", "setsid sleep 1000 & setsid setsid sleep 1000 & sleep 1000"},
				Env: []string{"PATH=/usr/bin:/bin", mark}, Dir: t.TempDir(),
			}
			p, err := sandbox.Start(t.Context(), level, spec)
			require.NoError(t, err)
			require.Eventually(t, func() bool { return running(mark) >= 4 }, 10*time.Second, 5*time.Millisecond)
			require.NoError(t, p.Close())
			require.NoError(t, p.Close())
			require.Equal(t, syscall.SIGKILL, p.Wait().Signal)
			require.Eventually(t, func() bool { return running(mark) == 0 }, 10*time.Second, 5*time.Millisecond)
		})
	}
}

// killedEnv makes this test binary a node that runs a program until it is killed.
const killedEnv = "SANDBOX_TEST_LEVEL"

func TestMain(m *testing.M) {
	level := os.Getenv(killedEnv)
	if level == "" {
		os.Exit(m.Run())
	}
	dir, err := os.MkdirTemp("", "sandbox-test-")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	p, err := sandbox.Start(context.Background(), level, sandbox.Spec{Path: "/bin/sleep", Args: []string{"1000"}, Dir: dir, Env: []string{killedEnv + "=of-" + level}})
	if err != nil {
		panic(err)
	}
	fmt.Println("started")
	p.Wait()
}

// A node that is killed takes its programs with it; the next one removes the control groups that it left.
func TestNodeIsKilled(t *testing.T) {
	for _, level := range levels(t) {
		t.Run(level, func(t *testing.T) {
			node := exec.Command(os.Args[0])
			node.Env = append(os.Environ(), killedEnv+"="+level)
			out, err := node.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, node.Start())
			_, err = out.Read(make([]byte, 8))
			require.NoError(t, err)
			pid := node.Process.Pid
			left := groups(pid)
			require.NoError(t, node.Process.Kill())
			_ = node.Wait()
			require.Eventually(t, func() bool { return running(killedEnv+"=of-"+level) == 0 }, 10*time.Second, 5*time.Millisecond)
			if len(left) == 0 {
				return // there are no control groups here
			}
			next := exec.Command(os.Args[0], "-test.run", "^TestProgramRuns$")
			said, err := next.CombinedOutput()
			require.NoError(t, err, "%s", said)
			require.Empty(t, groups(pid))
		})
	}
}

// running counts the processes with a variable in their environment.
func running(variable string) (n int) {
	paths, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range paths {
		if env, err := os.ReadFile(path); err == nil && strings.Contains(string(env), variable) {
			n++
		}
	}
	return n
}
