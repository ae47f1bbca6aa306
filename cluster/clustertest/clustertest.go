// Package clustertest runs a whole cluster inside a test: real nodes, real etcd, real disks under the
// test's temporary directory, on loopback. Nodes are goroutines here, so they can be stopped and
// started again but not killed; tests that kill use processes (see tests/).
package clustertest

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/node"
	"github.com/shardstream/shardstream/cluster/telemetry"
	"github.com/shardstream/shardstream/core/backend"
)

// startTimeout is generous: tests of other packages run at the same time.
const startTimeout = 60 * time.Second

// Options describe a cluster.
type Options struct {
	Gateways int           // 0: 1
	Targets  int           // 0: 3; negative: none
	Disks    int           // of each target; 0: 2
	LeaseTTL time.Duration // 0: 2 s, so that a stopped node is soon seen
	// Settings of all nodes; what is zero is as in production, but for the lease.
	Settings node.Settings
	// BackendAllow are networks that backends may be in; nil: this machine, where a test has its servers.
	BackendAllow []string
	// Address says where a node listens and under which address the others know it; nil: a free port, and that one.
	Address func(id string) (listen, advertise string)
	// Schemes are those of backends; nil: those of the build.
	Schemes backend.Set
}

// Cluster is a running cluster. It ends with the test.
type Cluster struct {
	Gateways []*Node
	Targets  []*Node
	Client   *api.Client // of the first gateway

	t       testing.TB
	dir     string
	options Options
	log     *slog.Logger
	logged  *lockedBuffer
}

// Node is one node, running or stopped.
type Node struct {
	ID     string
	Config node.Config

	t      testing.TB
	addr   string
	cancel context.CancelFunc
	done   chan error
}

// Start starts a cluster and waits until all its nodes are members.
func Start(t testing.TB, o Options) *Cluster {
	t.Helper()
	if o.Gateways == 0 {
		o.Gateways = 1
	}
	if o.Targets == 0 {
		o.Targets = 3
	}
	if o.Disks == 0 {
		o.Disks = 2
	}
	if o.Settings.BackendAllow = o.BackendAllow; o.BackendAllow == nil {
		o.Settings.BackendAllow = []string{"127.0.0.0/8", "::1"}
	}
	o.Settings.LeaseTTL = cmp.Or(o.LeaseTTL, o.Settings.LeaseTTL, 2*time.Second)
	c := &Cluster{t: t, dir: t.TempDir(), options: o, logged: &lockedBuffer{}}
	c.log = testLog(t, c.logged)
	t.Cleanup(c.Stop)
	for range o.Gateways {
		c.addGateway()
	}
	for range max(o.Targets, 0) {
		c.AddTarget()
	}
	c.Client = c.NewClient(api.Options{})
	c.Await("all nodes are up", func() bool {
		m, err := c.Client.RefreshMap(context.Background())
		return err == nil && len(m.Map.Nodes) == len(c.Gateways)+len(c.Targets) && allUp(m.Map.Nodes)
	})
	return c
}

func allUp(nodes []api.Node) bool {
	for _, n := range nodes {
		if n.State != api.StateOK {
			return false
		}
	}
	return true
}

// Endpoint is the URL of the first gateway.
func (c *Cluster) Endpoint() string { return "http://" + c.Gateways[0].Addr() }

// Endpoints are the URLs of all gateways, separated by commas.
func (c *Cluster) Endpoints() string {
	urls := make([]string, len(c.Gateways))
	for i, g := range c.Gateways {
		urls[i] = "http://" + g.Addr()
	}
	return strings.Join(urls, ",")
}

// AwaitEtcd waits until so many gateways hold etcd, and all nodes know of them.
func (c *Cluster) AwaitEtcd(members int) {
	c.t.Helper()
	c.Await(fmt.Sprintf("%d gateways hold etcd", members), func() bool {
		for _, g := range c.Gateways {
			client, err := api.NewClient(api.Options{Endpoint: "http://" + g.Addr(), RetryFor: -1})
			if err != nil {
				c.t.Fatal(err)
			}
			endpoints, err := client.ControlPlane(context.Background())
			client.Close()
			if err != nil || len(endpoints) != members {
				return false
			}
		}
		return true
	})
}

// NewClient makes a client of the first gateway.
func (c *Cluster) NewClient(o api.Options) *api.Client {
	c.t.Helper()
	if o.Endpoint == "" {
		o.Endpoint = c.Endpoint()
	}
	client, err := api.NewClient(o)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(client.Close)
	return client
}

func (c *Cluster) addGateway() {
	c.t.Helper()
	config := c.config(fmt.Sprintf("gateway-%d", len(c.Gateways)+1), api.RoleGateway)
	config.DataDirs = []string{filepath.Join(c.dir, config.ID)}
	if len(c.Gateways) > 0 {
		config.Join = c.Endpoints()
	}
	if c.options.Gateways >= 3 {
		config.EtcdMembers = 3
	}
	n := &Node{ID: config.ID, Config: config, t: c.t}
	n.Start()
	n.Config.Listen = n.addr // clients know it by its address
	c.Gateways = append(c.Gateways, n)
}

// AddTarget starts one more target.
func (c *Cluster) AddTarget() *Node {
	c.t.Helper()
	config := c.config(fmt.Sprintf("target-%d", len(c.Targets)+1), api.RoleTarget)
	config.Join = c.Endpoints()
	for d := range c.options.Disks {
		config.DataDirs = append(config.DataDirs, filepath.Join(c.dir, config.ID, fmt.Sprintf("disk-%d", d+1)))
	}
	n := &Node{ID: config.ID, Config: config, t: c.t}
	n.Start()
	c.Targets = append(c.Targets, n)
	return n
}

func (c *Cluster) config(id, role string) node.Config {
	listen, advertise := "127.0.0.1:0", ""
	if c.options.Address != nil {
		listen, advertise = c.options.Address(id)
	}
	return node.Config{
		ID: id, Role: role, Listen: listen, Advertise: advertise, Settings: c.options.Settings, Schemes: c.options.Schemes,
		Version: "test", Logger: c.log,
	}
}

// Target finds a target by its id.
func (c *Cluster) Target(id string) *Node {
	c.t.Helper()
	for _, n := range c.Targets {
		if n.ID == id {
			return n
		}
	}
	c.t.Fatalf("no target %s", id)
	return nil
}

// Owner is the target that owns an object.
func (c *Cluster) Owner(bucket, key string) *Node {
	c.t.Helper()
	placer, err := c.Client.RefreshMap(context.Background())
	if err != nil {
		c.t.Fatal(err)
	}
	owner, _ := placer.Owner(bucket, key)
	return c.Target(owner.ID)
}

// Stop stops all nodes: targets first, as they give their leases back to etcd on a gateway.
func (c *Cluster) Stop() {
	var wait sync.WaitGroup
	for _, n := range c.Targets {
		wait.Go(n.Stop)
	}
	wait.Wait()
	for i := len(c.Gateways) - 1; i >= 0; i-- {
		c.Gateways[i].Stop()
	}
}

// Await polls until the condition holds.
func (c *Cluster) Await(what string, holds func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(startTimeout); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			c.t.Fatalf("not within %v: %s", startTimeout, what)
		}
	}
}

// Addr is the node's host:port.
func (n *Node) Addr() string { return n.addr }

// Start starts the node, again if it was stopped, and waits until it is a member.
func (n *Node) Start() {
	n.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready := make(chan api.Node, 1)
	config := n.Config
	config.Ready = func(self api.Node) { ready <- self }
	done := make(chan error, 1)
	go func() { done <- node.Run(ctx, config) }() // ends with Stop
	n.cancel, n.done = cancel, done
	select {
	case self := <-ready:
		n.addr = self.Addr
	case err := <-done:
		cancel()
		n.cancel = nil
		n.t.Fatalf("%s: %v", n.ID, err)
	case <-time.After(startTimeout):
		n.t.Fatalf("%s did not start within %v", n.ID, startTimeout)
	}
}

// Stop stops the node and waits for its end. Stopping twice does nothing.
func (n *Node) Stop() {
	if n.cancel == nil {
		return
	}
	n.cancel()
	n.cancel = nil
	select {
	case err := <-n.done:
		if err != nil {
			n.t.Errorf("%s ended: %v", n.ID, err)
		}
	case <-time.After(startTimeout):
		n.t.Errorf("%s did not stop within %v", n.ID, startTimeout)
	}
}

// Log is what the nodes have logged so far.
func (c *Cluster) Log() string {
	c.logged.mu.Lock()
	defer c.logged.mu.Unlock()
	return c.logged.all.String()
}

// testLog keeps what the nodes log and shows it where the test failed.
func testLog(t testing.TB, buffer *lockedBuffer) *slog.Logger {
	t.Helper()
	log, err := telemetry.NewLogger(buffer, telemetry.Log{Level: "info"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("logs of the nodes:\n%s", buffer.tail())
		}
	})
	return log
}

type lockedBuffer struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.Write(p)
}

func (b *lockedBuffer) tail() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	const most = 64 << 10
	all := b.all.Bytes()
	return all[max(0, len(all)-most):]
}
