package membership

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/shardstream/shardstream/cluster/api"
)

// connectParams make clients come back within a second of etcd's own return.
var connectParams = grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
	MinConnectTimeout: time.Second,
}

// mapAttempts bounds the races with other nodes that a registration loses before it gives up.
const mapAttempts = 64

var errLostRace = errors.New("the map changed meanwhile")

// register writes the member, its lease and, where it changes it, the map: one transaction, repeated
// while other nodes are quicker. It returns the transaction's revision.
func (m *Membership) register(ctx context.Context) (revision int64, err error) {
	m.registering.Lock()
	defer m.registering.Unlock()
	lease, err := m.grant(ctx)
	if err != nil {
		return 0, err
	}
	m.leased.Store(0) // until the view has what is written now
	m.lease.Store(int64(lease))
	return m.enter(ctx)
}

// Update registers a target anew whose disks have changed, and waits until this node sees it. Bare: it has less than it
// had, and stays so until the map is settled.
func (m *Membership) Update(ctx context.Context, disks []api.Disk, bare bool) error {
	m.registering.Lock()
	defer m.registering.Unlock()
	m.self.Disks, m.self.Bare = disks, m.self.Bare || bare
	revision, err := m.enter(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err = m.Wait(ctx, revision)
	return err
}

func (m *Membership) enter(ctx context.Context) (revision int64, err error) {
	lease := clientv3.LeaseID(m.lease.Load())
	err = m.race(ctx, func() error {
		revision, err = m.tryRegister(ctx, lease)
		return err
	})
	return revision, err
}

func (m *Membership) grant(ctx context.Context) (clientv3.LeaseID, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := m.client.Grant(ctx, int64(m.config.LeaseTTL/time.Second))
	if err != nil {
		return 0, unavailable(err)
	}
	return answer.ID, nil
}

func (m *Membership) tryRegister(ctx context.Context, lease clientv3.LeaseID) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	reads := mapReads()
	read, err := m.client.Txn(ctx).Then(append(reads, m.admissionReads()...)...).Commit()
	if err != nil {
		return 0, unavailable(err)
	}
	d, err := documentOf(read)
	if err != nil {
		return 0, err
	}
	p := proposal{ifs: d.unchanged()}
	admission := admissionOf(read, len(reads))
	if err := admission.enter(m, indexOf(d.current, m.self.ID) >= 0, &p); err != nil {
		return 0, err
	}
	next, self, err := admit(d.current, m.self, m.config.Fresh && !m.registered, d.pristine)
	if err != nil {
		return 0, err
	}
	if err := admission.unique(m, &p); err != nil {
		return 0, err
	}
	record := mustJSON(self)
	p.writes = append(p.writes,
		clientv3.OpPut(root+"members/"+self.ID, record),
		clientv3.OpPut(root+"live/"+self.ID, record, clientv3.WithLease(lease)),
	)
	if next.Version != d.current.Version {
		p.writes = append(p.writes, clientv3.OpPut(root+"map", mustJSON(next)))
	}
	done, err := m.client.Txn(ctx).If(p.ifs...).Then(p.writes...).Commit()
	if err != nil {
		return 0, unavailable(err)
	}
	if !done.Succeeded {
		return 0, errLostRace
	}
	// The map remembers until it is settled that the node came with less than it had.
	m.registered, m.self.Bare = true, false
	return done.Header.Revision, nil
}

func newClusterID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails: see crypto/rand
	return hex.EncodeToString(b[:])
}

// mustJSON marshals the package's own plain structs, which can't fail.
func mustJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}
