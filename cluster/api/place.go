package api

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/zeebo/xxh3"

	"github.com/shardstream/shardstream/cluster/placement"
)

// Placer answers where objects belong under one version of the map. It is immutable.
type Placer struct {
	Map    Map
	nodes  map[string]Node
	all    *placement.Ring // all targets, whatever their state: for what is no object
	layout *placement.Layout
}

// NewPlacer prepares a map for placement.
func NewPlacer(m Map) *Placer {
	p := &Placer{Map: m, nodes: make(map[string]Node, len(m.Nodes))}
	var all []placement.Node
	present := placement.Epoch{Version: m.Since}
	for _, n := range m.Nodes {
		p.nodes[n.ID] = n
		if n.Role == RoleTarget {
			all = append(all, placement.Node{ID: n.ID, Weight: n.Weight})
			present.Members = append(present.Members, placement.Member{ID: n.ID, Weight: n.Weight, Away: n.Away, Leaving: n.Draining, Bare: n.Bare})
		}
	}
	former := make([]placement.Epoch, len(m.Former))
	for i, e := range m.Former {
		former[i].Version = e.Version
		for _, t := range e.Targets {
			former[i].Members = append(former[i].Members, placement.Member{ID: t.ID, Weight: t.Weight, Away: t.Away, Leaving: t.Draining})
		}
	}
	p.all, p.layout = placement.NewRing(all), placement.NewLayout(present, former)
	return p
}

// Layout is the map's placement, by ids.
func (p *Placer) Layout() *placement.Layout { return p.layout }

// Plan is where an object with so many copies is, and may be; see Bucket.Copies and Bucket.Was.
func (p *Placer) Plan(bucket, key string, copies int, was ...int) placement.Plan {
	return p.layout.Plan(placement.Key(bucket, key), copies, was...)
}

// Primary is the target that answers for an object with so many copies; false where there is none.
func (p *Placer) Primary(bucket, key string, copies int) (Node, bool) {
	n, ok := p.nodes[p.layout.Primary(placement.Key(bucket, key), copies)]
	return n, ok
}

// Ring tells the sets of targets apart that objects with so many copies are placed on: as long as it is the same, each
// object has the same primary.
func (p *Placer) Ring(copies int) string {
	h := xxh3.New()
	for _, n := range p.Map.Nodes {
		if n.Role == RoleTarget && !n.Draining && (copies <= 1 || !n.Away) {
			_, _ = fmt.Fprintf(h, "%q %g\n", n.ID, n.Weight) // a hash takes everything
		}
	}
	return fmt.Sprintf("%016x", h.Sum64())
}

// Node finds a member by its id.
func (p *Placer) Node(id string) (Node, bool) {
	n, ok := p.nodes[id]
	return n, ok
}

// Owner is the target that holds an object of one copy, and the primary of a mirrored one while it is up; false where
// the cluster has no target.
func (p *Placer) Owner(bucket, key string) (Node, bool) { return p.Primary(bucket, key, 1) }

// SnapshotHolders is the number of targets that a gateway gives each part of a snapshot to: those first in
// Rank by its id that are up. Where the others look for it follows from that.
const SnapshotHolders = 3

// MaxPages bounds the pages of snapshots in one request between nodes.
const MaxPages = 64

// Rank lists up to n targets by how much a key is theirs, its owner first.
func (p *Placer) Rank(key string, n int) []Node {
	var list []Node
	for _, i := range p.all.Rank(key, n) {
		list = append(list, p.nodes[p.all.ID(i)])
	}
	return list
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
