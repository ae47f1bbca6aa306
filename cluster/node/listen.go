package node

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"syscall"
)

// listen opens the node's port. Connections inherit the socket's options.
func listen(ctx context.Context, address string) (net.Listener, error) {
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { setCongestion(int(fd)) })
	}}
	l, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", address, err)
	}
	return l, nil
}

// advertised is the address for the others: where the node listens on all of its addresses, the first
// that is not loopback.
func advertised(c Config, l net.Listener) (string, error) {
	if c.Advertise != "" {
		return c.Advertise, nil
	}
	addr, err := netip.ParseAddrPort(l.Addr().String())
	if err != nil || !addr.Addr().IsUnspecified() {
		return l.Addr().String(), nil //nolint:nilerr // not an IP address: as it is
	}
	interfaces, err := net.InterfaceAddrs()
	if err != nil {
		return "", fmt.Errorf("find the address to advertise (give one): %w", err)
	}
	for _, a := range interfaces {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil && prefix.Addr().IsGlobalUnicast() {
			return netip.AddrPortFrom(prefix.Addr(), addr.Port()).String(), nil
		}
	}
	return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), addr.Port()).String(), nil
}
