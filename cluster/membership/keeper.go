package membership

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/shardstream/shardstream/cluster/api"
)

// DefaultEtcdMembers is how many gateways hold etcd where that many are there.
const DefaultEtcdMembers = 3

// Keeper makes a gateway one of etcd's members, or none, as the cluster needs it. Each gateway offers itself; the one that
// leads takes them in: as learners first, which count for nothing, and as voters once they have caught up. There are as
// many voters as gateways up to the limit, but always an odd number: an even one stands no more losses than one less.
type Keeper struct {
	members *Membership
	etcd    *Etcd
	limit   int
	busy    bool        // the cluster of etcd is about to change
	seen    *api.Placer // stands for the state that the last step went by
}

// NewKeeper makes a keeper; the limit is 1, 3 or 5.
func NewKeeper(m *Membership, e *Etcd, limit int) *Keeper {
	return &Keeper{members: m, etcd: e, limit: limit}
}

// How often etcd's members are looked at: while they change, and while they don't.
const (
	busyPause = 250 * time.Millisecond
	calmPause = 3 * time.Second
)

// Run keeps until the context ends, or the server of this gateway does and can't be done without.
func (k *Keeper) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := k.step(ctx); err != nil && ctx.Err() == nil {
			return err
		}
		k.wait(ctx)
	}
	return nil
}

// wait returns when it is time for another look.
func (k *Keeper) wait(ctx context.Context) {
	pause(ctx, busyPause)
	if k.busy {
		return
	}
	limited, cancel := context.WithTimeout(ctx, calmPause)
	defer cancel()
	_, _ = k.members.Until(limited, func(v *View) bool { return v.Placer != k.seen }) // else the time is over
}

// step looks at etcd's members once. An error ends the node.
func (k *Keeper) step(ctx context.Context) error {
	running, ended := k.etcd.running()
	view := k.members.View()
	k.seen = view.Placer
	gateways := gatewaysOf(view.Map())
	if running && !ended && len(gateways) == 1 && len(view.endpoints) <= 1 {
		k.busy = false
		return nil // alone
	}
	list, err := k.list(ctx)
	if err != nil {
		if ended {
			return fmt.Errorf("etcd ended, and no other member of it answers: %w", err)
		}
		k.members.log.DebugContext(ctx, "can't list etcd's members", "error", err)
		return nil
	}
	if err := k.self(ctx, list, running, ended); err != nil {
		return err
	}
	if k.members.Leader() {
		return k.lead(ctx, list, gateways)
	}
	return nil
}

func (k *Keeper) list(ctx context.Context) ([]*etcdserverpb.Member, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := k.members.client.MemberList(ctx)
	if err != nil {
		return nil, err
	}
	return answer.Members, nil
}

// self does what the list asks of this gateway.
func (k *Keeper) self(ctx context.Context, list []*etcdserverpb.Member, running, ended bool) error {
	at := slices.IndexFunc(list, func(m *etcdserverpb.Member) bool { return slices.Contains(m.PeerURLs, k.etcd.peer()) })
	log := k.members.log
	switch {
	case running && at < 0:
		log.InfoContext(ctx, "this gateway holds etcd no longer")
		return k.etcd.Leave() //nolint:contextcheck // it takes its own time, which is short, also where a context has ended
	case running && ended:
		return errors.New("etcd ended")
	case running:
		return k.etcd.note(ctx, len(list))
	case at < 0:
		return k.offer(ctx)
	case list[at].Name != "" || k.etcd.Exists():
		// What it promised the others as that member is lost.
		log.WarnContext(ctx, "this gateway has lost its part of etcd, and offers to take a new one")
		return k.etcd.Leave() //nolint:contextcheck // it takes its own time, which is short, also where a context has ended
	}
	log.InfoContext(ctx, "this gateway becomes one of etcd's members", "members", len(list))
	others := map[string]string{}
	for i, m := range list {
		if i != at && len(m.PeerURLs) > 0 {
			others[cmp.Or(m.Name, strconv.FormatUint(m.ID, 16))] = m.PeerURLs[0]
		}
	}
	if err := k.etcd.launch(others); err != nil { // the members may just have changed, for one
		log.WarnContext(ctx, "this gateway could not become one of etcd's members yet", "error", err)
		k.busy = true
	}
	return nil
}

// offer is a gateway's readiness to be one of etcd's members.
type offer struct {
	Peer  string `json:"peer"`
	Added bool   `json:"added,omitempty"` // by the leader, as a learner: the gateway may start
}

const offers = "etcd"

func (k *Keeper) offer(ctx context.Context) error {
	kv, mine := k.members.KV(offers), offer{Peer: k.etcd.peer()}
	entry, err := kv.Get(ctx, k.members.config.Self.ID)
	var there offer
	if err == nil && json.Unmarshal(entry.Value, &there) == nil && there.Peer == mine.Peer {
		return nil
	}
	if err == nil || errors.Is(err, ErrNoEntry) {
		_, err = kv.Put(ctx, k.members.config.Self.ID, []byte(mustJSON(mine)))
	}
	if err != nil {
		k.members.log.DebugContext(ctx, "can't offer to hold etcd", "error", err)
	}
	return nil
}

// roll is what a leader knows of etcd's members and those who would be.
type roll struct {
	list     []*etcdserverpb.Member
	gateways map[string]api.Node
	offers   map[string]offer
	wanted   int // members
}

// owner is the id of the gateway that a member is of; a member that has not started yet does not bear it.
func (r *roll) owner(m *etcdserverpb.Member) string {
	if m.Name != "" {
		return m.Name
	}
	for id, o := range r.offers {
		if slices.Contains(m.PeerURLs, o.Peer) {
			return id
		}
	}
	return ""
}

func (r *roll) learners() (n int) {
	for _, m := range r.list {
		if m.IsLearner {
			n++
		}
	}
	return n
}

// starting says that a member has been added and has not started yet.
func (r *roll) starting() bool {
	return slices.ContainsFunc(r.list, func(m *etcdserverpb.Member) bool { return m.Name == "" })
}

// superfluous is a member that is to be removed, nil where there is none.
func (r *roll) superfluous(self string) *etcdserverpb.Member {
	allUp := true
	for _, m := range r.list {
		id := r.owner(m)
		gateway, known := r.gateways[id]
		offered, offers := r.offers[id]
		up := gateway.State == api.StateOK
		allUp = allUp && up
		switch {
		case !known: // the gateway was removed
			return m
		case offers && !slices.Contains(m.PeerURLs, offered.Peer): // it has lost what it was a member with
			return m
		case m.IsLearner && !up: // others are to be asked
			return m
		}
	}
	if len(r.list) <= r.wanted || !allUp {
		return nil
	}
	surplus := slices.Clone(r.list)
	slices.SortFunc(surplus, func(a, b *etcdserverpb.Member) int { return cmp.Compare(r.owner(b), r.owner(a)) })
	for _, m := range surplus {
		if r.owner(m) != self {
			return m
		}
	}
	return nil
}

// missing are gateways that are to become members.
func (r *roll) missing() []string {
	var ids []string
	for id := range r.offers {
		member := slices.ContainsFunc(r.list, func(m *etcdserverpb.Member) bool { return r.owner(m) == id })
		if !member && r.gateways[id].State == api.StateOK {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids[:max(0, min(len(ids), r.wanted-len(r.list)))]
}

// lead makes one change of etcd's members, the most urgent.
func (k *Keeper) lead(ctx context.Context, list []*etcdserverpb.Member, gateways map[string]api.Node) error {
	r := &roll{list: list, gateways: gateways, offers: map[string]offer{}, wanted: odd(min(k.limit, len(gateways)))}
	entries, err := k.members.KV(offers).List(ctx)
	for _, e := range entries {
		var o offer
		if json.Unmarshal(e.Value, &o) == nil {
			r.offers[e.Name] = o
		}
	}
	if err == nil {
		err = k.publish(ctx, list)
	}
	superfluous, missing := r.superfluous(k.members.config.Self.ID), r.missing()
	learners := r.learners()
	k.busy = superfluous != nil || len(missing) > 0 || learners > 0
	if len(missing) > 0 {
		// Before the first is added, as a server that nobody is connected to is soon there again.
		if err := k.etcd.note(ctx, max(2, len(list))); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	switch {
	case err != nil:
	case superfluous != nil:
		if _, err = k.members.client.MemberRemove(ctx, superfluous.ID); err == nil {
			k.members.log.InfoContext(ctx, "removed a member of etcd", "gateway", r.owner(superfluous))
		}
	case len(missing) > 0 && !r.starting():
		err = k.add(ctx, missing[0], r.offers[missing[0]])
	case learners > 0 && len(list)%2 == 1 && !r.starting():
		err = k.promote(ctx, list)
	}
	if err != nil {
		k.members.log.DebugContext(ctx, "etcd's members could not be changed yet", "error", err)
	}
	return nil
}

// add takes a gateway in as a learner.
func (k *Keeper) add(ctx context.Context, id string, o offer) error {
	k.members.log.InfoContext(ctx, "adding a member of etcd", "gateway", id)
	if _, err := k.members.client.MemberAddAsLearner(ctx, []string{o.Peer}); err != nil {
		return err
	}
	o.Added = true
	_, err := k.members.KV(offers).Put(ctx, id, []byte(mustJSON(o)))
	return err
}

// promote lets the learners vote, once all have started: an even number of voters is to last no longer than it must.
func (k *Keeper) promote(ctx context.Context, list []*etcdserverpb.Member) error {
	for _, m := range list {
		if !m.IsLearner {
			continue
		}
		if _, err := k.members.client.MemberPromote(ctx, m.ID); err != nil {
			return err
		}
		k.members.log.InfoContext(ctx, "a member of etcd votes from now on", "gateway", m.Name)
	}
	return nil
}

// publish tells all nodes where etcd's voters are.
func (k *Keeper) publish(ctx context.Context, list []*etcdserverpb.Member) error {
	var endpoints []string
	for _, m := range list {
		if m.Name != "" && !m.IsLearner {
			endpoints = append(endpoints, m.ClientURLs...)
		}
	}
	slices.Sort(endpoints)
	if len(endpoints) == 0 || slices.Equal(endpoints, k.members.View().endpoints) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := k.members.client.Txn(ctx).
		If(clientv3.Compare(clientv3.Value(root+"leader"), "=", k.members.candidacy())).
		Then(clientv3.OpPut(root+"endpoints", mustJSON(endpoints))).Commit()
	return err
}

func gatewaysOf(m *api.Map) map[string]api.Node {
	gateways := map[string]api.Node{}
	for _, n := range m.Nodes {
		if n.Role == api.RoleGateway {
			gateways[n.ID] = n
		}
	}
	return gateways
}

// odd is the largest odd number up to n.
func odd(n int) int { return max(1, n-1+n%2) }
