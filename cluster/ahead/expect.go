package ahead

import (
	"math"
	"slices"
	"time"
)

// expectFor is how long after the last object of an opening was described those before it are fetched by guess.
const expectFor = 10 * time.Second

// guesses are objects of a bucket over which a stream is being opened: it is going to need them, in an order that depends on
// all that is not described yet. Until then a backend would have little to do.
type guesses struct {
	wants []want
	spent int64     // bytes, of all of this opening
	last  time.Time // when the last one was told
}

// Expect says that a stream is being opened over an object. It is fetched in the meantime, where there is room without
// evicting anything; of an opening, as much as may be fetched ahead of use. A nil manager fetches nothing.
func (m *Manager) Expect(bucket, key string, version uint64, size int64) {
	if m == nil {
		return
	}
	budget, cold := m.options.Budget(bucket)
	if !cold {
		return
	}
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	g := m.expected[bucket]
	if g == nil || now.Sub(g.last) > expectFor {
		g = &guesses{}
		m.expected[bucket] = g
	}
	g.last = now
	if g.spent += size; g.spent > budget {
		return
	}
	g.wants = append(g.wants, want{object: object{bucket, key}, version: version, size: size, due: math.Inf(1), spare: true})
	m.nudge()
}

// begun forgets an object whose fetch has begun. They begin in their order, so that it is among the first.
func (g *guesses) begun(o object) {
	if i := slices.IndexFunc(g.wants, func(w want) bool { return w.object == o }); i >= 0 {
		g.wants = slices.Delete(g.wants, i, i+1)
	}
}

// guessed are the guesses that are good yet: once a stream goes through a bucket, its order says what to fetch.
func (m *Manager) guessed(fronts []*front, now time.Time) (wants []want) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for bucket, g := range m.expected {
		if now.Sub(g.last) > expectFor {
			delete(m.expected, bucket)
			continue
		}
		g.wants = slices.DeleteFunc(g.wants, func(w want) bool { return m.fetched[w.object] != nil || plannedBy(fronts, w.object) })
		wants = append(wants, g.wants...)
	}
	return wants
}

// plannedBy says whether a stream goes through an object.
func plannedBy(fronts []*front, o object) bool {
	for _, f := range fronts {
		if _, found := f.index.find(o.bucket + "/" + o.key); found && f.open {
			return true
		}
	}
	return false
}
