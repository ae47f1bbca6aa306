//go:build !race

package simulation

import (
	"slices"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
)

// nemesis is what goes wrong, and what operators do meanwhile.
type nemesis struct {
	w      *world
	joined int
}

// strike does harm until the end.
func (n *nemesis) strike() {
	w := n.w
	for w.now < troubled {
		w.sleep(w.between(0, 4*time.Second))
		t := w.anyTarget()
		until := w.now + w.between(500*time.Millisecond, 9*time.Second)
		switch w.rand.IntN(11) {
		case 0, 1:
			n.crash(t, w.chance(0.3))
		case 2:
			w.note("%s stops", t.id)
			t.stopped = until
		case 3:
			o := w.anyTarget()
			w.note("%s and %s are parted", t.id, o.id)
			w.cut(t.host, o.host, until)
			if w.chance(0.6) {
				w.cut(o.host, t.host, until)
			}
		case 4:
			n.isolate(t, until)
		case 5:
			w.links.lossy = until
		case 6:
			w.links.slow = until
		case 7:
			n.join()
		case 8:
			n.drain(t)
		case 9:
			n.removeDrained()
		case 10:
			n.changePolicy()
		}
	}
}

// crash ends a target; its disk goes with it only while everything has the copies that it should.
func (n *nemesis) crash(t *target, wipe bool) {
	w := n.w
	if !t.up {
		return
	}
	w.note("%s crashes", t.id)
	t.crash()
	if m := &w.control.doc.placer.Map; wipe && w.control.doc.bucket.Copies() > 1 && len(m.Former) == 0 &&
		!slices.ContainsFunc(m.Nodes, isLess) && n.whole() {
		w.note("%s loses its disk", t.id)
		t.disk, t.bare = map[string]record{}, true
	}
	w.at(w.now+w.between(200*time.Millisecond, 10*time.Second), func() {
		if !t.up && slices.Contains(w.targets, t) {
			t.boot()
		}
	})
}

// whole says that no target lacks what it was given before, nor has lost a disk that the map does not know of yet.
func (n *nemesis) whole() bool {
	return !slices.ContainsFunc(n.w.targets, func(t *target) bool { return t.bare })
}

// isolate parts a target from the control, or from all others, one way or both.
func (n *nemesis) isolate(t *target, until time.Duration) {
	w := n.w
	others := []*host{w.control.host}
	if w.chance(0.5) {
		others = nil
		for _, o := range w.targets {
			others = append(others, o.host)
		}
	}
	in, out := w.chance(0.8), w.chance(0.8)
	w.note("%s is cut off from %d, in: %v, out: %v", t.id, len(others), in, out)
	for _, o := range others {
		if in {
			w.cut(o, t.host, until)
		}
		if out {
			w.cut(t.host, o, until)
		}
	}
}

func (n *nemesis) join() {
	if len(n.w.control.doc.placer.Map.Nodes) >= 7 || len(n.w.control.doc.placer.Map.Former) >= 8 {
		return
	}
	n.joined++
	t := n.w.addTarget(targetID(100 + n.joined))
	n.w.note("%s joins", t.id)
	n.hide(t)
}

// hide keeps a change of the map from one target for a while, and parts it from the one that changes.
func (n *nemesis) hide(from *target) {
	o := n.w.anyTarget()
	if o == from || n.w.chance(0.5) {
		return
	}
	o.blind = n.w.now + n.w.between(time.Second, 6*time.Second)
	n.w.cut(from.host, o.host, o.blind)
	n.w.cut(o.host, from.host, o.blind)
}

func (n *nemesis) drain(t *target) {
	w := n.w
	m := &w.control.doc.placer.Map
	staying := 0
	for _, node := range m.Nodes {
		if !node.Draining {
			staying++
		}
	}
	if staying <= w.control.doc.bucket.Copies()+1 {
		return
	}
	n.hide(t)
	w.control.change(func(m *api.Map, _ *api.Bucket) {
		for i := range m.Nodes {
			m.Nodes[i].Draining = m.Nodes[i].Draining || m.Nodes[i].ID == t.id
		}
	})
}

// removeDrained takes targets out that were drained: settled since, and empty.
func (n *nemesis) removeDrained() {
	c := n.w.control
	m := &c.doc.placer.Map
	if len(m.Former) > 0 || len(c.doc.bucket.Was) > 0 {
		return
	}
	for _, node := range m.Nodes {
		r, state := c.reports[node.ID], c.doc.state()
		if !node.Draining || node.Away || node.Bare || r.Goal != state.Goal() || !r.Empty {
			continue
		}
		n.w.note("%s is removed", node.ID)
		c.change(func(m *api.Map, _ *api.Bucket) {
			m.Nodes = slices.DeleteFunc(m.Nodes, func(o api.Node) bool { return o.ID == node.ID })
		})
		t := n.w.target(node.ID)
		t.crash()
		n.w.targets = slices.DeleteFunc(n.w.targets, func(o *target) bool { return o == t })
		return
	}
}

// changePolicy gives the bucket another number of copies, where nobody who may have some is away.
func (n *nemesis) changePolicy() {
	c := n.w.control
	m := &c.doc.placer.Map
	if len(m.Former) > 0 || len(c.doc.bucket.Was) > 0 || slices.ContainsFunc(m.Nodes, isLess) || n.w.chance(0.5) {
		return
	}
	now := c.doc.bucket.Copies()
	next := 1 + n.w.rand.IntN(3)
	if next == now || next >= len(m.Nodes) {
		return
	}
	c.change(func(_ *api.Map, b *api.Bucket) { b.Mirror, b.Was = next, append(b.Was, now) })
}

// relent ends all harm, and has all targets run.
func (n *nemesis) relent() {
	n.w.note("calm")
	n.w.repair()
	for _, t := range n.w.targets {
		t.stopped = 0
		if !t.up {
			t.boot()
		}
	}
}
