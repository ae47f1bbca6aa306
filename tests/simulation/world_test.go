//go:build !race

package simulation

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/shardstream/shardstream/cluster/api"
)

// world is one run: a cluster, its clients, and what goes wrong.
type world struct {
	*engine
	control  *control
	gateways []*host
	targets  []*target
	clients  []*client
	keys     []string
	wrong    faults

	values  int           // given out so far
	pace    time.Duration // between a client's operations
	lag     float64       // how often a view comes late
	history map[string][]porcupine.Operation
	sights  []sight
	broken  []string
}

// faults are mistakes that an implementation could make. Each must be found.
type faults struct {
	leaseUnchecked, leaseWithoutView, toldForgotten, staleMapAccepted, noGate, noSuccession,
	replicaNotAwaited, uncertainAnswered, shownUnspread, pushIntoPrimary,
	dropUnproven, tombstonesForgotten, shortListing, givenUpEarly bool
}

// sight is what a listing said of a key.
type sight struct {
	key              string
	called, returned time.Duration
	there            bool
}

func targetID(i int) string { return fmt.Sprintf("target-%d", i+1) }

func newWorld(seed uint64, wrong faults) *world {
	w := &world{engine: newEngine(seed), wrong: wrong, history: map[string][]porcupine.Operation{}}
	w.pace, w.lag = w.between(100*time.Millisecond, 500*time.Millisecond), w.rand.Float64()/2
	copies := []int{1, 2, 2, 2, 3}[w.rand.IntN(5)]
	count := copies + 1 + w.rand.IntN(3)
	b := api.Bucket{Name: bucket, Mirror: copies, Degraded: w.chance(0.3)}
	w.control = newControl(w, count, b)
	for i := range count {
		w.addTarget(targetID(i))
	}
	for i := range 2 {
		g := &host{id: fmt.Sprintf("gateway-%d", i+1), up: true}
		w.gateways = append(w.gateways, g)
		w.start(g, func() { w.control.lead(g) })
	}
	for i := range 4 + w.rand.IntN(6) {
		w.keys = append(w.keys, fmt.Sprintf("key-%d", i))
	}
	for i := range 4 {
		w.clients = append(w.clients, &client{host: &host{id: fmt.Sprintf("client-%d", i), up: true}, w: w, number: i})
	}
	return w
}

// addTarget makes a target with an empty disk, and starts it.
func (w *world) addTarget(id string) *target {
	t := &target{w: w, disk: map[string]record{}}
	t.host = &host{id: id, handle: func(r any) any { return t.handle(r) }}
	w.targets = append(w.targets, t)
	t.boot()
	return t
}

func (w *world) target(id string) *target {
	for _, t := range w.targets {
		if t.id == id {
			return t
		}
	}
	return &target{w: w, host: &host{id: id}} // it was removed
}

func (w *world) anyTarget() *target { return w.targets[w.rand.IntN(len(w.targets))] }

// fresh is a value that nobody has written before.
func (w *world) fresh() int { w.values++; return w.values }

// guess is a value that a key may have.
func (w *world) guess(key string) int {
	operations := w.history[key]
	for i := len(operations) - 1; i >= 0 && w.chance(0.8); i-- {
		if o := operations[i].Input.(operation); o.kind == read {
			return operations[i].Output.(outcome).value
		} else if o.kind != remove {
			return o.value
		}
	}
	return gone
}

func (w *world) record(by int, o operation, called time.Duration, got outcome) {
	o.hops = 0
	returned := int64(w.now)
	if got.unknown {
		if o.kind == read {
			return
		}
		returned = math.MaxInt64 - int64(len(w.history[o.key]))
	}
	w.history[o.key] = append(w.history[o.key], porcupine.Operation{ClientId: by, Input: o, Call: int64(called), Output: got, Return: returned})
	w.note("%s", register.DescribeOperation(o, got))
}

func (w *world) listed(key string, called time.Duration, there bool) {
	w.sights = append(w.sights, sight{key, called, w.now, there})
}

// breach notes that a promise was broken.
func (w *world) breach(format string, args ...any) {
	w.broken = append(w.broken, fmt.Sprintf(format, args...))
	w.note("BREACH: "+format, args...)
}

// checkDrop holds the promise that no background job removes an only copy.
func (w *world) checkDrop(by *target, key string) {
	version, others := by.disk[key].version, 0
	for _, t := range w.targets {
		if t != by && t.disk[key].version >= version {
			others++
		}
	}
	if others == 0 {
		w.breach("%s dropped the only copy of %s", by.id, key)
	}
}

// checkHistories has every key's history checked, and what listings said.
func (w *world) checkHistories() {
	for _, key := range w.keys {
		result := porcupine.CheckOperationsTimeout(register, w.history[key], time.Minute)
		if result != porcupine.Ok {
			w.breach("%s: its history is not linearizable: %v", key, result)
		}
	}
	for _, s := range w.sights {
		if there, certain := w.certain(s); certain && there != s.there {
			w.breach("%s: listed as there: %v, from %v to %v, when it was not so", s.key, s.there, s.called, s.returned)
		}
	}
}

// certain says whether a key was there during a listing, where that can be known: no write overlapped, and the last one
// before it is told by its end.
func (w *world) certain(s sight) (there, certain bool) {
	var last *porcupine.Operation
	for i := range w.history[s.key] {
		o := &w.history[s.key][i]
		if o.Input.(operation).kind == read || o.Output.(outcome).failed {
			continue
		}
		switch {
		case o.Call > int64(s.returned):
		case o.Return >= int64(s.called):
			return false, false
		case last == nil || o.Call > last.Return:
			last = o
		case o.Return > last.Call: // two at a time: either may be the last
			return false, false
		}
	}
	if last == nil {
		return false, true
	}
	return last.Input.(operation).kind != remove, true
}

// checkCopies says what is wrong with where copies are when all is calm: nothing.
func (w *world) checkCopies() []string {
	var faults []string
	doc := &w.control.doc
	for _, key := range w.keys {
		plan := doc.placer.Plan(bucket, key, doc.bucket.Copies())
		var newest uint64
		for _, t := range w.targets {
			newest = max(newest, t.disk[key].version)
		}
		for _, t := range w.targets {
			r, held := t.disk[key]
			belongs := slices.Contains(plan.Copies, t.id)
			switch {
			case belongs && r.version != newest && !w.buried(key, newest):
				faults = append(faults, fmt.Sprintf("%s: %s has version %x of %x", key, t.id, r.version, newest))
			case held && !belongs:
				faults = append(faults, fmt.Sprintf("%s: %s has a copy that is not its own", key, t.id))
			}
		}
	}
	return faults
}

// buried says that the newest version is a tombstone, which targets forget one by one.
func (w *world) buried(key string, version uint64) bool {
	return slices.ContainsFunc(w.targets, func(t *target) bool { return t.disk[key].version == version && t.disk[key].value == gone })
}

func describe(m *api.Map, b *api.Bucket) string {
	var nodes []string
	for _, n := range m.Nodes {
		state := strings.TrimPrefix(n.ID, "target-")
		for mark, is := range map[string]bool{"a": n.Away, "b": n.Bare, "d": n.Draining} {
			if is {
				state += mark
			}
		}
		nodes = append(nodes, state)
	}
	return fmt.Sprintf("since %d, %d former, %v, %d copies, were %v", m.Since, len(m.Former), nodes, b.Copies(), b.Was)
}
