package membership

import (
	"encoding/json"
	"sort"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/shardstream/shardstream/cluster/api"
)

// View is the agreed state as a node last saw it. It is immutable and complete: map, liveness and
// buckets are of one revision.
type View struct {
	Revision int64       // of etcd
	Placer   *api.Placer // with the map, each node's State filled in from its lease
	buckets  map[string]Bucket
	leader   string // candidacy of the gateway that leads

	endpoints []string // of etcd, where that has several members or had
}

// Map is the cluster map with the nodes' states.
func (v *View) Map() *api.Map { return &v.Placer.Map }

// Bucket finds a bucket by name.
func (v *View) Bucket(name string) (Bucket, bool) {
	b, ok := v.buckets[name]
	return b, ok
}

// Buckets are all buckets that are not being deleted, sorted by name.
func (v *View) Buckets() []api.Bucket {
	list := make([]api.Bucket, 0, len(v.buckets))
	for _, b := range v.buckets {
		if !b.Deleting {
			list = append(list, b.Bucket)
		}
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Name < list[j].Name })
	return list
}

// Bucket is a bucket's entry.
type Bucket struct {
	api.Bucket
	// Deleting is set while a gateway asks the targets whether the bucket is empty, or drops it:
	// it takes no new objects then.
	Deleting bool `json:"deleting,omitempty"`
	// Identity tells a bucket from an earlier one of the same name.
	Identity int64 `json:"-"`
}

// table is the raw state under root, from which views are made. It belongs to one goroutine.
type table struct {
	revision int64
	cluster  string
	stored   api.Map
	members  map[string]api.Node
	live     map[string]api.Node
	buckets  map[string]Bucket
	removed  map[string]bool
	leader   string
	etcd     []string
	made     *View // of the present state; nil where that has changed
}

func newTable(answer *clientv3.GetResponse) *table {
	t := &table{
		revision: answer.Header.Revision,
		members:  map[string]api.Node{}, live: map[string]api.Node{}, buckets: map[string]Bucket{}, removed: map[string]bool{},
	}
	for _, kv := range answer.Kvs {
		t.put(kv)
	}
	return t
}

// put applies one key. A value that does not parse is left out: it can only come from another
// release or another hand, and one bad entry must not take the node down.
func (t *table) put(kv *mvccpb.KeyValue) {
	kind, name, _ := strings.Cut(strings.TrimPrefix(string(kv.Key), root), "/")
	switch kind {
	case "cluster":
		t.cluster = string(kv.Value)
	case "map":
		var m api.Map
		if json.Unmarshal(kv.Value, &m) == nil {
			t.stored = m
		}
	case "leader":
		t.leader = string(kv.Value)
	case "endpoints":
		var list []string
		if json.Unmarshal(kv.Value, &list) == nil {
			t.etcd = list
		}
	case "removed":
		t.removed[name] = true
	case "members", "live":
		var n api.Node
		if json.Unmarshal(kv.Value, &n) != nil {
			return
		}
		if kind == "live" {
			t.live[name] = n
		} else {
			t.members[name] = n
		}
	case "buckets":
		var b Bucket
		if json.Unmarshal(kv.Value, &b) == nil {
			b.Identity = kv.CreateRevision
			t.buckets[name] = b
		}
	}
}

func (t *table) remove(key []byte) {
	kind, name, _ := strings.Cut(strings.TrimPrefix(string(key), root), "/")
	switch kind {
	case "leader":
		t.leader = ""
	case "removed":
		delete(t.removed, name)
	case "members":
		delete(t.members, name)
	case "live":
		delete(t.live, name)
	case "buckets":
		delete(t.buckets, name)
	}
}

// apply takes over changes. Those of folders that are none of the view's, such as the progress of jobs, come by the
// second: they make no view of a thousand nodes anew.
func (t *table) apply(events []*clientv3.Event) {
	for _, e := range events {
		if t.concerns(e.Kv.Key) {
			t.made = nil
		}
		if e.Type == clientv3.EventTypePut {
			t.put(e.Kv)
		} else {
			t.remove(e.Kv.Key)
		}
	}
}

func (t *table) concerns(key []byte) bool {
	kind, _, _ := strings.Cut(strings.TrimPrefix(string(key), root), "/")
	switch kind {
	case "cluster", "map", "members", "live", "buckets", "leader", "endpoints", offers:
		return true
	}
	return false
}

// view copies the table into a View.
func (t *table) view() *View {
	if t.made != nil {
		return &View{Revision: t.revision, Placer: t.made.Placer, buckets: t.made.buckets, leader: t.made.leader, endpoints: t.made.endpoints}
	}
	m := t.stored
	m.Cluster = t.cluster
	m.Nodes = make([]api.Node, len(t.stored.Nodes))
	for i, n := range t.stored.Nodes {
		n.State = api.StateDown
		known := t.members[n.ID]
		if live, ok := t.live[n.ID]; ok {
			n.State, known = api.StateOK, live
		}
		n.PID, n.Disks = known.PID, known.Disks
		m.Nodes[i] = n
	}
	buckets := make(map[string]Bucket, len(t.buckets))
	for name, b := range t.buckets {
		buckets[name] = b
	}
	t.made = &View{Revision: t.revision, Placer: api.NewPlacer(m), buckets: buckets, leader: t.leader, endpoints: t.etcd}
	return t.made
}
