//go:build !race

package simulation

import (
	"slices"
	"time"

	"github.com/shardstream/shardstream/cluster/placement"
)

const (
	commitTimeout = 2 * time.Second
	haveTimeout   = time.Second
	viewTimeout   = 2 * time.Second // for a view that others have already
)

// record is what a disk has of a key.
type record struct {
	version uint64
	value   int // 0: a tombstone
	since   time.Duration
}

// target is a node of the model: what it has on its disk, and what it has in its head.
type target struct {
	*host
	w    *world
	disk map[string]record
	bare bool // the disk was lost since the last registration
	// blind: until when changes of the map come late.
	blind time.Duration

	// What a crash takes:
	view     document
	seen     time.Duration // when the view got its set of targets
	leased   time.Duration // until when
	told     int64         // the highest version of the map that anybody named
	last     uint64        // the highest version of an object given out or seen
	locks    map[string]*mutex
	inside   map[int64]int    // commits under way, by the version of the map they go by
	resolved map[string]int64 // keys that were made sure of, under the set of targets since
	proofs   map[string]proof // copies that may be dropped after the time of grace
}

// boot begins a life: it registers, then does all that a target does.
func (t *target) boot() {
	t.up = true
	t.view, t.seen, t.leased, t.told, t.last = document{}, 0, 0, 0, 0
	t.locks, t.inside = map[string]*mutex{}, map[int64]int{}
	t.resolved, t.proofs = map[string]int64{}, map[string]proof{}
	for _, r := range t.disk {
		t.last = max(t.last, r.version)
	}
	t.w.note("%s starts with %d keys, bare: %v", t.id, len(t.disk), t.bare)
	t.w.start(t.host, t.stay)
	t.w.start(t.host, t.heal)
}

// stay keeps the lease, and the view that goes with it.
func (t *target) stay() {
	registered := false
	for {
		asked := t.w.now
		switch answer := t.ask(registered).(type) {
		case document: // registered
			registered, t.bare = true, false
			t.see(answer)
			t.leased = asked + leaseTTL
		case renewed:
			// A lease proves nothing unless the view is as new: whoever is primary by a newer map waits for it to end.
			if t.version() >= answer.version || t.w.wrong.leaseWithoutView {
				t.leased = asked + leaseTTL
			} else if doc, ok := t.w.call(t.host, t.w.control.host, callTime, lookup{}).(document); ok {
				t.see(doc)
				continue
			}
		case lookup:
			registered = false
			continue
		}
		t.w.sleep(renewEvery)
	}
}

func (t *target) ask(registered bool) any {
	if registered {
		return t.w.call(t.host, t.w.control.host, callTime, renewal{t.id})
	}
	return t.w.call(t.host, t.w.control.host, callTime, registration{t.id, t.bare})
}

// see takes a view over, unless it is an older one.
func (t *target) see(d document) {
	if !t.up || t.view.placer != nil && d.version() <= t.version() {
		return
	}
	if t.view.placer == nil || t.view.placer.Map.Since != d.placer.Map.Since || len(t.view.bucket.Was) != len(d.bucket.Was) {
		t.seen, t.resolved = t.w.now, map[string]int64{}
	}
	t.view = d
}

func (t *target) version() int64 {
	if t.view.placer == nil {
		return 0
	}
	return t.view.placer.Map.Version
}

func (t *target) plan(key string) placement.Plan {
	return t.view.placer.Plan(bucket, key, t.view.bucket.Copies(), t.view.bucket.Was...)
}

// fit says that the target may act by its view: nobody takes it for dead, and nobody told it of a newer map.
func (t *target) fit() bool {
	if t.view.placer == nil || t.told > t.version() && !t.w.wrong.toldForgotten {
		return false
	}
	return t.leased > t.w.now || t.view.bucket.Copies() == 1 || t.w.wrong.leaseUnchecked
}

func (t *target) lockOf(key string) *mutex {
	m := t.locks[key]
	if m == nil {
		m = &mutex{}
		t.locks[key] = m
	}
	return m
}

// Requests between targets carry the sender's version of the map.
type (
	have struct {
		version int64
		keys    []string
	}
	versions []uint64
	fetch    struct {
		key     string
		version uint64
	}
	commit struct { // of a write, or a copy that heal brings
		version int64
		key     string
		record  record
	}
	list struct {
		version int64
		primary bool // only what it is primary of
	}
	listing map[string]record
)

// Answers besides those.
type (
	stale       struct{} // the sender's map is old
	unavailable struct{}
	done        struct{}
	superseded  struct{}
)

func (t *target) handle(request any) any {
	switch r := request.(type) {
	case operation:
		return t.operate(r)
	case have:
		if refusal := t.meet(r.version); refusal != nil {
			return refusal
		}
		t.quiet(r.version)
		answers := make(versions, len(r.keys))
		for i, k := range r.keys {
			answers[i] = t.disk[k].version
		}
		return answers
	case fetch:
		if got := t.disk[r.key]; got.version == r.version {
			return got
		}
	case commit:
		if refusal := t.meet(r.version); refusal != nil && (!t.w.wrong.staleMapAccepted || t.version() < r.version) {
			return refusal
		}
		return t.take(r)
	case list:
		return t.list(r)
	}
	return unavailable{}
}

// meet brings two views together: an older one is waited for, and a sender with an older one is refused. nil: they are
// the same.
func (t *target) meet(version int64) any {
	t.told = max(t.told, version)
	for deadline := t.w.now + viewTimeout; t.version() < version; {
		if t.w.now >= deadline {
			return unavailable{}
		}
		t.w.sleep(20 * time.Millisecond)
	}
	if t.version() > version {
		return stale{}
	}
	return nil
}

// enter begins a commit by the present view; quiet waits for those by older ones to end.
func (t *target) enter() (version int64, leave func()) {
	v, inside := t.version(), t.inside
	inside[v]++
	return v, func() { inside[v]-- }
}

func (t *target) quiet(version int64) {
	if t.w.wrong.noGate {
		return
	}
	for {
		older := false
		for v, n := range t.inside {
			older = older || v < version && n > 0
		}
		if !older {
			return
		}
		t.w.sleep(5 * time.Millisecond)
	}
}

// take commits a copy that another target sends. The key's primary takes it last: what it shows, all others have.
func (t *target) take(c commit) any {
	if plan := t.plan(c.key); len(plan.Copies) > 0 && plan.Copies[0] == t.id && !t.w.wrong.pushIntoPrimary {
		return t.adopt(c)
	}
	version, leave := t.enter()
	defer leave()
	if version != c.version && !t.w.wrong.staleMapAccepted {
		return stale{}
	}
	t.store(c.key, c.record)
	if t.disk[c.key].version != c.record.version {
		return superseded{}
	}
	return done{}
}

// store makes a record durable, where there is none as new. A crash meanwhile leaves it there, or not.
func (t *target) store(key string, r record) {
	r.since = t.w.now
	write := func() {
		if t.disk[key].version < r.version {
			t.disk[key] = r
		}
		t.last = max(t.last, r.version)
	}
	if t.w.chance(0.5) {
		write()
	}
	if t.w.chance(0.05) {
		t.w.sleep(t.w.between(0, time.Second)) // a busy disk
	} else {
		t.w.sleep(t.w.between(0, 10*time.Millisecond))
	}
	write()
}

// peers are the targets by their ids.
func (t *target) peers(ids []string) []*host {
	hosts := make([]*host, len(ids))
	for i, id := range ids {
		hosts[i] = t.w.target(id).host
	}
	return hosts
}

// others are the members but self that are not away.
func (t *target) others() (ids []string) {
	for _, n := range t.view.placer.Map.Nodes {
		if n.ID != t.id && !n.Away {
			ids = append(ids, n.ID)
		}
	}
	return ids
}

// keys are those that the disk has something of, sorted.
func (t *target) keys() []string {
	keys := make([]string, 0, len(t.disk))
	for k := range t.disk {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
