//go:build !race

package simulation

import (
	"slices"
	"strings"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/heal"
)

const (
	leaseTTL   = 3 * time.Second
	renewEvery = time.Second
	callTime   = 2 * time.Second // for an answer from the control
	bucket     = "b"
)

// control is what etcd is to a cluster: one document that all agree upon, changed by compare-and-swap, and leases.
type control struct {
	*host
	w      *world
	doc    document
	leases map[string]time.Duration // until when
	// reports are what targets said of their passes last; empty are those that said they hold nothing.
	reports map[string]heal.Report
}

// document is all that nodes go by. It is immutable.
type document struct {
	placer *api.Placer
	bucket api.Bucket
}

func (d *document) version() int64 { return d.placer.Map.Version }

// state is the document as heal sees it.
func (d *document) state() heal.State {
	return heal.State{Placer: d.placer, Buckets: []heal.Bucket{{Bucket: d.bucket, Identity: 1}}}
}

// Requests to the control.
type (
	renewal      struct{ id string }
	renewed      struct{ version int64 }
	registration struct {
		id   string
		bare bool
	}
	settlement struct {
		id     string
		report heal.Report
	}
	lookup struct{}
)

func newControl(w *world, targets int, b api.Bucket) *control {
	c := &control{w: w, leases: map[string]time.Duration{}, reports: map[string]heal.Report{}}
	c.host = &host{id: "etcd", up: true, handle: c.handle}
	m := api.Map{Version: 1, Since: 1}
	for i := range targets {
		m.Nodes = append(m.Nodes, api.Node{ID: targetID(i), Role: api.RoleTarget, Weight: 1})
	}
	c.doc = document{placer: api.NewPlacer(m), bucket: b}
	return c
}

func (c *control) handle(request any) any {
	switch r := request.(type) {
	case renewal:
		if c.leases[r.id] < c.w.now {
			return lookup{} // gone: register again
		}
		c.leases[r.id] = c.w.now + leaseTTL
		return renewed{c.doc.version()}
	case registration:
		if !c.register(r) {
			return nil
		}
		return c.doc
	case settlement:
		c.reports[r.id] = r.report
		return lookup{}
	default:
		return c.doc
	}
}

// register takes a target in, or back; not one that was removed and has a life of before.
func (c *control) register(r registration) bool {
	c.leases[r.id] = c.w.now + leaseTTL
	c.change(func(m *api.Map, _ *api.Bucket) {
		at := slices.IndexFunc(m.Nodes, func(n api.Node) bool { return n.ID == r.id })
		if at < 0 {
			m.Nodes = append(m.Nodes, api.Node{ID: r.id, Role: api.RoleTarget, Weight: 1})
			slices.SortFunc(m.Nodes, func(a, b api.Node) int { return strings.Compare(a.ID, b.ID) })
			return
		}
		m.Nodes[at].Away = false
		m.Nodes[at].Bare = m.Nodes[at].Bare || r.bare
	})
	return true
}

// change makes the next version of the document, and tells everybody, sooner or later.
func (c *control) change(edit func(m *api.Map, b *api.Bucket)) {
	before := c.doc.placer.Map
	next, b := before, c.doc.bucket
	next.Nodes, next.Former = slices.Clone(before.Nodes), slices.Clone(before.Former)
	b.Was = slices.Clone(b.Was)
	edit(&next, &b)
	succeed(before, &next)
	c.doc = document{placer: api.NewPlacer(next), bucket: b}
	c.w.note("map %d: %s", next.Version, describe(&next, &b))
	doc := c.doc
	for _, t := range c.w.targets {
		delay := c.w.between(0, 100*time.Millisecond)
		if c.w.chance(c.w.lag) {
			delay = c.w.between(0, 8*time.Second)
		}
		delay = max(delay, t.blind-c.w.now)
		c.w.at(c.w.now+delay, func() {
			c.w.send(c.host, t.host, func() { t.see(doc) })
		})
	}
}

// succeed numbers the successor of a map, and has it remember the set of targets that it takes the place of.
func succeed(before api.Map, next *api.Map) {
	next.Version = before.Version + 1
	past, present := epochOf(before), epochOf(*next)
	if slices.Equal(placed(past), placed(present)) {
		return
	}
	next.Since = next.Version
	former := []api.Epoch{past}
	for _, e := range before.Former {
		if !slices.ContainsFunc(append(former, present), func(o api.Epoch) bool { return slices.Equal(placed(o), placed(e)) }) {
			former = append(former, e)
		}
	}
	next.Former = former
}

func epochOf(m api.Map) api.Epoch {
	e := api.Epoch{Version: m.Since}
	for _, n := range m.Nodes {
		e.Targets = append(e.Targets, api.Member{ID: n.ID, Weight: n.Weight, Away: n.Away, Draining: n.Draining})
	}
	return e
}

func placed(e api.Epoch) []api.Member {
	return slices.DeleteFunc(slices.Clone(e.Targets), func(m api.Member) bool { return m.Draining })
}

// lead is what gateways do for the cluster: any of them, as all changes are by compare-and-swap.
func (c *control) lead(gateway *host) {
	for {
		c.w.sleep(c.w.between(300*time.Millisecond, 700*time.Millisecond))
		doc, ok := c.w.call(gateway, c.host, callTime, lookup{}).(document)
		if !ok {
			continue
		}
		// The rest is decided by what was read, and done only if that is still so: a transaction.
		gone, back := c.liveness(&doc)
		c.w.sleep(c.w.between(0, 20*time.Millisecond))
		if doc.version() != c.doc.version() {
			continue
		}
		switch {
		case len(gone)+len(back) > 0:
			c.change(func(m *api.Map, _ *api.Bucket) {
				for i := range m.Nodes {
					n := &m.Nodes[i]
					n.Away = n.Away && !slices.Contains(back, n.ID) || slices.Contains(gone, n.ID)
				}
			})
		case c.done(&doc):
			c.change(func(m *api.Map, b *api.Bucket) {
				m.Former, b.Was = nil, nil
				for i := range m.Nodes {
					m.Nodes[i].Bare = false
				}
			})
		}
	}
}

func (c *control) liveness(doc *document) (gone, back []string) {
	for _, n := range doc.placer.Map.Nodes {
		if dead := c.leases[n.ID] < c.w.now; dead && !n.Away {
			gone = append(gone, n.ID)
		}
	}
	return gone, back
}

// done says that all targets that are up have found nothing left to do, that no other can have what they lack, and that there is
// something to give up.
func (c *control) done(doc *document) bool {
	m := doc.placer.Map
	if len(m.Former) == 0 && len(doc.bucket.Was) == 0 && !slices.ContainsFunc(m.Nodes, func(n api.Node) bool { return n.Bare }) {
		return false
	}
	m.Nodes = slices.Clone(m.Nodes)
	for i := range m.Nodes {
		m.Nodes[i].State = api.StateDown
		if c.leases[m.Nodes[i].ID] > c.w.now {
			m.Nodes[i].State = api.StateOK
		}
	}
	if c.w.wrong.givenUpEarly {
		m.Former = nil
	}
	d := document{placer: api.NewPlacer(m), bucket: doc.bucket}
	return len(heal.Unsettled(d.state(), c.reports)) == 0
}
