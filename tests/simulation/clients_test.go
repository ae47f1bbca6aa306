//go:build !race

package simulation

import (
	"fmt"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/shardstream/shardstream/cluster/api"
)

const (
	clientTimeout = 4 * time.Second
	maxHops       = 4
	gone          = 0 // the value of a key that is not there
)

// client is a program that reads and writes keys by way of any target, and writes down what it saw.
type client struct {
	*host
	w      *world
	number int
}

// outcome is what came of an operation.
type outcome struct {
	value   int
	failed  bool // a condition did not hold
	unknown bool // it may take effect at any time, or never
}

// work does random operations until the end.
func (c *client) work(until time.Duration) {
	for c.w.now < until {
		c.w.sleep(c.w.between(0, c.w.pace))
		key := c.w.keys[c.w.rand.IntN(len(c.w.keys))]
		o := operation{key: key}
		switch p := c.w.rand.Float64(); {
		case p < 0.45:
			o.kind = read
		case p < 0.5:
			c.listAll()
			continue
		case p < 0.75:
			o.kind, o.value = write, c.w.fresh()
		case p < 0.87:
			o.kind = remove
		default:
			o.kind, o.value, o.old = replace, c.w.fresh(), c.w.guess(key)
		}
		c.do(o)
	}
}

// do carries an operation out, and records it. It is retried only where it certainly had no effect.
func (c *client) do(o operation) (outcome, bool) {
	called, hops := c.w.now, 0
	to := c.w.anyTarget()
	for c.w.now < called+clientTimeout && hops < maxHops {
		switch a := c.w.call(c.host, to.host, clientTimeout, o).(type) {
		case value:
			c.w.record(c.number, o, called, outcome{value: int(a)})
			return outcome{value: int(a)}, true
		case failed:
			c.w.record(c.number, o, called, outcome{value: int(a), failed: true})
			return outcome{value: int(a), failed: true}, true
		case redirect:
			to, hops = c.w.target(a.id), hops+1
		case refused, unavailable:
			c.w.sleep(100 * time.Millisecond)
			to = c.w.anyTarget()
		default: // no answer, or an answer that does not tell
			c.w.record(c.number, o, called, outcome{unknown: true})
			return outcome{}, false
		}
	}
	return outcome{}, false // every answer said that nothing was done
}

// listAll is a listing as a gateway makes it: complete, or nothing.
func (c *client) listAll() {
	called := c.w.now
	doc, ok := c.w.call(c.host, c.w.control.host, callTime, lookup{}).(document)
	if !ok {
		return
	}
	m := &doc.placer.Map
	away := slices.ContainsFunc(m.Nodes, isLess)
	plain := len(m.Former) == 0 && len(doc.bucket.Was) == 0 && !away
	var up []string
	for _, n := range m.Nodes {
		if !n.Away {
			up = append(up, n.ID)
		}
	}
	hosts := make([]*host, len(up))
	for i, id := range up {
		hosts[i] = c.w.target(id).host
	}
	heard, merged := map[string]bool{}, map[string]record{}
	for i, a := range c.w.callAll(c.host, hosts, haveTimeout, func(int) any { return list{doc.version(), plain} }) {
		names, ok := a.(listing)
		if !ok {
			continue
		}
		n, _ := doc.placer.Node(up[i])
		heard[up[i]] = !n.Bare
		for k, r := range names {
			if merged[k].version < r.version {
				merged[k] = r
			}
		}
	}
	if plain && len(heard) < len(up) || !plain && !complete(&doc, heard) && !c.w.wrong.shortListing {
		return
	}
	for _, key := range c.w.keys {
		c.w.listed(key, called, merged[key].value != gone)
	}
}

// isLess says of a target that it may not answer for all that it was given.
func isLess(n api.Node) bool { return n.Away || n.Bare }

// complete says that each list of targets that any object may have been written to has one that was heard.
func complete(doc *document, heard map[string]bool) bool {
	m := doc.placer.Map
	for _, copies := range append([]int{doc.bucket.Copies()}, doc.bucket.Was...) {
		for _, e := range append([]api.Epoch{epochOf(m)}, m.Former...) {
			held, lost := 0, 0
			for _, t := range e.Targets {
				if t.Draining || t.Away && copies > 1 {
					continue
				}
				held++
				if !heard[t.ID] {
					lost++
				}
			}
			if lost >= min(copies, held) {
				return false
			}
		}
	}
	return true
}

// list is a target's part of a listing.
func (t *target) list(l list) any {
	if refusal := t.meet(l.version); refusal != nil || !t.fit() {
		return unavailable{}
	}
	t.quiet(l.version)
	if !t.fit() || t.version() != l.version {
		return unavailable{}
	}
	names := listing{}
	for k, r := range t.disk {
		if plan := t.plan(k); !l.primary || len(plan.Copies) > 0 && plan.Copies[0] == t.id {
			names[k] = r
		}
	}
	return names
}

// register is the model that the history of a key must fit: a value that is read, written, and replaced.
var register = porcupine.Model{
	Init: func() any { return gone },
	Step: func(state, input, output any) (bool, any) {
		now, o, got := state.(int), input.(operation), output.(outcome)
		switch o.kind {
		case read:
			return got.value == now, now
		case replace:
			if now != o.old {
				return got.unknown || got.failed && got.value == now, now
			}
			return !got.failed, o.value
		default:
			return true, o.value
		}
	},
	DescribeOperation: func(input, output any) string {
		o, got := input.(operation), output.(outcome)
		names := []string{"read", "write", "remove", "replace"}
		return fmt.Sprintf("%s(%s %d, if %d) -> %+v", names[o.kind], o.key, o.value, o.old, got)
	},
}
