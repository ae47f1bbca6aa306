package membership

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
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

// maxFormer bounds how many earlier sets of targets the map remembers. More joins than that are
// refused until data has been moved: forgetting a set would lose sight of its objects.
const maxFormer = 16

// mapAttempts bounds the races with other nodes that a registration loses before it gives up.
const mapAttempts = 64

var errLostRace = errors.New("the map changed meanwhile")

// register writes the member, its lease and, where it changes it, the map: one transaction, repeated
// while other nodes are quicker.
func (m *Membership) register(ctx context.Context) error {
	asked := time.Now()
	lease, err := m.grant(ctx)
	if err != nil {
		return err
	}
	m.renewed(asked)
	m.lease = lease
	for attempt := range mapAttempts {
		if err = m.tryRegister(ctx, lease); !errors.Is(err, errLostRace) {
			return err
		}
		pause(ctx, time.Duration(attempt)*time.Millisecond)
	}
	return err
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

func (m *Membership) tryRegister(ctx context.Context, lease clientv3.LeaseID) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	read, err := m.client.Txn(ctx).Then(
		clientv3.OpGet(root+"map"),
		clientv3.OpGet(root+"cluster"),
		clientv3.OpGet(root+"buckets/", clientv3.WithPrefix(), clientv3.WithCountOnly()),
	).Commit()
	if err != nil {
		return unavailable(err)
	}
	var current api.Map
	var revision int64
	if kvs := read.Responses[0].GetResponseRange().Kvs; len(kvs) > 0 {
		revision = kvs[0].ModRevision
		if err := json.Unmarshal(kvs[0].Value, &current); err != nil {
			return fmt.Errorf("the cluster map does not parse, was it written by a newer release?: %w", err)
		}
	}
	newCluster := len(read.Responses[1].GetResponseRange().Kvs) == 0
	pristine := read.Responses[2].GetResponseRange().Count == 0 // no bucket: no object anywhere

	next, self, err := admit(current, m.config.Self, pristine)
	if err != nil {
		return err
	}
	conditions := []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(root+"map"), "=", revision)}
	if pristine { // and still so at the commit
		conditions = append(conditions, clientv3.Compare(clientv3.ModRevision(root+"buckets/").WithPrefix(), "=", 0))
	}
	record, mapRecord := mustJSON(self), mustJSON(next)
	writes := []clientv3.Op{
		clientv3.OpPut(root+"members/"+self.ID, record),
		clientv3.OpPut(root+"live/"+self.ID, record, clientv3.WithLease(lease)),
	}
	if next.Version != current.Version {
		writes = append(writes, clientv3.OpPut(root+"map", mapRecord))
	}
	if newCluster {
		writes = append(writes, clientv3.OpPut(root+"cluster", newClusterID()))
		conditions = append(conditions, clientv3.Compare(clientv3.CreateRevision(root+"cluster"), "=", 0))
	}
	done, err := m.client.Txn(ctx).If(conditions...).Then(writes...).Commit()
	if err != nil {
		return unavailable(err)
	}
	if !done.Succeeded {
		return errLostRace
	}
	return nil
}

// admit is the map with the node in it, and the node as it is to be recorded. The map is unchanged,
// version included, where it already says the same.
func admit(current api.Map, self api.Node, pristine bool) (api.Map, api.Node, error) {
	next := current
	next.Nodes = slices.Clone(current.Nodes)
	at := slices.IndexFunc(next.Nodes, func(n api.Node) bool { return n.ID == self.ID })
	if at >= 0 {
		known := next.Nodes[at]
		if known.Role != self.Role {
			return current, self, fmt.Errorf("node %s is already a %s of this cluster: give the %s another id", self.ID, known.Role, self.Role)
		}
		// The first weight stays: changing it would move objects, which is rebalance's business.
		self.Weight = known.Weight
		if known.Addr == self.Addr && self.Role != api.RoleTarget {
			return current, self, nil
		}
		// A target that comes back counts its versions under a map of its own: what it gave out last it may not know.
		next.Nodes[at].Addr = self.Addr
		next.Version++
		return next, self, nil
	}
	if self.Role == api.RoleTarget && self.Weight <= 0 {
		self.Weight = 1
	}
	if set := epochOf(current); self.Role == api.RoleTarget && len(set.Targets) > 0 && !pristine {
		if len(current.Former) >= maxFormer {
			return current, self, fmt.Errorf("target %s can't join: the map already remembers %d earlier sets of targets, "+
				"whose objects must be moved first", self.ID, len(current.Former))
		}
		next.Former = append([]api.Epoch{set}, current.Former...)
	}
	next.Nodes = append(next.Nodes, api.Node{ID: self.ID, Role: self.Role, Addr: self.Addr, Weight: self.Weight})
	slices.SortFunc(next.Nodes, func(a, b api.Node) int { return strings.Compare(a.ID, b.ID) })
	next.Version++
	if self.Role == api.RoleTarget {
		next.Since = next.Version
	}
	return next, self, nil
}

// epochOf is the map's set of targets.
func epochOf(m api.Map) api.Epoch {
	e := api.Epoch{Version: m.Since}
	for _, n := range m.Nodes {
		if n.Role == api.RoleTarget {
			e.Targets = append(e.Targets, api.Member{ID: n.ID, Weight: n.Weight, Away: n.Away, Draining: n.Draining})
		}
	}
	return e
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
