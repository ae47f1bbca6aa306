package membership

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/shardstream/shardstream/cluster/api"
)

// Bounds of how many earlier sets of targets the map remembers. Forgetting one would lose sight of its objects, so what
// would need another is put off until data has been moved: joins first, as a target that is down can't be.
const (
	maxFormerOfJoins = 16
	maxFormer        = 64
)

// FullError says that the map remembers as many earlier sets of targets as it can.
type FullError struct{ Sets int }

func (e *FullError) Error() string {
	return fmt.Sprintf("the map already remembers %d earlier sets of targets, whose objects must be moved first: "+
		"`shardstream status` tells how far that is", e.Sets)
}

// succeed makes a changed map the successor of the current one: its version is the next, and where its set of targets is
// another, the current set joins the former ones. A set that is there twice holds the same objects twice: what was
// written under the older one is looked for under the newer one all the same, so only that is kept. In a pristine
// cluster, without a bucket, nothing is anywhere.
func succeed(current, next api.Map, pristine bool, limit int) (api.Map, error) {
	next.Version = current.Version + 1
	past, present := epochOf(current), epochOf(next)
	if sameSet(past, present) {
		return next, nil
	}
	next.Since = next.Version
	if pristine || len(past.Targets) == 0 {
		return next, nil
	}
	former := []api.Epoch{past}
	for _, e := range current.Former {
		if !slices.ContainsFunc(append([]api.Epoch{present}, former...), func(newer api.Epoch) bool { return sameSet(e, newer) }) {
			former = append(former, e)
		}
	}
	if len(former) > limit && len(former) > len(current.Former) {
		return current, &FullError{Sets: len(current.Former)}
	}
	next.Former = former
	return next, nil
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

// sameSet says that two sets place all objects alike: on those that are being drained there are none.
func sameSet(a, b api.Epoch) bool {
	return slices.Equal(placed(a), placed(b))
}

func placed(e api.Epoch) []api.Member {
	var members []api.Member
	for _, t := range e.Targets {
		if !t.Draining {
			members = append(members, t)
		}
	}
	return members
}

// edited is a copy of the map that can be changed.
func edited(m api.Map) api.Map {
	m.Nodes, m.Former = slices.Clone(m.Nodes), slices.Clone(m.Former)
	return m
}

func indexOf(m api.Map, id string) int {
	return slices.IndexFunc(m.Nodes, func(n api.Node) bool { return n.ID == id })
}

// remembers says whether an earlier set has a target of that id.
func remembers(m api.Map, id string) bool {
	return slices.ContainsFunc(m.Former, func(e api.Epoch) bool {
		return slices.ContainsFunc(e.Targets, func(t api.Member) bool { return t.ID == id })
	})
}

// admit is the map with the node in it, and the node as it is to be recorded. The map is unchanged, version included,
// where it already says the same. Fresh: the node comes with empty disks.
func admit(current api.Map, self api.Node, fresh, pristine bool) (api.Map, api.Node, error) {
	if at := indexOf(current, self.ID); at >= 0 {
		return readmit(current, at, self, fresh, pristine)
	}
	target := self.Role == api.RoleTarget
	if target && self.Weight <= 0 {
		self.Weight = 1
	}
	next := edited(current)
	next.Nodes = append(next.Nodes, api.Node{
		ID: self.ID, Role: self.Role, Addr: self.Addr, Weight: self.Weight,
		// One of that id was removed by force: it had what this one does not have.
		Bare: target && remembers(current, self.ID),
	})
	slices.SortFunc(next.Nodes, func(a, b api.Node) int { return strings.Compare(a.ID, b.ID) })
	next, err := succeed(current, next, pristine, maxFormerOfJoins)
	if err != nil {
		return current, self, fmt.Errorf("%s %s can't join: %w", self.Role, self.ID, err)
	}
	return next, self, nil
}

// readmit takes a member back.
func readmit(current api.Map, at int, self api.Node, fresh, pristine bool) (api.Map, api.Node, error) {
	known := current.Nodes[at]
	if known.Role != self.Role {
		return current, self, fmt.Errorf("node %s is already a %s of this cluster: give the %s another id", self.ID, known.Role, self.Role)
	}
	// The first weight stays: changing it would move objects, which is rebalance's business.
	self.Weight = known.Weight
	if self.Role != api.RoleTarget && known.Addr == self.Addr {
		return current, self, nil
	}
	next := edited(current)
	node := &next.Nodes[at]
	node.Addr = self.Addr
	if self.Role == api.RoleTarget {
		node.Away = false
		node.Bare = known.Bare || (self.Bare || fresh) && !pristine
		node.Drained = known.Drained && !node.Bare
	}
	// A target that comes back counts its versions under a map of its own: what it gave out last it may not know.
	next, err := succeed(current, next, pristine, maxFormer)
	if err != nil { // it waits, away, until there is room for another set
		next = edited(current)
		next.Nodes[at].Addr, next.Nodes[at].Bare = self.Addr, node.Bare
		next.Version++
	}
	return next, self, nil
}

// depart is the map with some targets away, and others no longer.
func depart(current api.Map, gone, back []string, pristine bool) (api.Map, error) {
	next := edited(current)
	for i := range next.Nodes {
		n := &next.Nodes[i]
		n.Away = n.Away && !slices.Contains(back, n.ID) || slices.Contains(gone, n.ID)
	}
	return succeed(current, next, pristine, maxFormer)
}

// settle is the map whose objects are all where it puts them.
func settle(current api.Map, drained []string) api.Map {
	next := edited(current)
	next.Version++
	next.Former = nil
	for i := range next.Nodes {
		n := &next.Nodes[i]
		n.Bare = false
		n.Drained = n.Drained || n.Draining && slices.Contains(drained, n.ID)
	}
	return next
}

// drain is the map with a target that takes nothing new, or that does so again.
func drain(current api.Map, id string, draining, pristine bool) (api.Map, error) {
	at := indexOf(current, id)
	if at < 0 {
		return current, fmt.Errorf("node %s: %w", id, ErrNoNode)
	}
	if current.Nodes[at].Role != api.RoleTarget {
		return current, fmt.Errorf("node %s is a gateway, which holds no objects: remove it as it is: %w", id, ErrRefused)
	}
	if current.Nodes[at].Draining == draining {
		return current, nil
	}
	next := edited(current)
	next.Nodes[at].Draining, next.Nodes[at].Drained = draining, false
	if draining && staying(next) == 0 {
		return current, fmt.Errorf("target %s is the last that takes objects: add another first: %w", id, ErrRefused)
	}
	return succeed(current, next, pristine, maxFormer)
}

// staying is the number of targets that objects may be placed on.
func staying(m api.Map) (n int) {
	for _, t := range m.Nodes {
		if t.Role == api.RoleTarget && !t.Draining {
			n++
		}
	}
	return n
}

// remove is the map without a node.
func remove(current api.Map, id string, force, pristine bool) (api.Map, error) {
	at := indexOf(current, id)
	if at < 0 {
		return current, fmt.Errorf("node %s: %w", id, ErrNoNode)
	}
	node := current.Nodes[at]
	next := edited(current)
	next.Nodes = slices.Delete(next.Nodes, at, at+1)
	if node.Role == api.RoleGateway {
		if !slices.ContainsFunc(next.Nodes, func(n api.Node) bool { return n.Role == api.RoleGateway }) {
			return current, fmt.Errorf("gateway %s is the last one: %w", id, ErrRefused)
		}
		next.Version++
		return next, nil
	}
	if !force && !node.Drained && !pristine {
		return current, fmt.Errorf("target %s may hold objects that nobody else has: drain it first (%s), or remove it by force, "+
			"which loses those: %w", id, cmp.Or(drainState(node), "it is not being drained"), ErrNotDrained)
	}
	return succeed(current, next, pristine, maxFormer)
}

func drainState(n api.Node) string {
	if n.Draining {
		return "it is being drained"
	}
	return ""
}
