//go:build !race

package simulation

import (
	"slices"

	"github.com/shardstream/shardstream/cluster/placement"
)

// operation is what a client asks of a key's primary.
type operation struct {
	kind  kind
	key   string
	value int // to write
	old   int // that a conditional write expects; 0: nothing
	hops  int
}

type kind int

const (
	read kind = iota
	write
	remove
	replace // where the value is the old one
)

// Answers to operations.
type (
	value    int // what is there; of a write, what was written
	failed   int // the condition: what is there
	redirect struct{ id string }
	// unknown: the write may take effect yet, or not. unavailable says that it never will.
	unknown struct{}
)

// operate is a client's request to a target.
func (t *target) operate(o operation) any {
	if !t.fit() {
		return unavailable{}
	}
	plan := t.plan(o.key)
	switch {
	case len(plan.Copies) == 0:
		return unavailable{}
	case plan.Copies[0] != t.id:
		return redirect{plan.Copies[0]}
	case o.kind == read:
		return t.read(o.key, plan)
	}
	if len(plan.Copies) < t.view.bucket.Copies() && !t.view.bucket.Degraded {
		return unavailable{}
	}
	return t.write(o)
}

// sure says that what the disk has of a key is what was acknowledged last.
func (t *target) sure(key string, plan *placement.Plan) bool {
	return plan.Steady || t.resolved[key] == t.view.placer.Map.Since
}

func (t *target) read(key string, plan placement.Plan) any {
	if !t.sure(key, &plan) {
		m := t.lockOf(key)
		t.w.lock(m)
		ok := t.resolve(key)
		t.w.unlock(m)
		if !ok {
			return unavailable{}
		}
	}
	// Nothing comes between these lines.
	if now := t.plan(key); !t.fit() || len(now.Copies) == 0 || now.Copies[0] != t.id || !t.sure(key, &now) {
		return unavailable{}
	}
	return value(t.disk[key].value)
}

// write carries out a write of the key that self is primary of.
func (t *target) write(o operation) any {
	m := t.lockOf(o.key)
	t.w.lock(m)
	defer t.w.unlock(m)
	// Between the check below and the end, no pass of heal or question of another primary sees the key by a newer map.
	version, leave := t.enter()
	defer leave()
	plan := t.plan(o.key)
	if !t.fit() || len(plan.Copies) == 0 || plan.Copies[0] != t.id {
		return unavailable{}
	}
	if !t.sure(o.key, &plan) {
		// A write to which it does not matter what was there needs only that nobody else is primary any more.
		ready := t.resolve
		if o.kind != replace {
			ready = t.takeOver
		}
		if !ready(o.key) || t.version() != version || !t.fit() {
			return unavailable{}
		}
	}
	now := t.disk[o.key].value
	if o.kind == replace && now != o.old {
		return failed(now)
	}
	t.last = max(t.last, placement.FirstVersion(version)) + 1
	r := record{version: t.last, value: o.value}
	if !t.commitOnOthers(version, o.key, r, &plan) {
		return unknown{}
	}
	t.store(o.key, r)
	if t.disk[o.key].version != r.version {
		return unknown{}
	}
	return value(o.value)
}

func (t *target) commitOnOthers(version int64, key string, r record, plan *placement.Plan) bool {
	others := plan.Copies[1:]
	if t.w.wrong.replicaNotAwaited && len(others) > 0 {
		others = others[:len(others)-1]
	}
	answers := t.w.callAll(t.host, t.peers(others), commitTimeout, func(int) any { return commit{version, key, r} })
	return !slices.ContainsFunc(answers, func(a any) bool { return a != any(done{}) })
}

// adopt takes in what heal brings to the key's primary: it makes sure of the key anew.
func (t *target) adopt(c commit) any {
	m := t.lockOf(c.key)
	t.w.lock(m)
	defer t.w.unlock(m)
	switch {
	case !t.fit() || t.version() != c.version || !t.resolve(c.key):
		return unavailable{}
	case t.disk[c.key].version < c.record.version: // whoever has it did not answer
		return unavailable{}
	case t.disk[c.key].version > c.record.version:
		return superseded{}
	}
	return done{}
}

// resolve makes sure of a key whose primary was another, by what those say that may have something of it. The caller
// has the key's lock.
func (t *target) resolve(key string) bool {
	plan, version, since := t.plan(key), t.version(), t.view.placer.Map.Since
	answers := t.hear(key, &plan)
	verdict := plan.Judge(answers, placement.EpochOf)
	if !verdict.Certain && !t.w.wrong.uncertainAnswered || !t.succeeds(&plan, answers) {
		return false
	}
	if verdict.Newest > 0 && !t.spread(key, version, &verdict, answers, plan.Copies) {
		return false
	}
	if t.version() != version || !t.fit() {
		return false
	}
	t.resolved[key] = since
	return true
}

// takeOver makes sure that nobody else is primary of a key any more.
func (t *target) takeOver(key string) bool {
	plan := t.plan(key)
	return t.succeeds(&plan, t.hear(key, &plan))
}

// hear asks all that may have something of a key, and are up.
func (t *target) hear(key string, plan *placement.Plan) map[string]uint64 {
	version := t.version()
	asked := slices.DeleteFunc(plan.Ask(t.id), func(id string) bool { n, member := t.view.placer.Node(id); return !member || n.Away })
	answers := map[string]uint64{t.id: t.disk[key].version}
	for i, a := range t.w.callAll(t.host, t.peers(asked), haveTimeout, func(int) any { return have{version, []string{key}} }) {
		if v, ok := a.(versions); ok {
			answers[asked[i]] = v[0]
		}
	}
	return answers
}

// succeeds says that no earlier primary acts any more: it has been told of this map, or its lease was over when it was
// declared away.
func (t *target) succeeds(plan *placement.Plan, answers map[string]uint64) bool {
	if t.w.wrong.noSuccession {
		return true
	}
	for _, list := range plan.Former {
		if len(list) == 0 || list[0] == t.id {
			continue
		}
		n, member := t.view.placer.Node(list[0])
		// With one copy of each object no lease counts: the owner serves on, away or not, until it is told.
		fenced := n.Away && t.view.bucket.Copies() > 1 && !slices.Contains(t.view.bucket.Was, 1)
		if _, answered := answers[list[0]]; !answered && member && !fenced {
			return false
		}
	}
	return true
}

// spread gives the newest version to all that are to have the key and don't, self last: what is shown once must be found
// again by whoever is primary next.
func (t *target) spread(key string, version int64, v *placement.Verdict, answers map[string]uint64, copies []string) bool {
	newest, ok := t.newest(key, v)
	if !ok {
		return false
	}
	var lacking []string
	for _, id := range copies {
		if id != t.id && answers[id] != v.Newest {
			lacking = append(lacking, id)
		}
	}
	if t.w.wrong.shownUnspread {
		lacking = nil
	}
	given := t.w.callAll(t.host, t.peers(lacking), commitTimeout, func(int) any { return commit{version, key, newest} })
	if slices.ContainsFunc(given, func(a any) bool { return a != any(done{}) }) {
		return false
	}
	if t.disk[key].version < v.Newest {
		t.store(key, newest)
	}
	return true
}

// newest fetches the newest version from one that has it.
func (t *target) newest(key string, v *placement.Verdict) (record, bool) {
	if r := t.disk[key]; r.version == v.Newest {
		return r, true
	}
	for _, id := range v.Holders {
		if r, ok := t.w.call(t.host, t.w.target(id).host, commitTimeout, fetch{key, v.Newest}).(record); ok {
			return r, true
		}
	}
	return record{}, false
}
