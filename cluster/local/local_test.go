package local_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/local"
)

// The test binary plays all parts: "node run ..." is a node that does no more than answer, and
// "supervise JSON" is a supervisor process.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 {
		switch os.Args[1] {
		case "node":
			os.Exit(fakeNode(os.Args[3:]))
		case "supervise":
			os.Exit(supervise(os.Args[2]))
		}
	}
	// Under -race every process would sleep for a second at its end.
	_ = os.Setenv("GORACE", "atexit_sleep_ms=0")
	os.Exit(m.Run())
}

func supervise(config string) int {
	var o local.Options
	if err := json.Unmarshal([]byte(config), &o); err != nil {
		panic(err)
	}
	o.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	err := local.Up(ctx, o, func(spec local.Spec) {
		_ = local.Report{Endpoint: spec.Endpoint(), Dir: o.Dir, PID: os.Getpid()}.Send()
	})
	if err != nil {
		_ = local.Report{Error: err.Error()}.Send()
		return 1
	}
	return 0
}

// fakeNode listens where it is told. A gateway takes a node for alive that accepts connections.
func fakeNode(args []string) int {
	flags := map[string]string{}
	for i := 0; i+1 < len(args); i += 2 {
		flags[strings.TrimPrefix(args[i], "--")] = args[i+1]
	}
	if os.Getenv("FAKE_BROKEN") == flags["id"] {
		fmt.Println("the disk is on fire")
		return 3
	}
	dir := filepath.Dir(filepath.Dir(strings.Split(flags["data"], ",")[0]))
	if flags["role"] == api.RoleTarget {
		dir = filepath.Dir(dir)
	}
	fmt.Println("node", flags["id"], "listens")
	listener, err := net.Listen("tcp", flags["listen"])
	if err != nil {
		fmt.Println(err)
		return 1
	}
	_ = http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		spec, err := local.LoadSpec(dir)
		if err != nil {
			panic(err)
		}
		var status api.Status
		for _, n := range spec.Nodes {
			node := api.Node{ID: n.ID, State: api.StateDown}
			if conn, err := net.Dial("tcp", n.Addr()); err == nil {
				node.State = api.StateOK
				_ = conn.Close()
			}
			status.Nodes = append(status.Nodes, node)
		}
		_ = json.NewEncoder(w).Encode(status)
	}))
	return 0
}

// options is a small cluster in a directory of the test, which is down when the test ends.
func options(t *testing.T) local.Options {
	t.Helper()
	o := local.Options{Dir: t.TempDir(), Size: local.Size{Gateways: 1, Targets: 2, Disks: 2}, Port: local.AnyPort}
	t.Cleanup(func() {
		err := local.Down(context.Background(), o.Dir)
		if !errors.Is(err, local.ErrNotRunning) && !errors.Is(err, local.ErrNoCluster) {
			require.NoError(t, err)
		}
	})
	return o
}

func up(t *testing.T, o local.Options) (local.Report, error) {
	t.Helper()
	config, err := json.Marshal(o)
	require.NoError(t, err)
	return local.Detach(t.Context(), o.Dir, []string{"supervise", string(config)})
}

func mustUp(t *testing.T, o local.Options) local.Report {
	t.Helper()
	report, err := up(t, o)
	require.NoError(t, err)
	return report
}

func pidOf(t *testing.T, dir, node string) int {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(dir, "run", node+".pid"))
	require.NoError(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(content)))
	require.NoError(t, err)
	return pid
}

// eventually polls, and fails the test after a few seconds.
func eventually(t *testing.T, what string, ok func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for !ok() {
		require.Less(t, time.Since(start), 5*time.Second, what)
		time.Sleep(2 * time.Millisecond)
	}
	return time.Since(start)
}

func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	state := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))[0]
	return state != "Z"
}

func listens(addr string) bool {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

func nodes(t *testing.T, dir string) []local.NodeSpec {
	t.Helper()
	spec, err := local.LoadSpec(dir)
	require.NoError(t, err)
	return spec.Nodes
}

func TestUpRunsNodesAndDownStopsThem(t *testing.T) {
	o := options(t)
	report := mustUp(t, o)
	supervisor, err := local.Running(o.Dir)
	require.NoError(t, err)
	require.Equal(t, report.PID, supervisor)
	require.Equal(t, supervisor, pidOf(t, o.Dir, "supervisor"))

	var pids []int
	var ids []string
	for _, node := range nodes(t, o.Dir) {
		ids = append(ids, node.ID)
		pids = append(pids, pidOf(t, o.Dir, node.ID))
		require.True(t, listens(node.Addr()))
		log, err := os.ReadFile(filepath.Join(o.Dir, "logs", node.ID+".log"))
		require.NoError(t, err)
		require.Contains(t, string(log), "node "+node.ID+" listens")
	}
	require.Equal(t, []string{"gateway-1", "target-1", "target-2"}, ids)

	require.NoError(t, local.Down(t.Context(), o.Dir))
	for i, pid := range pids {
		require.False(t, alive(pid), ids[i])
		require.NoFileExists(t, filepath.Join(o.Dir, "run", ids[i]+".pid"))
	}
	require.ErrorIs(t, local.Down(t.Context(), o.Dir), local.ErrNotRunning)
	require.ErrorIs(t, local.Down(t.Context(), t.TempDir()), local.ErrNoCluster)
}

func TestKilledNodesComeBackOnTheirPorts(t *testing.T) {
	o := options(t)
	mustUp(t, o)
	before := nodes(t, o.Dir)
	for round := range 3 {
		for _, node := range before {
			pid := pidOf(t, o.Dir, node.ID)
			require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
			took := eventually(t, node.ID+" did not come back", func() bool {
				return !alive(pid) && listens(node.Addr()) && pidOf(t, o.Dir, node.ID) != pid
			})
			t.Logf("round %d: %s is back after %v", round, node.ID, took)
		}
	}
	require.Equal(t, before, nodes(t, o.Dir))
}

func TestNothingOutlivesAKilledSupervisor(t *testing.T) {
	o := options(t)
	report := mustUp(t, o)
	var pids []int
	for _, node := range nodes(t, o.Dir) {
		pids = append(pids, pidOf(t, o.Dir, node.ID))
	}
	require.NoError(t, syscall.Kill(report.PID, syscall.SIGKILL))
	for _, pid := range pids {
		eventually(t, "a node outlived its supervisor", func() bool { return !alive(pid) })
	}
	// The run directory is stale now; a new supervisor takes over at once.
	again := mustUp(t, o)
	require.NotEqual(t, report.PID, again.PID)
	require.Equal(t, report.Endpoint, again.Endpoint)
}

func TestStalePIDFilesEndNobodyElse(t *testing.T) {
	o := options(t)
	mustUp(t, o)
	require.NoError(t, local.Down(t.Context(), o.Dir))
	bystander := exec.Command("sleep", "60")
	require.NoError(t, bystander.Start())
	defer func() { _ = bystander.Process.Kill(); _ = bystander.Wait() }()
	for _, name := range []string{"target-1", "supervisor"} {
		path := filepath.Join(o.Dir, "run", name+".pid")
		require.NoError(t, os.WriteFile(path, []byte(strconv.Itoa(bystander.Process.Pid)), 0o600))
	}
	require.ErrorIs(t, local.Down(t.Context(), o.Dir), local.ErrNotRunning)
	mustUp(t, o)
	require.True(t, alive(bystander.Process.Pid))
}

func TestSecondUpIsRefused(t *testing.T) {
	o := options(t)
	report := mustUp(t, o)
	_, err := up(t, o)
	require.ErrorContains(t, err, fmt.Sprintf("running already (supervisor pid %d)", report.PID))
	require.ErrorContains(t, err, "shardstream down --dir "+o.Dir)
	require.True(t, listens(strings.TrimPrefix(report.Endpoint, "http://")))
}

func TestAClusterDoesNotShrink(t *testing.T) {
	o := options(t)
	mustUp(t, o)
	require.NoError(t, local.Down(t.Context(), o.Dir))
	for name, size := range map[string]local.Size{"targets": {Targets: 1}, "disks": {Disks: 1}} {
		other := o
		other.Size = size
		_, err := up(t, other)
		require.ErrorContains(t, err, "leave out --"+name)
	}
	o.Size = local.Size{}
	mustUp(t, o)
	require.Len(t, nodes(t, o.Dir), 3)
}

func TestAClusterGrows(t *testing.T) {
	o := options(t)
	mustUp(t, o)
	before := nodes(t, o.Dir)
	_, err := local.Grow(t.Context(), o.Dir, local.Size{Targets: 2})
	var running *local.RunningError
	require.ErrorAs(t, err, &running, "it has as many")
	spec, err := local.Grow(t.Context(), o.Dir, local.Size{Targets: 3, Gateways: 2}) // while it runs
	require.NoError(t, err)
	require.Equal(t, spec.Nodes, nodes(t, o.Dir))
	var ids []string
	for _, n := range spec.Nodes {
		ids = append(ids, n.ID)
		require.True(t, listens(n.Addr()), n.ID)
	}
	require.Equal(t, []string{"gateway-1", "gateway-2", "target-1", "target-2", "target-3"}, ids)
	require.Subset(t, spec.Nodes, before, "ports stay")
	require.NoError(t, local.Down(t.Context(), o.Dir))
	for _, n := range spec.Nodes {
		require.False(t, listens(n.Addr()), n.ID)
	}
	o.Size = local.Size{Targets: 4} // while it does not
	mustUp(t, o)
	require.Len(t, nodes(t, o.Dir), 6)
}

func TestTakenPort(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	o := options(t)
	o.Port = listener.Addr().(*net.TCPAddr).Port
	_, err = up(t, o)
	require.ErrorContains(t, err, fmt.Sprintf("port %d of gateway-1", o.Port))
	require.ErrorContains(t, err, "choose another --port")

	require.NoFileExists(t, filepath.Join(o.Dir, "cluster.json"), "a failed first up leaves the choice open")

	require.NoError(t, listener.Close())
	report := mustUp(t, o)
	require.Equal(t, "http://"+listener.Addr().String(), report.Endpoint)
	for _, node := range nodes(t, o.Dir)[1:] {
		require.Less(t, node.Port, 32768, "%s has a port that an outgoing connection may take", node.ID)
	}

	// The port of a target is its own for good: taken, it is missed.
	require.NoError(t, local.Down(t.Context(), o.Dir))
	target := nodes(t, o.Dir)[1]
	listener, err = net.Listen("tcp", target.Addr())
	require.NoError(t, err)
	defer listener.Close()
	_, err = up(t, o)
	require.ErrorContains(t, err, fmt.Sprintf("port %d of target-1 can't be used", target.Port))
}

func TestANodeThatCannotStartSaysWhy(t *testing.T) {
	t.Setenv("FAKE_BROKEN", "target-2")
	o := options(t)
	_, err := up(t, o)
	require.ErrorContains(t, err, "target-2 did not start (exit status 3)")
	require.ErrorContains(t, err, "the disk is on fire")
	pid, err := local.Running(o.Dir)
	require.NoError(t, err)
	require.Zero(t, pid)
	for _, node := range nodes(t, o.Dir) {
		require.False(t, listens(node.Addr()), node.ID)
	}
}

func TestASupervisorThatCannotStartSaysWhy(t *testing.T) {
	o := options(t)
	_, err := local.Detach(t.Context(), o.Dir, []string{"supervise", "no JSON"})
	require.ErrorContains(t, err, "invalid character")
}

func TestDamagedSpec(t *testing.T) {
	o := options(t)
	for content, want := range map[string]string{
		"{":              "is damaged",
		`{"version": 9}`: "version 9",
		`{"version": 1}`: "first node",
		`{"version": 1, "nodes": [{"role": "target"}]}`: "first node",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(o.Dir, "cluster.json"), []byte(content), 0o600))
		_, err := local.LoadSpec(o.Dir)
		require.ErrorContains(t, err, want, content)
	}
	require.NoError(t, os.Remove(filepath.Join(o.Dir, "cluster.json")))
}

func TestAbsurdSizesAreRefused(t *testing.T) {
	for _, size := range []local.Size{{Targets: 65}, {Targets: -1}, {Disks: 1000}, {Gateways: 100}} {
		o := options(t)
		o.Size = size
		_, err := up(t, o)
		require.ErrorContains(t, err, "1 to 64", size)
	}
}
