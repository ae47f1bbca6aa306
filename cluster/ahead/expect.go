package ahead

import (
	"math"
	"slices"
	"time"
)

const (
	// expectFor is how long after the last object of an opening was described those before it are fetched by guess.
	expectFor = 10 * time.Second
	// maxGuesses bounds what waits to be fetched: what is needed first is told first.
	maxGuesses = 512
)

// guesses are objects of a bucket over which a stream is being opened: it is going to need them, in an order that depends on
// all that is not described yet. Until then a backend would have little to do.
type guesses struct {
	wants  []want
	spent  int64     // bytes, of all of this opening
	last   time.Time // when the last one was told
	failed bool      // there is no room, or the backend fails: the stream finds out, if it comes
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
	if g.failed || len(g.wants) == maxGuesses || g.spent > 0 && g.spent+size > budget {
		return
	}
	g.spent += size
	g.wants = append(g.wants, want{object: object{bucket, key}, version: version, size: size, due: math.Inf(1), guess: g})
	m.nudge()
}

// begun forgets an object whose fetch has begun. They begin in their order, so that it is among the first.
func (g *guesses) begun(o object) {
	if i := slices.IndexFunc(g.wants, func(w want) bool { return w.object == o }); i >= 0 {
		g.wants = slices.Delete(g.wants, i, i+1)
	}
}

// fail gives up the guesses of an opening.
func (g *guesses) fail() { g.wants, g.failed = nil, true }

// guessed are the guesses that are good yet: once a stream goes through an object, its order says when to fetch it.
func (m *Manager) guessed(fronts []*front, now time.Time) (wants []want) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for bucket, g := range m.expected {
		if now.Sub(g.last) > expectFor {
			delete(m.expected, bucket)
			continue
		}
		g.wants = slices.DeleteFunc(g.wants, func(w want) bool {
			_, _, planned := plannedBy(fronts, w.object)
			return planned || m.fetched[w.object] != nil
		})
		wants = append(wants, g.wants...)
	}
	return wants
}

// plannedBy is the track of a stream that goes through an object, and when that needs it.
func plannedBy(fronts []*front, o object) (t *track, needed place, ok bool) {
	for _, f := range fronts {
		if !f.open {
			continue
		}
		if shard, found := f.index.find(o.bucket + "/" + o.key); found {
			if v, ok := f.now.next(shard, f.at.pos); ok {
				return f.track, place{f.at.epoch, v.From}, true
			}
		}
	}
	return nil, place{}, false
}
