package api

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/shardstream/shardstream/cluster/placement"
)

// Targets are the members of the map that hold objects, live or not.
func (m *Map) Targets() []Node {
	var targets []Node
	for _, n := range m.Nodes {
		if n.Role == RoleTarget {
			targets = append(targets, n)
		}
	}
	return targets
}

// Node finds a member by its id.
func (m *Map) Node(id string) (Node, bool) {
	for _, n := range m.Nodes {
		if n.ID == id {
			return n, true
		}
	}
	return Node{}, false
}

// Placer answers where objects belong under one version of the map. It is immutable.
type Placer struct {
	Map     Map
	nodes   map[string]Node
	present *placement.Ring
	former  []*placement.Ring
}

// NewPlacer prepares a map for placement.
func NewPlacer(m Map) *Placer {
	p := &Placer{Map: m, nodes: make(map[string]Node, len(m.Nodes))}
	var present []placement.Node
	for _, n := range m.Nodes {
		p.nodes[n.ID] = n
		if n.Role == RoleTarget {
			present = append(present, placement.Node{ID: n.ID, Weight: n.Weight})
		}
	}
	p.present = placement.NewRing(present)
	for _, set := range m.Former {
		var nodes []placement.Node
		for _, id := range set {
			nodes = append(nodes, placement.Node{ID: id, Weight: p.nodes[id].Weight})
		}
		p.former = append(p.former, placement.NewRing(nodes))
	}
	return p
}

// Owner is the target that holds an object; false where the cluster has no target.
func (p *Placer) Owner(bucket, key string) (Node, bool) {
	n, ok := p.nodes[p.present.OwnerID(placement.Key(bucket, key))]
	return n, ok
}

// SnapshotHolders is the number of targets that a gateway gives each part of a snapshot to: those first in
// Rank by its id that are up. Where the others look for it follows from that.
const SnapshotHolders = 3

// MaxPages bounds the pages of snapshots in one request between nodes.
const MaxPages = 64

// Rank lists up to n targets by how much a key is theirs, its owner first.
func (p *Placer) Rank(key string, n int) []Node {
	var list []Node
	for _, i := range p.present.Rank(key, n) {
		list = append(list, p.nodes[p.present.ID(i)])
	}
	return list
}

// Former are the members that held the object under earlier sets of targets, newest first, without
// its present owner. They are to be asked for what the owner does not have.
func (p *Placer) Former(bucket, key string) []Node {
	if len(p.former) == 0 {
		return nil
	}
	name := placement.Key(bucket, key)
	seen := map[string]bool{p.present.OwnerID(name): true}
	var former []Node
	for _, ring := range p.former {
		id := ring.OwnerID(name)
		if n, member := p.nodes[id]; member && !seen[id] {
			seen[id] = true
			former = append(former, n)
		}
	}
	return former
}

// Scheme begins the address of an object: ss://bucket/key.
const Scheme = "ss://"

// Address is the ss:// address of an object.
func Address(bucket, key string) string { return Scheme + bucket + "/" + key }

// ParseAddress splits ss://bucket/key; the key is empty in ss://bucket and ss://bucket/.
func ParseAddress(address string) (bucket, key string, err error) {
	rest, ok := strings.CutPrefix(address, Scheme)
	if !ok {
		return "", "", fmt.Errorf("address %q does not begin with %s: write ss://bucket/key", address, Scheme)
	}
	bucket, key, _ = strings.Cut(rest, "/")
	if bucket == "" {
		return "", "", fmt.Errorf("address %q names no bucket: write ss://bucket/key", address)
	}
	return bucket, key, nil
}

// ObjectPath is the path of an object's resource, escaped.
func ObjectPath(bucket, key string) string {
	segments := strings.Split(key, "/")
	for i, s := range segments {
		segments[i] = url.PathEscape(s)
	}
	return "/v1/objects/" + url.PathEscape(bucket) + "/" + strings.Join(segments, "/")
}

func bucketPath(bucket string) string { return "/v1/buckets/" + url.PathEscape(bucket) }
