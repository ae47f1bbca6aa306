// Package faults holds the promises that must stand when things break: processes that are killed,
// disks that fill up, bytes that flip. Every test runs the real program as real processes.
//
// Random choices come from a seed, which a failing test prints; SEED=n runs the same choices again.
package faults

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
)

// program is the shardstream binary under test.
var program string

func TestMain(m *testing.M) { os.Exit(runAll(m)) }

// runAll builds the program once, or takes the one in SHARDSTREAM_BINARY.
func runAll(m *testing.M) int {
	if program = os.Getenv("SHARDSTREAM_BINARY"); program == "" {
		dir, err := os.MkdirTemp("", "shardstream-faults-*")
		if err != nil {
			panic(err)
		}
		defer func() { _ = os.RemoveAll(dir) }()
		program = filepath.Join(dir, "shardstream")
		build := exec.Command("go", "build", "-o", program, "github.com/shardstream/shardstream/cmd/shardstream")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
			return 1
		}
	}
	return m.Run()
}

// cluster is a local cluster of a test.
type cluster struct {
	t        *testing.T
	dir      string
	endpoint string
	client   *api.Client
}

// start brings up a cluster in dir that is down when the test ends. flags size it.
func start(t *testing.T, dir string, flags ...string) *cluster {
	t.Helper()
	if testing.Short() {
		t.Skip("runs a cluster; -short is for what needs none")
	}
	c := &cluster{t: t, dir: dir}
	started := time.Now()
	var report struct {
		Endpoint string `json:"endpoint"`
	}
	out := c.mustRun(append([]string{"up", "--detach", "--json", "--port", "0", "--dir", dir}, flags...)...)
	require.NoError(t, json.Unmarshal(out, &report))
	t.Logf("ready after %v", time.Since(started).Round(time.Millisecond))
	t.Cleanup(func() {
		c.mustRun("down", "--dir", dir)
		if t.Failed() {
			c.showLogs()
		}
	})
	c.endpoint = report.Endpoint
	client, err := api.NewClient(api.Options{Endpoint: c.endpoint})
	require.NoError(t, err)
	c.client = client
	return c
}

// run runs the program and gives its exit code.
func (c *cluster) run(args ...string) (code int, out, errs []byte) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, program, args...)
	command.Env = append(os.Environ(), "SHARDSTREAM_ENDPOINT="+c.endpoint)
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	err := command.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		require.NoError(c.t, err)
	}
	return command.ProcessState.ExitCode(), stdout.Bytes(), stderr.Bytes()
}

func (c *cluster) mustRun(args ...string) []byte {
	c.t.Helper()
	code, out, errs := c.run(args...)
	require.Zero(c.t, code, "shardstream %s: %s%s", strings.Join(args, " "), out, errs)
	return out
}

// pid is the process of a node now; 0 while it is being started again.
func (c *cluster) pid(node string) int {
	content, err := os.ReadFile(filepath.Join(c.dir, "run", node+".pid"))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(content)))
	require.NoError(c.t, err)
	return pid
}

func (c *cluster) status() api.Status {
	c.t.Helper()
	status, err := c.client.Status(c.t.Context())
	require.NoError(c.t, err)
	return status
}

// awaitOK waits until all nodes are alive.
func (c *cluster) awaitOK() {
	c.t.Helper()
	c.eventually("the cluster is not well again", func() bool {
		status, err := c.client.Status(c.t.Context())
		return err == nil && status.State == api.StateOK
	})
}

func (c *cluster) eventually(what string, ok func() bool) {
	c.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		require.True(c.t, time.Now().Before(deadline), what)
		time.Sleep(5 * time.Millisecond)
	}
}

// fsck runs `fsck --json`.
func (c *cluster) fsck() (code int, report api.FsckReport) {
	c.t.Helper()
	code, out, errs := c.run("fsck", "--json")
	require.NoError(c.t, json.Unmarshal(out, &report), "%s%s", out, errs)
	return code, report
}

// sound asserts that fsck finds no fault, and returns how many objects it saw.
func (c *cluster) sound() int64 {
	c.t.Helper()
	code, report := c.fsck()
	require.Empty(c.t, report.Corrupt, "corrupt")
	require.Empty(c.t, report.Missing, "missing")
	require.Empty(c.t, report.Stray, "stray")
	require.Zero(c.t, code)
	return report.Objects
}

func (c *cluster) showLogs() {
	logs, _ := filepath.Glob(filepath.Join(c.dir, "logs", "*.log"))
	for _, path := range logs {
		content, _ := os.ReadFile(path)
		lines := strings.Split(strings.TrimSpace(string(content)), "\n")
		c.t.Logf("--- %s\n%s", path, strings.Join(lines[max(0, len(lines)-30):], "\n"))
	}
}

// seeded returns the test's source of random choices.
func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if given := os.Getenv("SEED"); given != "" {
		var err error
		seed, err = strconv.ParseUint(given, 10, 64)
		require.NoError(t, err)
	}
	t.Logf("SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}
