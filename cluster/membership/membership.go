package membership

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/shardstream/shardstream/cluster/api"
)

// DefaultLeaseTTL is how long a node that stopped answering etcd is still taken for alive.
const DefaultLeaseTTL = 3 * time.Second

// Config describes a node that joins.
type Config struct {
	Endpoints []string // of etcd
	Self      api.Node // id, role, address, pid, weight, disks
	LeaseTTL  time.Duration
	Logger    *slog.Logger
	// Rediscover finds etcd again where it moved while it was away; nil: it never moves.
	Rediscover func(context.Context) ([]string, error)
	// Hold leaves it to the caller to register the node, once it can take traffic: until then it sees the cluster's
	// state, as of when it came, and is not seen.
	Hold bool
	// Fresh says that the node comes with empty disks: under an id that is known, what was on them before is lost.
	Fresh bool
	// Token is what the node was given to join with, "" for none.
	Token string
	// Guard says, of a gateway, that new nodes need a token from now on. The one that begins the cluster needs none.
	Guard bool
}

// Membership is a node's part in the cluster.
type Membership struct {
	config Config
	client *clientv3.Client
	log    *slog.Logger

	lease  atomic.Int64 // clientv3.LeaseID
	leased atomic.Int64 // until when the lease lives at least, in nanoseconds since start

	registering sync.Mutex // guards what follows
	self        api.Node   // as it is to be registered
	registered  bool       // it was, in this life

	view    atomic.Pointer[View]
	mu      sync.Mutex
	changed chan struct{} // closed and replaced at each new view
	afresh  chan struct{} // asks the watch to read everything again
}

// Join registers the node, unless that is held, and reads the state. The registration lasts; the lease is kept by Run.
func Join(ctx context.Context, c Config) (*Membership, error) {
	if c.LeaseTTL == 0 {
		c.LeaseTTL = DefaultLeaseTTL
	}
	client, err := newClient(c.Endpoints)
	if err != nil {
		return nil, err
	}
	m := &Membership{config: c, client: client, log: c.Logger, self: c.Self, changed: make(chan struct{}), afresh: make(chan struct{}, 1)}
	if c.Hold {
		_, err = m.load(ctx)
	} else {
		err = m.Register(ctx)
	}
	if err != nil {
		_ = client.Close()
		return nil, fmt.Errorf("join as %s: %w", c.Self.ID, err)
	}
	return m, nil
}

func newClient(endpoints []string) (*clientv3.Client, error) {
	client, err := clientv3.New(clientv3.Config{
		Endpoints: endpoints, DialTimeout: callTimeout, Logger: zap.NewNop(),
		DialKeepAliveTime: 2 * time.Second, DialKeepAliveTimeout: 3 * time.Second,
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(connectParams)},
	})
	if err != nil {
		return nil, fmt.Errorf("connect to etcd at %v: %w", endpoints, err)
	}
	return client, nil
}

// Register registers a node whose registration was held.
func (m *Membership) Register(ctx context.Context) error {
	asked := time.Now()
	if _, err := m.register(ctx); err != nil {
		return err
	}
	if _, err := m.load(ctx); err != nil {
		return err
	}
	m.renewed(asked)
	return nil
}

// Known says whether the node was a member before, as of the state last seen.
func (m *Membership) Known() bool {
	return slices.ContainsFunc(m.View().Map().Nodes, func(n api.Node) bool { return n.ID == m.config.Self.ID })
}

// start is what times are counted from: the monotonic clock goes on while a process is stopped.
var start = time.Now()

// Leased says that this node's lease lives, and that its view of the map was the newest at some time within the lease's:
// nobody takes it for dead, and nothing that it is primary of has been another's for longer than that. A node that was
// stopped, or is cut off from etcd, finds out by this before it answers.
func (m *Membership) Leased() bool { return int64(time.Since(start)) < m.leased.Load() }

// Proven says that this node has what was the newest map at some time after the given one.
func (m *Membership) Proven(after time.Time) bool {
	return start.Add(time.Duration(m.leased.Load()) - m.config.LeaseTTL).After(after)
}

// renewed notes that the lease lives for its whole time after asked, when the renewal was asked for.
func (m *Membership) renewed(asked time.Time) {
	m.leased.Store(int64(asked.Add(m.config.LeaseTTL).Sub(start)))
}

// Run keeps the lease and the view until the context ends, then gives the lease back, so that the
// others see the node leave at once. A gateway stands for election meanwhile. ErrRemoved where the node was taken out of
// the cluster.
func (m *Membership) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return m.keepLease(ctx) })
	group.Go(func() error { return m.watch(ctx) })
	if m.config.Self.Role == api.RoleGateway {
		group.Go(func() error { m.lead(ctx); return nil })
	}
	return group.Wait()
}

// Close ends the connection to etcd. Call it after Run has returned.
func (m *Membership) Close() error { return m.client.Close() }

// View is the state as last seen.
func (m *Membership) View() *View { return m.view.Load() }

// KV is a folder of definitions under its name, "etls" for one.
func (m *Membership) KV(folder string) *KV {
	return &KV{client: m.client, prefix: root + folder + "/"}
}

// Wait returns the first view at or after a revision. The context bounds the wait.
func (m *Membership) Wait(ctx context.Context, revision int64) (*View, error) {
	return m.Until(ctx, func(v *View) bool { return v.Revision >= revision })
}

func (m *Membership) publish(t *table) {
	v := t.view()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.learnEndpoints(m.view.Load(), v)
	m.view.Store(v)
	close(m.changed)
	m.changed = make(chan struct{})
}

// load reads everything and publishes it.
func (m *Membership) load(ctx context.Context) (*table, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := m.client.Get(ctx, root, clientv3.WithPrefix())
	if err != nil {
		return nil, unavailable(err)
	}
	t := newTable(answer)
	m.publish(t)
	return t, nil
}

// watch follows all changes. Where the watch breaks it reads everything afresh.
func (m *Membership) watch(ctx context.Context) error {
	for ctx.Err() == nil {
		t, err := m.load(ctx)
		if err != nil {
			pause(ctx, retryPause)
			continue
		}
		if err := m.follow(ctx, t); err != nil {
			return err
		}
	}
	return nil
}

func (m *Membership) follow(ctx context.Context, t *table) error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	events := m.client.Watch(ctx, root, clientv3.WithPrefix(), clientv3.WithRev(t.revision+1))
	for !t.removed[m.config.Self.ID] {
		var answer clientv3.WatchResponse
		var more bool
		select {
		case answer, more = <-events:
		case <-m.afresh:
		}
		if !more {
			return nil
		}
		if err := answer.Err(); err != nil {
			m.log.DebugContext(ctx, "watch of the cluster's state broke; reading it again", "error", err)
			pause(ctx, retryPause)
			return nil
		}
		if len(answer.Events) == 0 {
			continue
		}
		t.apply(answer.Events)
		// Not the header's: that may be ahead of the events that came with it.
		t.revision = answer.Events[len(answer.Events)-1].Kv.ModRevision
		m.publish(t)
	}
	return ErrRemoved
}

// Parts of a lease's time: how often it is renewed, how soon again after a failure, and how long one try may take, so
// that one part of the control plane that does not answer costs no lease.
const (
	renewParts   = 3
	againParts   = 20
	attemptParts = 5
	restoreAfter = 5 // renewals, until parts that did not answer are tried again
)

// keepLease renews the lease three times in its life, and registers again where it was lost.
func (m *Membership) keepLease(ctx context.Context) error {
	failures, renewals := 0, 0
	for {
		if failures == 0 {
			pause(ctx, m.config.LeaseTTL/renewParts)
		} else {
			pause(ctx, m.config.LeaseTTL/againParts)
		}
		if ctx.Err() != nil {
			m.leave() //nolint:contextcheck // the node's context has ended; this one call outlives it
			return nil
		}
		err := m.renew(ctx)
		switch {
		case err == nil:
			failures = 0
			if renewals++; renewals%restoreAfter == 0 && m.reduced() {
				m.chooseEndpoints(ctx)
			}
		case errors.Is(err, rpctypes.ErrLeaseNotFound):
			m.log.WarnContext(ctx, "the lease ran out; registering again")
			if err := m.comeBack(ctx); errors.Is(err, ErrRemoved) {
				return err
			} else if err != nil {
				m.log.WarnContext(ctx, "registering again failed", "error", err)
			}
		default:
			failures++
			if !errors.Is(err, errTakenOver) {
				m.rediscover(ctx, failures)
			} else if failures == 1 {
				m.log.WarnContext(ctx, "this node is out of the cluster meanwhile", "error", err)
			}
		}
	}
}

// comeBack registers anew under a new lease, while the watch runs.
func (m *Membership) comeBack(ctx context.Context) error {
	asked := time.Now()
	revision, err := m.register(ctx)
	if err != nil {
		return err
	}
	return m.renewedAt(ctx, asked, revision)
}

// renew prolongs the lease, and makes sure that the view is as new as the map was meanwhile.
func (m *Membership) renew(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, m.config.LeaseTTL/attemptParts)
	defer cancel()
	asked := time.Now()
	if _, err := m.client.KeepAliveOnce(limited, clientv3.LeaseID(m.lease.Load())); err != nil {
		return err
	}
	answer, err := m.client.Txn(limited).Then(
		clientv3.OpGet(root+"map", clientv3.WithKeysOnly()), clientv3.OpGet(root+"live/"+m.config.Self.ID), // keys alone come without their leases
	).Commit()
	if err != nil {
		return err
	}
	current, own := answer.Responses[0].GetResponseRange().Kvs, answer.Responses[1].GetResponseRange().Kvs
	switch {
	case len(current) == 0:
		return errors.New("the cluster has no map")
	case len(own) == 0: // another has had this node's id, and is gone; or it got no further than to its lease
		return rpctypes.ErrLeaseNotFound
	case own[0].Lease != m.lease.Load():
		m.leased.Store(0)
		return errTakenOver
	}
	return m.renewedAt(ctx, asked, current[0].ModRevision)
}

// errTakenOver says that another node goes by this one's id: the one that came last has it, while it is up.
var errTakenOver = errors.New("another node goes by this one's id: end one of the two")

// renewedAt notes a renewal once the view has a revision of the map. Where it does not come, the watch has got stuck.
func (m *Membership) renewedAt(ctx context.Context, asked time.Time, revision int64) error {
	ctx, cancel := context.WithTimeout(ctx, m.config.LeaseTTL/attemptParts)
	defer cancel()
	if _, err := m.Wait(ctx, revision); err != nil {
		select {
		case m.afresh <- struct{}{}:
		default:
		}
		return err
	}
	m.renewed(asked)
	return nil
}

func (m *Membership) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if _, err := m.client.Revoke(ctx, clientv3.LeaseID(m.lease.Load())); err != nil {
		m.log.Debug("could not give the lease back; it runs out by itself", "error", err)
	}
}
