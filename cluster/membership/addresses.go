package membership

import (
	"encoding/json"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
)

// addresses are chosen once and kept, so that others find a restarted server where it was.
type addresses struct {
	Client string `json:"client"`
	Peer   string `json:"peer"`
	// Members is the size of the etcd cluster as last seen, 0: never yet. What a server of several waits for is chosen
	// as it starts.
	Members int `json:"members,omitempty"`
}

func (a addresses) clientURL() string { return "http://" + a.Client }
func (a addresses) peerURL() string   { return "http://" + a.Peer }

func addressesFile(dir string) string { return filepath.Join(dir, "addresses.json") }

// loadAddresses reads the addresses of a directory, or chooses some.
func loadAddresses(dir, host string) (addresses, error) {
	var addr addresses
	data, err := os.ReadFile(addressesFile(dir))
	switch {
	case err == nil:
		if err := json.Unmarshal(data, &addr); err != nil {
			return addr, fmt.Errorf("read %s: %w", addressesFile(dir), err)
		}
		return addr, nil
	case !errors.Is(err, os.ErrNotExist):
		return addr, fmt.Errorf("read etcd addresses: %w", err)
	}
	return chooseAddresses(dir, host)
}

func chooseAddresses(dir, host string) (addr addresses, err error) {
	if addr.Client, err = freeAddress(host); err != nil {
		return addr, err
	}
	for addr.Peer == "" || addr.Peer == addr.Client {
		if addr.Peer, err = freeAddress(host); err != nil {
			return addr, err
		}
	}
	return addr, addr.keep(dir)
}

func (a addresses) keep(dir string) error {
	data, err := json.Marshal(a)
	temporary := addressesFile(dir) + ".new"
	if err == nil {
		err = os.WriteFile(temporary, data, 0o600)
	}
	if err == nil {
		err = os.Rename(temporary, addressesFile(dir)) // half a file would keep the node from starting
	}
	if err != nil {
		return fmt.Errorf("keep etcd addresses: %w", err)
	}
	return nil
}

// Ports below those that systems give to outgoing connections (32768 and up on Linux): while the server
// is down, none of those, least of all a client's that tries to reach it, can take its place.
const (
	firstPort    = 15_000
	ports        = 17_000
	portAttempts = 100
)

func freeAddress(host string) (string, error) {
	var err error
	for range portAttempts {
		address := net.JoinHostPort(host, strconv.Itoa(firstPort+mathrand.IntN(ports)))
		var l net.Listener
		if l, err = net.Listen("tcp", address); err == nil {
			return address, l.Close()
		}
	}
	return "", fmt.Errorf("find a port for etcd: %w", err)
}
