package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/shardstream/shardstream/cluster/api"
)

// network is machines on one switch, each a network namespace with an address of its own: what a cluster over several
// hosts is, as far as addresses, sockets and cables go. The test is a client on a machine of its own.
type network struct {
	t      *testing.T
	prefix string
	hosts  []string
}

const clientHost = "client"

func newNetwork(t *testing.T) *network {
	t.Helper()
	if testing.Short() {
		t.Skip("runs a cluster; -short is for what needs none")
	}
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	for _, tool := range []string{"ip", "iptables"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed (Debian: apt-get install iproute2 iptables)", tool)
		}
	}
	n := &network{t: t, prefix: fmt.Sprintf("ssn%d-", os.Getpid())}
	t.Cleanup(func() {
		for _, host := range append([]string{"switch"}, n.hosts...) {
			_ = exec.Command("ip", "netns", "del", n.space(host)).Run()
		}
	})
	if out, err := exec.Command("ip", "netns", "add", n.space("switch")).CombinedOutput(); err != nil {
		t.Skipf("no network namespaces here: %v: %s", err, out)
	}
	if out, err := exec.Command("ip", "-n", n.space("switch"), "link", "add", "br0", "type", "bridge").CombinedOutput(); err != nil {
		t.Skipf("no bridges here: %v: %s", err, out)
	}
	n.must("ip", "-n", n.space("switch"), "link", "set", "br0", "up")
	n.plug(clientHost)
	return n
}

func (n *network) space(host string) string { return n.prefix + host }

func (n *network) must(command ...string) {
	n.t.Helper()
	out, err := exec.Command(command[0], command[1:]...).CombinedOutput()
	require.NoError(n.t, err, "%s: %s", strings.Join(command, " "), out)
}

// plug puts a machine on the switch.
func (n *network) plug(host string) {
	n.t.Helper()
	n.hosts = append(n.hosts, host)
	space, port := n.space(host), fmt.Sprintf("port%d", len(n.hosts))
	for _, line := range []string{
		"ip netns add " + space,
		"ip -n " + space + " link add eth0 type veth peer name " + port + " netns " + n.space("switch"),
		"ip -n " + space + " addr add " + n.ip(host) + "/24 dev eth0",
		"ip -n " + space + " link set eth0 up",
		"ip -n " + space + " link set lo up",
		"ip -n " + n.space("switch") + " link set " + port + " up master br0",
	} {
		n.must(strings.Fields(line)...)
	}
}

func (n *network) ip(host string) string {
	for i, h := range n.hosts {
		if h == host {
			return fmt.Sprintf("10.231.78.%d", i+1)
		}
	}
	require.Fail(n.t, "no such host: "+host)
	return ""
}

// cut has all packets from one host to another vanish.
func (n *network) cut(from, to string) {
	n.t.Helper()
	n.must("ip", "netns", "exec", n.space(to), "iptables", "-A", "INPUT", "-s", n.ip(from), "-j", "DROP")
}

// part cuts both ways.
func (n *network) part(a, b string) {
	n.t.Helper()
	n.cut(a, b)
	n.cut(b, a)
}

// repair has all packets pass again.
func (n *network) repair() {
	n.t.Helper()
	for _, host := range n.hosts {
		n.must("ip", "netns", "exec", n.space(host), "iptables", "-F", "INPUT")
	}
}

// dial connects from the client's machine: the socket belongs to the namespace that its thread is in.
func (n *network) dial(ctx context.Context, kind, address string) (connection net.Conn, err error) {
	runtime.LockOSThread() // and not unlocked where the thread can't be brought back: it ends with its goroutine then
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	defer home.Close()
	space, err := os.Open("/run/netns/" + n.space(clientHost))
	if err != nil {
		return nil, err
	}
	defer space.Close()
	if err := unix.Setns(int(space.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, err
	}
	connection, err = (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, kind, address)
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		return nil, errors.Join(err, back)
	}
	runtime.UnlockOSThread()
	return connection, err
}

// startHosts runs gateways and targets on machines of their own, with disks of their own, by `node run --join`.
func startHosts(t *testing.T, gateways, targets int) (*fleet, *network) {
	t.Helper()
	n := newNetwork(t)
	f := newFleet(t)
	f.dial = n.dial
	for role, count := range map[string]int{api.RoleGateway: gateways, api.RoleTarget: targets} {
		for i := range count {
			n.plug(fmt.Sprintf("%s-%d", role, i+1))
		}
	}
	for i := range gateways {
		id := fmt.Sprintf("gateway-%d", i+1)
		f.add(id, api.RoleGateway, n.ip(id)+":7070", n.space(id), "--insecure")
	}
	for i := range targets {
		id := fmt.Sprintf("target-%d", i+1)
		f.add(id, api.RoleTarget, n.ip(id)+":7071", n.space(id), "--insecure")
	}
	f.ready()
	return f, n
}

// TestPartitionedTargets: targets on hosts of their own lose each other, one way or both, or the gateways and so etcd while
// clients reach them, or everything.
func TestPartitionedTargets(t *testing.T) {
	f, n := startHosts(t, 3, 4)
	kind := -1
	underFaults(t, f, func(random *rand.Rand) {
		m, other := twoOf(random, f.targets())
		kind = (kind + 1) % 4
		t.Logf("%s: %s", m.id, []string{"cut off from all nodes", "hears no node", "parted from " + other.id, "cut off from the gateways"}[kind])
		for _, o := range f.nodes {
			switch {
			case o == m:
			case kind == 0, kind == 3 && strings.HasPrefix(o.id, "gateway"):
				n.part(m.id, o.id)
			case kind == 1:
				n.cut(o.id, m.id)
			}
		}
		if kind == 2 {
			n.part(m.id, other.id)
		}
		pause(random, 3*time.Second, 7*time.Second)
		n.repair()
	})
}

// TestMinorityOfGateways: a gateway that is parted from the others answers 503 to all but questions after its health; the
// others go on, and it does so too when it is back.
func TestMinorityOfGateways(t *testing.T) {
	f, n := startHosts(t, 3, 3)
	underFaults(t, f, func(random *rand.Rand) {
		lonely := f.nodes[random.IntN(len(f.gateways))]
		for _, o := range f.nodes {
			if o != lonely {
				n.part(lonely.id, o.id)
			}
		}
		url := "http://" + lonely.addr
		f.eventually(lonely.id+" goes on alone", func() bool {
			answer, err := f.http.Get(url + "/v1/buckets/" + workloadTable)
			if err != nil {
				return false
			}
			defer answer.Body.Close()
			return answer.StatusCode == http.StatusServiceUnavailable
		})
		require.NoError(t, f.health(lonely))
		for _, o := range f.nodes[:len(f.gateways)] {
			if o == lonely {
				continue
			}
			f.eventually(o.id+" does not go on", func() bool {
				client, err := api.NewClient(api.Options{Endpoint: "http://" + o.addr, Transport: f.http.Transport, RetryFor: -1})
				require.NoError(t, err)
				bucket := fmt.Sprintf("made-%d", random.Uint64())
				_, err = client.CreateBucket(t.Context(), bucket)
				return err == nil
			})
		}
		pause(random, time.Second, 4*time.Second)
		n.repair()
	})
}
