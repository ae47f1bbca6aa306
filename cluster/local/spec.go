package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"strconv"

	"github.com/shardstream/shardstream/cluster/api"
)

const (
	// DefaultPort is the first gateway's port.
	DefaultPort = 7070
	// AnyPort asks for ports that are free now.
	AnyPort = -1

	specVersion = 1
	// Ports that nobody chose lie below the range from which systems serve outgoing connections: one
	// of those must not sit on a node's port while the node restarts.
	minSafePort, maxSafePort = 10_000, 30_000
	// maxNodes and maxDisks bound what one machine is asked to run.
	maxNodes = 64
	maxDisks = 64
)

// Spec is the cluster as cluster.json keeps it.
type Spec struct {
	Version int        `json:"version"`
	Disks   int        `json:"disks"` // of each target
	Nodes   []NodeSpec `json:"nodes"` // gateways, then targets
	// Begun says that the cluster was ready once: from then on no gateway begins another one.
	Begun bool `json:"begun,omitempty"`
}

// NodeSpec is one node with its port. It is kept, so that a restarted node is found where it was.
type NodeSpec struct {
	ID   string `json:"id"`
	Role string `json:"role"`
	Port int    `json:"port"`
}

// Addr is the node's address.
func (n NodeSpec) Addr() string { return loopback(n.Port) }

// Endpoint is the URL of the first gateway.
func (s Spec) Endpoint() string { return "http://" + s.Nodes[0].Addr() }

// Endpoints are the URLs of all gateways.
func (s Spec) Endpoints() []string { return s.others("") }

// others are the URLs of the gateways but one.
func (s Spec) others(id string) (urls []string) {
	for _, n := range s.Nodes {
		if n.Role == api.RoleGateway && n.ID != id {
			urls = append(urls, "http://"+n.Addr())
		}
	}
	return urls
}

func (s Spec) count(role string) (n int) {
	for _, node := range s.Nodes {
		if node.Role == role {
			n++
		}
	}
	return n
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// Size is the wished size of a cluster; 0 stands for what is there, or the default.
type Size struct{ Gateways, Targets, Disks int }

// ErrNoCluster is returned for a directory that holds no cluster.
var ErrNoCluster = errors.New("no cluster")

// LoadSpec reads the cluster.json of dir.
func LoadSpec(dir string) (Spec, error) {
	layout, err := NewLayout(dir)
	if err != nil {
		return Spec{}, err
	}
	content, err := os.ReadFile(layout.spec())
	if errors.Is(err, fs.ErrNotExist) {
		return Spec{}, fmt.Errorf("%w in %s; `shardstream up --dir %s` makes one", ErrNoCluster, layout.Dir, layout.Dir)
	}
	if err != nil {
		return Spec{}, err
	}
	var spec Spec
	if err := json.Unmarshal(content, &spec); err != nil {
		return Spec{}, fmt.Errorf("%s is damaged (%w); the data beside it is not: restore the file", layout.spec(), err)
	}
	if spec.Version != specVersion {
		return Spec{}, fmt.Errorf("%s has version %d, this program knows %d: use the shardstream that made it", layout.spec(), spec.Version, specVersion)
	}
	if spec.count(api.RoleGateway) == 0 || spec.Nodes[0].Role != api.RoleGateway {
		return Spec{}, fmt.Errorf("%s is damaged: its first node must be a gateway", layout.spec())
	}
	return spec, nil
}

// resolve loads the cluster of the directory or plans a new one.
func resolve(layout Layout, want Size, port int) (Spec, error) {
	spec, err := LoadSpec(layout.Dir)
	switch {
	case errors.Is(err, ErrNoCluster):
		spec, err = plan(want, port)
	case err == nil:
		spec, err = spec.grow(layout, want)
		if err == nil && port > 0 {
			spec.Nodes[0].Port = port // only the first gateway's port is the user's to choose
		}
	}
	return spec, err
}

func (s Spec) save(layout Layout) error {
	content, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(layout.spec(), append(content, '\n'))
}

// plan lays out a new cluster: the first gateway takes the given port (if that is in use, the user
// will hear so), all others take the next ones that are free.
func plan(want Size, port int) (Spec, error) {
	gateways, targets, disks := or(want.Gateways, 1), or(want.Targets, 3), or(want.Disks, 1)
	if gateways < 1 || targets < 1 || disks < 1 || gateways > maxNodes || targets > maxNodes || disks > maxDisks {
		return Spec{}, fmt.Errorf("a local cluster has 1 to %d gateways and targets and 1 to %d disks, not %d, %d and %d",
			maxNodes, maxDisks, gateways, targets, disks)
	}
	first := or(port, DefaultPort)
	ports := portPicker{next: first + 1}
	if port == AnyPort || first >= maxSafePort {
		ports.next = minSafePort + rand.IntN((maxSafePort-minSafePort)/2)
	}
	if port == AnyPort {
		first = ports.pick()
	}
	spec := Spec{Version: specVersion, Disks: disks}
	for i := range gateways {
		node := NodeSpec{ID: fmt.Sprintf("gateway-%d", i+1), Role: api.RoleGateway, Port: first}
		if i > 0 {
			node.Port = ports.pick()
		}
		spec.Nodes = append(spec.Nodes, node)
	}
	for i := range targets {
		spec.Nodes = append(spec.Nodes, NodeSpec{ID: fmt.Sprintf("target-%d", i+1), Role: api.RoleTarget, Port: ports.pick()})
	}
	if ports.err != nil {
		return Spec{}, ports.err
	}
	return spec, nil
}

func or(n, otherwise int) int {
	if n == 0 {
		return otherwise
	}
	return n
}

// portPicker hands out rising ports that are free.
type portPicker struct {
	next int
	err  error
}

func (p *portPicker) pick() int {
	for ; p.next < 1<<16; p.next++ {
		if portFree(p.next) == nil {
			p.next++
			return p.next - 1
		}
	}
	p.err = fmt.Errorf("no free ports left below 65536; choose a lower --port")
	return 0
}

func portFree(port int) error {
	listener, err := net.Listen("tcp", loopback(port))
	if err != nil {
		return err
	}
	return listener.Close()
}
