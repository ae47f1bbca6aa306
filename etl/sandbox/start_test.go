package sandbox_test

import (
	"bytes"
	"io"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/etl/sandbox"
)

// levels are those that this machine has.
func levels(t *testing.T) []string {
	t.Helper()
	report, err := sandbox.Probe(t.Context())
	require.NoError(t, err)
	var there []string
	for _, level := range []string{sandbox.Strict, sandbox.Landlock, sandbox.None} {
		if _, err := report.Level(level); err != nil {
			t.Logf("%s is not tested: %v", level, err)
			continue
		}
		there = append(there, level)
	}
	return there
}

// run runs a shell script to its end and returns what it printed.
func run(t *testing.T, level, script string, change ...func(*sandbox.Spec)) (string, sandbox.Exit) {
	t.Helper()
	output, input, err := os.Pipe()
	require.NoError(t, err)
	spec := sandbox.Spec{
		Path: "/bin/sh", Args: []string{"-c", script}, Env: []string{"PATH=/usr/bin:/bin"}, Dir: t.TempDir(),
		Stdout: input, Stderr: input,
	}
	for _, c := range change {
		c(&spec)
	}
	p, err := sandbox.Start(t.Context(), level, spec)
	require.NoError(t, input.Close())
	require.NoError(t, err)
	var text bytes.Buffer
	require.NoError(t, output.SetReadDeadline(time.Now().Add(60*time.Second)))
	_, err = io.Copy(&text, output)
	require.NoError(t, err)
	require.NoError(t, output.Close())
	exit := p.Wait()
	require.NoError(t, p.Close())
	return text.String(), exit
}

func TestProgramRuns(t *testing.T) {
	for _, level := range levels(t) {
		t.Run(level, func(t *testing.T) {
			text, exit := run(t, level, "echo hello; id -u; ls /proc/self/fd | tr '\\n' ' '; echo x > here && cat here; env; exit 3")
			require.Equal(t, sandbox.Exit{Code: 3}, exit, text)
			t.Log(text)
			report, err := sandbox.Probe(t.Context())
			require.NoError(t, err)
			t.Log(report.Confined(level, sandbox.Spec{Limits: sandbox.Limits{Memory: 1 << 30, CPUs: 1}}))
		})
	}
}
