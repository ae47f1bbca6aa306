package backend

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// AllowSetting is the setting of a node that lets its backends be at addresses which a Guard refuses otherwise.
const AllowSetting = "backend_allow"

// Guard keeps backends from being used to reach what only the node can: itself, its neighbours, the metadata service of
// a cloud. It looks at the address that a connection is made to, not at names: a name that resolves to something else a
// moment later gets nowhere, and neither does a redirect.
type Guard struct {
	allow  []netip.Prefix
	dialer net.Dialer
}

// NewGuard makes a guard that also lets through what is in one of the networks.
func NewGuard(allow []netip.Prefix) *Guard {
	return &Guard{allow: slices.Clone(allow), dialer: net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}}
}

// How long a connection may take, and how long one to an address that is not the last of a name.
const (
	dialTimeout   = 10 * time.Second
	othersTimeout = 3 * time.Second
)

// ParseAllow reads networks ("10.0.0.0/8") and addresses ("127.0.0.1"), and lists all that are neither.
func ParseAllow(texts []string) ([]netip.Prefix, error) {
	var networks []netip.Prefix
	var faults []error
	for _, text := range texts {
		text = strings.TrimSpace(text)
		network, err := netip.ParsePrefix(text)
		if err != nil {
			var address netip.Addr
			if address, err = netip.ParseAddr(text); err == nil && address.Zone() == "" {
				address = address.Unmap()
				network = netip.PrefixFrom(address, address.BitLen())
			}
		}
		if err != nil || !network.IsValid() {
			faults = append(faults, fmt.Errorf("%s: %q is neither a network, such as 10.0.0.0/8, nor an address", AllowSetting, text))
			continue
		}
		networks = append(networks, network.Masked())
	}
	return networks, errors.Join(faults...)
}

// special are networks that are not on the internet, and what they are for (RFC 6890 and its registries). Of IPv6 only
// 2000::/3 is given out at all; see Guard.reason.
var special = []struct {
	network netip.Prefix
	what    string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "this host"},
	{netip.MustParsePrefix("10.0.0.0/8"), "a private network"},
	{netip.MustParsePrefix("100.64.0.0/10"), "a provider's private network"},
	{netip.MustParsePrefix("127.0.0.0/8"), "this host"},
	{netip.MustParsePrefix("169.254.0.0/16"), "the local link, where clouds have their metadata"},
	{netip.MustParsePrefix("172.16.0.0/12"), "a private network"},
	{netip.MustParsePrefix("192.0.0.0/24"), "reserved"},
	{netip.MustParsePrefix("192.0.2.0/24"), "for documentation"},
	{netip.MustParsePrefix("192.88.99.0/24"), "reserved"},
	{netip.MustParsePrefix("192.168.0.0/16"), "a private network"},
	{netip.MustParsePrefix("198.18.0.0/15"), "for benchmarks"},
	{netip.MustParsePrefix("198.51.100.0/24"), "for documentation"},
	{netip.MustParsePrefix("203.0.113.0/24"), "for documentation"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast"},
	{netip.MustParsePrefix("240.0.0.0/4"), "reserved, or broadcast"},
	{netip.MustParsePrefix("2001::/23"), "reserved, or a tunnel"}, // Teredo among them
	{netip.MustParsePrefix("2001:db8::/32"), "for documentation"},
	{netip.MustParsePrefix("3fff::/20"), "for documentation"},
	{netip.MustParsePrefix("::/128"), "this host"},
	{netip.MustParsePrefix("::1/128"), "this host"},
	{netip.MustParsePrefix("fc00::/7"), "a private network"},
	{netip.MustParsePrefix("fe80::/10"), "the local link"},
	{netip.MustParsePrefix("ff00::/8"), "multicast"},
}

// embedding are IPv6 networks whose addresses lead to an IPv4 address that they hold, from the given byte on.
var embedding = []struct {
	network netip.Prefix
	at      int
}{
	{netip.MustParsePrefix("64:ff9b::/96"), 12}, // NAT64
	{netip.MustParsePrefix("2002::/16"), 2},     // 6to4
	{netip.MustParsePrefix("::/96"), 12},        // IPv4-compatible
}

var global6 = netip.MustParsePrefix("2000::/3")

// Check refuses an address that a backend must not be at.
func (g *Guard) Check(address netip.Addr) error {
	if reason := g.reason(address); reason != "" {
		return &Error{Backend: address.String(), Op: "connect", Kind: Forbidden, Err: &ForbiddenError{Address: address, Reason: reason}}
	}
	return nil
}

// ForbiddenError says which address a backend must not be at, and how it can be allowed.
type ForbiddenError struct {
	Address netip.Addr
	Reason  string
}

func (e *ForbiddenError) Error() string {
	return fmt.Sprintf("%s is %s, which backends must not reach; if it is meant, allow it by the nodes' setting %s "+
		"(shardstream up --backend-allow %s)", e.Address, e.Reason, AllowSetting, e.Address.WithZone("").Unmap())
}

// reason is why an address is refused; "" where it is not.
func (g *Guard) reason(address netip.Addr) string {
	if !address.IsValid() {
		return "no address"
	}
	address = address.WithZone("").Unmap()
	for _, network := range g.allow {
		if network.Contains(address) {
			return ""
		}
	}
	for _, s := range special {
		if s.network.Contains(address) {
			return s.what
		}
	}
	if address.Is4() {
		return ""
	}
	for _, e := range embedding {
		if e.network.Contains(address) {
			bytes := address.As16()
			return g.reason(netip.AddrFrom4([4]byte(bytes[e.at : e.at+4])))
		}
	}
	if !global6.Contains(address) {
		return "reserved"
	}
	return ""
}

// CheckHost refuses HOST or HOST:PORT where that is an address, not a name, that backends must not be at. Names are
// looked at when a connection is made.
func (g *Guard) CheckHost(host string) error {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	address, err := netip.ParseAddr(strings.Trim(host, "[]"))
	if err != nil {
		return nil //nolint:nilerr // a name
	}
	return g.Check(address)
}

// DialContext connects to HOST:PORT. The name is resolved once; what it stands for is checked, and that is connected to.
func (g *Guard) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("connect to %q: %w", address, err)
	}
	addresses, err := resolve(ctx, network, host)
	if err != nil {
		return nil, err
	}
	var refused error
	allowed := addresses[:0:0]
	for _, a := range addresses {
		if err := g.Check(a); err != nil {
			refused = err
			continue
		}
		allowed = append(allowed, a)
	}
	if len(allowed) == 0 {
		return nil, refused
	}
	for i, a := range allowed {
		var connection net.Conn
		connection, err = g.dial(ctx, network, net.JoinHostPort(a.String(), port), i == len(allowed)-1)
		if err == nil {
			return connection, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, err
}

func (g *Guard) dial(ctx context.Context, network, address string, last bool) (net.Conn, error) {
	if !last {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, othersTimeout)
		defer cancel()
	}
	return g.dialer.DialContext(ctx, network, address)
}

// resolve is the addresses of a host, which may be one itself.
func resolve(ctx context.Context, network, host string) ([]netip.Addr, error) {
	kind := "ip"
	switch network {
	case "tcp4":
		kind = "ip4"
	case "tcp6":
		kind = "ip6"
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	addresses, err := net.DefaultResolver.LookupNetIP(ctx, kind, host)
	if err != nil {
		return nil, err
	}
	for i, a := range addresses {
		addresses[i] = a.Unmap()
	}
	if len(addresses) == 0 {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return addresses, nil
}
