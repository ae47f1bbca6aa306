package ahead

import (
	"math"
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

// guessed are the guesses that are good yet: once a stream goes through a bucket, its order says what to fetch.
func (m *Manager) guessed(fronts []*front, now time.Time) (wants []want) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for bucket, g := range m.expected {
		if now.Sub(g.last) > expectFor {
			delete(m.expected, bucket)
			continue
		}
		left := g.wants[:0]
		for _, w := range g.wants {
			if m.fetched[w.object] == nil && !plannedBy(fronts, w.object) {
				left = append(left, w)
			}
		}
		g.wants = left
		wants = append(wants, left...)
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
