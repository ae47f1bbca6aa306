// Package node wires one node of a cluster and runs it: identity, listener, etcd or the way to it,
// membership, and the gateway's or target's server. What the parts do is theirs; this package decides
// only in which order they start and stop.
package node

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/backend"
	"github.com/shardstream/shardstream/etl/sandbox"
)

// Config describes a node.
type Config struct {
	ID        string   // "": the one in the data directory, or a new one
	Role      string   // api.RoleGateway or api.RoleTarget
	Listen    string   // host:port; port 0 takes any free one
	Advertise string   // host:port under which the others reach the node; "": as it listens
	DataDirs  []string // a target's disks; a gateway has one, for etcd
	// Join are URLs of gateways, separated by commas; "" on the first gateway, which begins the cluster and its etcd.
	Join string
	// Etcd are client URLs of an etcd that runs elsewhere, for a gateway; none: on some of the gateways themselves.
	Etcd []string
	// EtcdMembers is how many gateways are to hold etcd, if there are that many: 1, 3 or 5; 0: membership.DefaultEtcdMembers.
	EtcdMembers int
	Token       string // for a new node to join with
	// RequireToken makes new nodes need a token, as they do in any case where the cluster is not on loopback only.
	RequireToken bool
	Weight       float64 // a target's share of the objects; 0: 1. Counts on the first start only
	Insecure     bool    // listen on addresses that others can reach, without TLS or credentials
	// StreamMemory is how many bytes a target's streams may take; 0: a quarter of the machine's memory.
	StreamMemory int64
	// ETLWait is how long a target waits for its transformations to be ready before it takes traffic; 0: five minutes
	// where it is new, 20 seconds where it comes back.
	ETLWait   time.Duration
	ETLEngine string // that runs containers, one of engine.Names; "": podman, else docker
	// ETLCache is how many bytes of a target's first disk kept outputs of transformations may take; 0: DefaultETLCache,
	// but no more than a tenth of that disk; negative: none are kept.
	ETLCache int64
	// ETLIsolation is the least isolation of users' code that a target accepts, as etl/sandbox names it; "" or "auto": the
	// most that the machine has.
	ETLIsolation string
	Version      string // of the software
	// Schemes are those of backends, instead of those that this build has; for tests.
	Schemes backend.Set
	Logger  *slog.Logger
	Settings

	// work is the data directory that has a target's own files beside its objects: the first that can be written.
	work string

	// Ready is called once the node is a member and serves, with what it registered as; nil is fine.
	Ready func(api.Node)
}

// check lists all faults at once.
func (c *Config) check() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	switch c.Role {
	case api.RoleGateway:
		if len(c.DataDirs) != 1 {
			fault("a gateway has one data directory, not %d", len(c.DataDirs))
		}
	case api.RoleTarget:
		if len(c.DataDirs) == 0 {
			fault("a target needs a data directory for each of its disks")
		}
		if c.Join == "" {
			fault("a target needs the URL of a gateway to join")
		}
		if len(c.Etcd) > 0 {
			fault("gateways tell targets where etcd is")
		}
	default:
		fault("role %q is neither %s nor %s", c.Role, api.RoleGateway, api.RoleTarget)
	}
	if c.ID != "" && !validID(c.ID) {
		fault("node id %q: 1 to 64 of a-z, A-Z, 0-9, '.', '_' and '-' are allowed, beginning with a letter or digit", c.ID)
	}
	for _, at := range c.joins() {
		if !isURL(at) {
			fault("join %q is not the URL of a gateway, such as %s", at, api.DefaultEndpoint)
		}
	}
	for _, at := range c.Etcd {
		if !isURL(at) {
			fault("etcd %q is not a URL, such as http://127.0.0.1:2379", at)
		}
	}
	if !slices.Contains([]int{0, 1, 3, 5}, c.EtcdMembers) {
		fault("%d members of etcd: use 1, 3 or 5", c.EtcdMembers)
	}
	if c.Weight < 0 {
		fault("weight %v is negative", c.Weight)
	}
	if c.StreamMemory != 0 && c.StreamMemory < minStreamMemory {
		fault("%d bytes of memory for streams are too few, at least %d", c.StreamMemory, int64(minStreamMemory))
	}
	if !slices.Contains([]string{"", sandbox.Auto, sandbox.Strict, sandbox.Landlock, sandbox.None}, c.ETLIsolation) {
		fault("isolation %q of transformations: use %s, %s, %s or %s", c.ETLIsolation, sandbox.Auto, sandbox.Strict, sandbox.Landlock, sandbox.None)
	}
	if err := c.Settings.check(); err != nil {
		faults = append(faults, err)
	}
	if err := checkListen(c.Listen, c.Insecure); err != nil {
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}

// joins are the URLs of Join.
func (c *Config) joins() []string {
	return strings.FieldsFunc(c.Join, func(r rune) bool { return r == ',' || r == ' ' })
}

func isURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Host != "" && (u.Scheme == "http" || u.Scheme == "https")
}

// checkListen refuses what would open the node to a network: there are no credentials and no TLS yet.
func checkListen(address string, insecure bool) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("listen address %q is not host:port", address)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("listen address %q: %q is not a port number", address, port)
	}
	if insecure || host == "localhost" {
		return nil
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsLoopback() {
		return nil
	}
	return fmt.Errorf("listen address %q can be reached from other machines, and there is no TLS and no login yet: "+
		"listen on 127.0.0.1, or pass --insecure on a network you trust", address)
}

func validID(id string) bool {
	for i := range len(id) {
		c := id[i]
		alphanumeric := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !alphanumeric && (i == 0 || c != '.' && c != '_' && c != '-') {
			return false
		}
	}
	return id != "" && len(id) <= 64
}
