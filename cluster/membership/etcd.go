package membership

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

// pace is how etcd's members wait for each other.
type pace struct{ tickMs, electionMs uint }

var (
	// alone is that of a cluster of one member, which never has to wait for another's heartbeat: a restart elects itself
	// within a quarter of a second.
	alone = pace{tickMs: 25, electionMs: 250}
	// together is that of several. A leader that is busy for less than a second, as on a machine that is shared with
	// much else, stays the leader.
	together = pace{tickMs: 100, electionMs: 1000}
)

const (
	// maxEtcdBytes bounds the store; it holds kilobytes.
	maxEtcdBytes = 256 << 20
	// maxLearners lets all gateways that become members catch up at the same time, so that the number of voters grows
	// from one odd number to the next in a moment.
	maxLearners = 4
)

// EtcdConfig describes the embedded etcd of a gateway.
type EtcdConfig struct {
	Dir    string // holds all of its state; made if it does not exist
	Name   string // the gateway's id
	Host   string // address to listen on; "" is 127.0.0.1
	Logger *slog.Logger
	// Several members are expected: the server is at their pace from the beginning. Otherwise it starts sooner, and has
	// to be started again for them.
	Several bool
}

// ErrNotMember is returned for a server that ended by itself, as one does that the other members have removed.
var ErrNotMember = errors.New("the server ended; if the other members have removed it, join it to them")

// Etcd is the etcd server of a gateway: running where the gateway is one of etcd's members, else none.
type Etcd struct {
	config EtcdConfig

	mu     sync.Mutex
	addr   addresses
	server *embed.Etcd
	pace   pace
	quiet  *atomic.Bool // its end is asked for
	served *served
	ended  chan struct{} // closed when it ended
	closed bool
}

// served are the servers for a member's clients.
type served struct {
	mu      sync.Mutex
	servers []*grpc.Server
}

func (s *served) add(server *grpc.Server) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.servers = append(s.servers, server)
}

// stop ends all requests, and returns once none is served any more: what serves them is about to be closed. Watches don't
// end by themselves.
func (s *served) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, server := range s.servers {
		done := make(chan struct{})
		go func() { // ends with the last request, which Stop breaks off
			server.GracefulStop()
			close(done)
		}()
		select {
		case <-done:
		case <-time.After(stopGrace):
			server.Stop()
			<-done
		}
	}
}

// stopGrace lets requests that are under way end well.
const stopGrace = 100 * time.Millisecond

// NewEtcd prepares the server of a directory.
func NewEtcd(c EtcdConfig) (*Etcd, error) {
	if c.Host == "" {
		c.Host = "127.0.0.1"
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("etcd directory: %w", err)
	}
	addr, err := loadAddresses(c.Dir, c.Host)
	if err != nil {
		return nil, err
	}
	return &Etcd{config: c, addr: addr}, nil
}

// StartEtcd starts the server of a cluster's first gateway, or starts it again on what it left in its directory, and
// returns once it serves.
func StartEtcd(ctx context.Context, c EtcdConfig) (*Etcd, error) {
	e, err := NewEtcd(c)
	if err != nil {
		return nil, err
	}
	if err := e.Start(ctx); err != nil {
		return nil, err
	}
	return e, nil
}

// Exists says that the gateway is one of etcd's members, or was when it stopped.
func (e *Etcd) Exists() bool {
	_, err := os.Stat(filepath.Join(e.data(), "member", "wal"))
	return err == nil
}

func (e *Etcd) data() string { return filepath.Join(e.config.Dir, "data") }

// Start begins a cluster of one, or goes on as the member that the directory is of. It returns once the server serves,
// for which a majority of the members is needed.
func (e *Etcd) Start(ctx context.Context) error {
	if err := e.launch(nil); err != nil {
		return err
	}
	e.mu.Lock()
	server, ended := e.server, e.ended
	e.mu.Unlock()
	var err error
	select {
	case <-server.Server.ReadyNotify():
		return nil
	case <-ended:
		err = ErrNotMember
	case <-ctx.Done():
		err = ctx.Err()
	}
	e.stop() //nolint:contextcheck // it takes its own time, which is short, also where a context has ended
	return fmt.Errorf("start etcd in %s: %w", e.config.Dir, err)
}

// launch starts the server without waiting for it; others are the peer URLs of the members that it joins, by name.
func (e *Etcd) launch(others map[string]string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed || e.server != nil {
		return nil
	}
	if len(others) > 0 && e.addr.Members <= 1 {
		e.addr.Members = len(others) + 1
		if err := e.addr.keep(e.config.Dir); err != nil {
			return err
		}
	}
	e.pace = alone
	if e.addr.Members > 1 || e.config.Several {
		e.pace = together
	}
	quiet, served := new(atomic.Bool), new(served)
	server, err := embed.StartEtcd(e.settings(others, quiet, served))
	if err != nil {
		if !e.Exists() { // it had not begun: nothing that it has written counts
			err = errors.Join(err, os.RemoveAll(e.data()))
		}
		return fmt.Errorf("start etcd in %s: %w", e.config.Dir, err)
	}
	ended := make(chan struct{})
	e.server, e.quiet, e.served, e.ended = server, quiet, served, ended
	go func() { // ends with the server
		defer close(ended)
		select {
		case <-server.Server.StopNotify():
		case <-server.Err(): //nolint:errcheck // that it ended is all that counts here: why is in the log
		}
	}()
	return nil
}

func (e *Etcd) settings(others map[string]string, quiet *atomic.Bool, served *served) *embed.Config {
	client, peer := url.URL{Scheme: "http", Host: e.addr.Client}, url.URL{Scheme: "http", Host: e.addr.Peer}
	config := embed.NewConfig()
	config.Name = e.config.Name
	config.Dir = e.data()
	config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	config.ListenPeerUrls, config.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	members := []string{e.config.Name + "=" + peer.String()}
	for name, at := range others {
		members = append(members, name+"="+at)
	}
	config.InitialCluster = strings.Join(members, ",")
	if len(others) > 0 {
		config.ClusterState = embed.ClusterStateFlagExisting
	}
	config.TickMs, config.ElectionMs = e.pace.tickMs, e.pace.electionMs
	config.MaxLearners = maxLearners
	config.QuotaBackendBytes = maxEtcdBytes
	config.AutoCompactionMode, config.AutoCompactionRetention = embed.CompactorModePeriodic, "1h"
	config.EnableGRPCGateway = false
	config.ServiceRegister = served.add
	config.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.New(newLogCore(e.config.Logger, quiet)))
	return config
}

// note keeps the size of the cluster, and starts the server again where it is no longer alone: a pace that suits one
// member lets several vote all the time.
func (e *Etcd) note(ctx context.Context, members int) error {
	e.mu.Lock()
	known := e.addr.Members
	e.addr.Members = members
	var err error
	if known != members {
		err = e.addr.keep(e.config.Dir)
	}
	hurried := members > 1 && e.server != nil && e.pace == alone
	e.mu.Unlock()
	if err != nil || !hurried {
		return err
	}
	e.stop() //nolint:contextcheck // it takes its own time, which is short, also where a context has ended
	return e.Start(ctx)
}

// Leave forgets the server's state: the cluster goes on without it, and it can't be the same member again. Its addresses
// are new from then on, too.
func (e *Etcd) Leave() error {
	e.stop()
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := os.RemoveAll(e.data()); err != nil {
		return fmt.Errorf("remove etcd's state: %w", err)
	}
	addr, err := chooseAddresses(e.config.Dir, e.config.Host)
	if err == nil {
		e.addr = addr
	}
	return err
}

// Removed asks etcd's other members, by their endpoints, whether they know this one no longer.
func (e *Etcd) Removed(ctx context.Context, endpoints []string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	client, err := newClient(endpoints)
	if err != nil {
		return false, err
	}
	defer func() { _ = client.Close() }() // nothing is under way
	list, err := client.MemberList(ctx)
	if err != nil {
		return false, unavailable(err)
	}
	return !slices.ContainsFunc(list.Members, func(m *etcdserverpb.Member) bool { return slices.Contains(m.PeerURLs, e.peer()) }), nil
}

// running says whether there is a server, and whether it ended by itself.
func (e *Etcd) running() (running, ended bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.server == nil {
		return false, false
	}
	select {
	case <-e.ended:
		return true, true
	default:
		return true, false
	}
}

// peer is where the other members reach the server.
func (e *Etcd) peer() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.addr.peerURL()
}

// Endpoints are the URLs for clients.
func (e *Etcd) Endpoints() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return []string{e.addr.clientURL()}
}

// Close stops the server, for good; its state stays. Closing twice does nothing.
func (e *Etcd) Close() {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.stop()
}

func (e *Etcd) stop() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.server == nil {
		return
	}
	e.quiet.Store(true)
	select {
	case <-e.server.Server.ReadyNotify():
		handOver(e.server.Server)
		e.served.stop() // Close would wait for its clients' watches
	default: // it serves nobody, and Close would wait until it does
	}
	e.server.Server.HardStop()
	e.server.Close()
	<-e.ended
	e.server = nil
}

// handOverTime bounds handing over to a member that is stopping as well. Without it the others elect one.
const handOverTime = 500 * time.Millisecond

// handOver makes another member lead etcd, where this one does.
func handOver(server *etcdserver.EtcdServer) {
	if server.Leader() != server.MemberID() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), handOverTime)
	defer cancel()
	for _, m := range server.Cluster().Members() {
		if m.ID != server.MemberID() && !m.IsLearner {
			_ = server.MoveLeader(ctx, server.Lead(), uint64(m.ID)) // else they elect one
			return
		}
	}
}
