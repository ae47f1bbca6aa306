package membership

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

// The ticks of a cluster of one member, which never has to wait for another's heartbeat: a restart
// elects itself within a quarter of a second.
const (
	tickMs     = 25
	electionMs = 250
)

// maxEtcdBytes bounds the store; it holds kilobytes.
const maxEtcdBytes = 256 << 20

// EtcdConfig describes the embedded etcd of a gateway.
type EtcdConfig struct {
	Dir    string // holds all of its state; made if it does not exist
	Name   string // the gateway's id
	Host   string // address to listen on; "" is 127.0.0.1
	Logger *slog.Logger
}

// Etcd is an etcd server in this process.
type Etcd struct {
	server *embed.Etcd
	client string
	closed *atomic.Bool
}

// addresses are chosen once and kept, so that clients find a restarted server where it was.
type addresses struct {
	Client string `json:"client"`
	Peer   string `json:"peer"`
}

// StartEtcd starts the server, or starts it again on what it left in its directory, and returns once
// it serves.
func StartEtcd(ctx context.Context, c EtcdConfig) (*Etcd, error) {
	if c.Host == "" {
		c.Host = "127.0.0.1"
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("etcd directory: %w", err)
	}
	addr, err := loadAddresses(c)
	if err != nil {
		return nil, err
	}
	closed := new(atomic.Bool)
	server, err := embed.StartEtcd(etcdConfig(c, addr, closed))
	if err != nil {
		return nil, fmt.Errorf("start etcd in %s: %w", c.Dir, err)
	}
	e := &Etcd{server: server, client: "http://" + addr.Client, closed: closed}
	select {
	case <-server.Server.ReadyNotify():
		return e, nil
	case err = <-server.Err():
	case <-ctx.Done():
		err = ctx.Err()
	}
	e.Close()
	return nil, fmt.Errorf("start etcd in %s: %w", c.Dir, err)
}

// Endpoints are the URLs for clients.
func (e *Etcd) Endpoints() []string { return []string{e.client} }

// Err reports an error that ended the server.
func (e *Etcd) Err() <-chan error { return e.server.Err() }

// Close stops the server; its state stays. Closing twice does nothing.
func (e *Etcd) Close() {
	if e.closed.CompareAndSwap(false, true) {
		e.server.Close()
	}
}

func etcdConfig(c EtcdConfig, addr addresses, closed *atomic.Bool) *embed.Config {
	client, peer := url.URL{Scheme: "http", Host: addr.Client}, url.URL{Scheme: "http", Host: addr.Peer}
	config := embed.NewConfig()
	config.Name = c.Name
	config.Dir = filepath.Join(c.Dir, "data")
	config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	config.ListenPeerUrls, config.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	config.InitialCluster = c.Name + "=" + peer.String()
	config.TickMs, config.ElectionMs = tickMs, electionMs
	config.QuotaBackendBytes = maxEtcdBytes
	config.AutoCompactionMode, config.AutoCompactionRetention = embed.CompactorModePeriodic, "1h"
	config.EnableGRPCGateway = false
	config.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.New(newLogCore(c.Logger, closed)))
	return config
}

func loadAddresses(c EtcdConfig) (addresses, error) {
	path := filepath.Join(c.Dir, "addresses.json")
	var addr addresses
	data, err := os.ReadFile(path)
	switch {
	case err == nil:
		if err := json.Unmarshal(data, &addr); err != nil {
			return addr, fmt.Errorf("read %s: %w", path, err)
		}
		return addr, nil
	case !errors.Is(err, os.ErrNotExist):
		return addr, fmt.Errorf("read etcd addresses: %w", err)
	}
	if addr.Client, err = freeAddress(c.Host); err != nil {
		return addr, err
	}
	for addr.Peer == "" || addr.Peer == addr.Client {
		if addr.Peer, err = freeAddress(c.Host); err != nil {
			return addr, err
		}
	}
	if data, err = json.Marshal(addr); err == nil {
		err = os.WriteFile(path, data, 0o600)
	}
	if err != nil {
		return addr, fmt.Errorf("keep etcd addresses: %w", err)
	}
	return addr, nil
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
