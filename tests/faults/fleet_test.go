package faults

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
)

// fleetSettings make what takes minutes in earnest take seconds here.
const fleetSettings = `
lease_ttl: 2s
heal_after: 1s
delete_grace: 2s
tombstone_grace: 60s
stray_grace: 60s
commit_timeout: 3s
`

// fleet is a cluster of node processes that the test itself starts, kills and starts again: nobody else does. Each is as on
// a machine of its own, begun by the documented `node run --join`.
type fleet struct {
	t        *testing.T
	dir      string
	nodes    []*machine
	gateways []string // URLs
	dial     func(ctx context.Context, network, address string) (net.Conn, error)
	client   *api.Client
	http     *http.Client
}

// machine is a node of a fleet.
type machine struct {
	id    string
	addr  string
	args  []string // of `node run`
	dirs  []string
	space string // its network namespace, "" for that of the test
	cmd   *exec.Cmd
	log   *os.File
	ended chan struct{}
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	if testing.Short() {
		t.Skip("runs a cluster; -short is for what needs none")
	}
	f := &fleet{t: t, dir: t.TempDir(), dial: new(net.Dialer).DialContext}
	require.NoError(t, os.WriteFile(filepath.Join(f.dir, "settings.yaml"), []byte(fleetSettings), 0o600))
	t.Cleanup(f.end)
	return f
}

// startFleet runs gateways and targets on this machine.
func startFleet(t *testing.T, gateways, targets int) *fleet {
	t.Helper()
	f := newFleet(t)
	for i := range gateways {
		f.add(fmt.Sprintf("gateway-%d", i+1), api.RoleGateway, freeAddr(t), "")
	}
	for i := range targets {
		f.add(fmt.Sprintf("target-%d", i+1), api.RoleTarget, freeAddr(t), "")
	}
	f.ready()
	return f
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

// add begins a node with empty disks. The first one begins the cluster.
func (f *fleet) add(id, role, addr, space string, flags ...string) *machine {
	f.t.Helper()
	m := &machine{id: id, addr: addr, space: space}
	disks := 1
	if role == api.RoleTarget {
		disks = 2
	}
	for i := range disks {
		m.dirs = append(m.dirs, filepath.Join(f.dir, id, fmt.Sprintf("disk-%d", i+1)))
	}
	m.args = append([]string{
		"node", "run", "--role", role, "--id", id, "--listen", addr, "--data", strings.Join(m.dirs, ","),
		"--config", filepath.Join(f.dir, "settings.yaml"), "--etl-engine", "none",
	}, flags...)
	if len(f.gateways) > 0 {
		m.args = append(m.args, "--join", f.gateways[0])
	}
	if len(f.gateways) > 0 && space != "" { // others can reach these nodes, so each new one needs a token
		m.args = append(m.args, "--token", f.token(space))
	}
	if role == api.RoleGateway {
		f.gateways = append(f.gateways, "http://"+addr)
	}
	var err error
	m.log, err = os.Create(filepath.Join(f.dir, id+".log"))
	require.NoError(f.t, err)
	f.nodes = append(f.nodes, m)
	f.start(m)
	f.eventually(id+" does not come up", func() bool { return f.health(m) == nil })
	return m
}

// token has the cluster make a token for a new node, as its operator does.
func (f *fleet) token(space string) string {
	f.t.Helper()
	out, err := exec.Command("ip", "netns", "exec", space, program, "--endpoint", f.gateways[0], "node", "token").Output()
	require.NoError(f.t, err)
	return strings.TrimSpace(string(out))
}

// ready makes the clients, once all nodes are up.
func (f *fleet) ready() {
	f.t.Helper()
	transport := &http.Transport{DialContext: f.dial, MaxIdleConnsPerHost: 16}
	f.http = &http.Client{Transport: transport, Timeout: 15 * time.Second}
	f.t.Cleanup(transport.CloseIdleConnections)
	client, err := api.NewClient(api.Options{Endpoint: f.gateways[0], Transport: transport})
	require.NoError(f.t, err)
	f.client = client
	f.awaitOK()
}

func (f *fleet) start(m *machine) {
	f.t.Helper()
	command := append([]string{program}, m.args...)
	if m.space != "" {
		command = append([]string{"ip", "netns", "exec", m.space}, command...)
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = m.log, m.log
	require.NoError(f.t, cmd.Start())
	ended := make(chan struct{})
	m.cmd, m.ended = cmd, ended
	go func() { _ = cmd.Wait(); close(ended) }()
}

// signal sends a node a signal; one that ends it is waited for.
func (f *fleet) signal(m *machine, signal syscall.Signal) {
	f.t.Helper()
	err := m.cmd.Process.Signal(signal)
	require.True(f.t, err == nil || errors.Is(err, os.ErrProcessDone), "%v", err)
	if signal == syscall.SIGKILL || signal == syscall.SIGTERM {
		select {
		case <-m.ended:
		case <-time.After(30 * time.Second):
			require.Fail(f.t, m.id+" does not end")
		}
	}
}

// end kills what is left, and shows logs where the test failed.
func (f *fleet) end() {
	for _, m := range f.nodes {
		_ = m.cmd.Process.Kill()
		<-m.ended
		_ = m.log.Close()
		if f.t.Failed() {
			content, _ := os.ReadFile(m.log.Name())
			lines := strings.Split(strings.TrimSpace(string(content)), "\n")
			f.t.Logf("--- %s\n%s", m.id, strings.Join(lines[max(0, len(lines)-15):], "\n"))
		}
	}
}

func (f *fleet) targets() []*machine {
	return slices.DeleteFunc(slices.Clone(f.nodes), func(m *machine) bool { return !strings.HasPrefix(m.id, "target") })
}

// health asks a node itself.
func (f *fleet) health(m *machine) error {
	client := http.Client{Transport: &http.Transport{DialContext: f.dial, DisableKeepAlives: true}, Timeout: 2 * time.Second}
	answer, err := client.Get("http://" + m.addr + "/v1/health")
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("health of %s: %s", m.id, answer.Status)
	}
	return nil
}

func (f *fleet) eventually(what string, ok func() bool) {
	f.t.Helper()
	deadline := time.Now().Add(90 * time.Second)
	for !ok() {
		require.True(f.t, time.Now().Before(deadline), what)
		time.Sleep(20 * time.Millisecond)
	}
}

// awaitOK waits until all nodes are alive in every gateway's eyes.
func (f *fleet) awaitOK() {
	f.t.Helper()
	for _, url := range f.gateways {
		client, err := api.NewClient(api.Options{Endpoint: url, Transport: f.http.Transport})
		require.NoError(f.t, err)
		f.eventually("not all nodes are alive to "+url, func() bool {
			status, err := client.Status(f.t.Context())
			return err == nil && status.State == api.StateOK && len(status.Nodes) == len(f.nodes)
		})
	}
}

// awaitSettled waits until all data is where it belongs, with all its copies.
func (f *fleet) awaitSettled() api.Status {
	f.t.Helper()
	f.awaitOK()
	var status api.Status
	f.eventually("data does not settle", func() bool {
		var err error
		status, err = f.client.Status(f.t.Context())
		return err == nil && status.Rebalance.State == api.RebalanceIdle
	})
	return status
}
