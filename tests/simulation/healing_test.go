//go:build !race

package simulation

import (
	"slices"
	"time"

	"github.com/shardstream/shardstream/cluster/heal"
	"github.com/shardstream/shardstream/cluster/placement"
)

const (
	healPause      = 500 * time.Millisecond
	healAgain      = 15 * time.Second // a pass though nothing has changed
	deleteGrace    = 4 * time.Second
	tombstoneGrace = 40 * time.Second
)

// proof says since when a copy is known to be needless, and under which map.
type proof struct {
	version uint64
	since   int64
	at      time.Duration
}

// heal makes passes over the disk until nothing is left to be done, and again when the cluster changes.
func (t *target) heal() {
	reported, last := "", time.Duration(0)
	for {
		t.w.sleep(t.w.between(healPause/2, healPause))
		if t.view.placer == nil {
			continue
		}
		// Now and then all is looked at, whatever was done before.
		whole, state, version := t.w.now > last+healAgain, t.view.state(), t.version()
		if goal := state.Goal(); goal != reported || whole {
			t.quiet(version)
			if !t.pass(version, whole) || t.version() != version {
				continue
			}
			last = t.w.now
			t.forgetTombstones(version)
			r := heal.Report{Goal: goal, Placed: true, Clean: true, Empty: len(t.disk) == 0}
			if t.w.call(t.host, t.w.control.host, callTime, settlement{t.id, r}) != nil {
				reported = goal
			}
		}
	}
}

// pass looks at each key that the map has moved, or at all; false where something was, or is yet, to be done.
func (t *target) pass(version int64, whole bool) bool {
	keys, others := t.keys(), t.others()
	answers := t.w.callAll(t.host, t.peers(others), haveTimeout, func(int) any { return have{version, keys} })
	clean := true
	for i, key := range keys {
		if t.version() != version {
			return false
		}
		own, held := t.disk[key]
		plan := t.plan(key)
		if !held || !whole && t.untouched(&plan) {
			continue
		}
		q := heal.Question{
			Self: t.id, Plan: plan, Own: heal.Answer{Version: own.version},
			Answers: map[string]heal.Answer{}, Want: t.view.bucket.Copies(),
		}
		for j, id := range others {
			if v, ok := answers[j].(versions); ok {
				q.Answers[id] = heal.Answer{Version: v[i]}
			}
		}
		d := heal.Decide(q)
		clean = clean && !d.Lacking && !d.Unsure && !d.Misplaced
		for _, id := range d.Push {
			t.w.call(t.host, t.w.target(id).host, commitTimeout, commit{version, key, own})
		}
		if d.Drop || t.w.wrong.dropUnproven && d.Misplaced {
			t.drop(key, own.version, version)
		} else {
			delete(t.proofs, key)
		}
	}
	return clean
}

// untouched says that no earlier set placed the key elsewhere, and nobody who is to have it lost anything.
func (t *target) untouched(plan *placement.Plan) bool {
	return len(plan.Former) == 0 && !slices.ContainsFunc(plan.Copies, func(id string) bool {
		n, _ := t.view.placer.Node(id)
		return n.Bare
	})
}

// drop removes a copy that was proven needless before, and is so still after the time of grace.
func (t *target) drop(key string, version uint64, under int64) {
	before, proven := t.proofs[key]
	if !proven || before.version != version || before.since != under {
		t.proofs[key] = proof{version, under, t.w.now}
		return
	}
	if t.w.now < before.at+deleteGrace || t.version() != under || t.disk[key].version != version {
		return
	}
	delete(t.proofs, key)
	t.w.checkDrop(t, key)
	delete(t.disk, key)
}

// forgetTombstones drops those that are old, where nobody can have anything older: all is settled, and nobody is away.
func (t *target) forgetTombstones(version int64) {
	m := &t.view.placer.Map
	if t.w.wrong.tombstonesForgotten {
		for _, key := range t.keys() {
			if t.disk[key].value == 0 && t.w.chance(0.5) {
				delete(t.disk, key)
			}
		}
	}
	if len(m.Former) > 0 || len(t.view.bucket.Was) > 0 || slices.ContainsFunc(m.Nodes, isLess) {
		return
	}
	for _, key := range t.keys() {
		if r := t.disk[key]; r.value == 0 && t.w.now > r.since+tombstoneGrace && t.version() == version {
			delete(t.disk, key)
		}
	}
}
