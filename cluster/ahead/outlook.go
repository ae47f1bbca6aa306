package ahead

import (
	"iter"
	"time"

	"github.com/shardstream/shardstream/sampler"
)

// course is an order as far as reading ahead goes by it.
type course interface {
	// visits are those that end after a position, in the order in which they begin.
	visits(after int64) iter.Seq[sampler.Visit]
	// next is the first visit to a shard that ends after a position.
	next(shard int, after int64) (sampler.Visit, bool)
}

// plotted is an order that needs one shard for a stretch of positions.
type plotted struct{ *sampler.Order }

func (p plotted) visits(after int64) iter.Seq[sampler.Visit] { return sampler.Visits(p.Order, after) }

func (p plotted) next(shard int, after int64) (sampler.Visit, bool) { return p.NextVisit(shard, after) }

// front is where streams are that are at about the same position of a track.
type front struct {
	track   *track
	index   *index
	open    bool // false: no stream is there any more; the next epoch is a guess
	at      place
	courses []*Course // those at the front, which go on meanwhile
	samples int64
	now     course
	then    course // of the next epoch; nil where now goes on by itself
	speed   float64
}

// nextUse is in how many positions a shard is needed next: 0 or less where it is now.
func (f *front) nextUse(shard int) (positions int64, known bool) {
	pos := f.pos()
	if v, ok := f.now.next(shard, pos); ok {
		return v.From - pos, true
	}
	if f.then == nil {
		return 0, false
	}
	v, ok := f.then.next(shard, 0)
	return f.samples - pos + v.From, ok
}

// pos is where the slowest stream of the front is by now: eviction that went by where it was would keep what has been read.
func (f *front) pos() int64 {
	if len(f.courses) == 0 {
		return f.at.pos
	}
	pos := f.courses[0].pos.Load()
	for _, c := range f.courses[1:] {
		pos = min(pos, c.pos.Load())
	}
	return pos
}

// outlook is what is known of the future at one time. But for where the streams are, it is immutable.
type outlook struct{ fronts []*front }

// NextUse says in how many seconds an object is needed by a stream, as far as is known: 0 or less where it is now. It is
// false for an object that no stream is going to need. It takes no locks.
func (m *Manager) NextUse(bucket, key string) (seconds float64, known bool) {
	var ix *index
	var shard int
	var found bool
	name := bucket + "/" + key
	for _, f := range m.outlook.Load().fronts {
		if f.index != ix {
			ix = f.index
			shard, found = ix.find(name)
		}
		if !found {
			continue
		}
		if positions, ok := f.nextUse(shard); ok {
			if s := float64(positions) / f.speed; !known || s < seconds {
				seconds, known = s, true
			}
		}
	}
	return seconds, known
}

// Speeds of fronts in positions a second: what is assumed before anything is known, and the least, so that a stream that
// stands still keeps an order among its shards.
const (
	firstSpeed = 1000
	leastSpeed = 1
)

// speed is how fast the streams of a track go, smoothed.
type speed struct {
	value float64
	at    place
	when  time.Time
}

// of is the speed, going by where the slowest stream is now.
func (s *speed) of(at place, now time.Time) float64 {
	passed := now.Sub(s.when)
	switch {
	case s.when.IsZero() || s.at.epoch != at.epoch || at.pos < s.at.pos:
		s.at, s.when = at, now
	case passed >= patience:
		latest := float64(at.pos-s.at.pos) / passed.Seconds()
		if s.value == 0 {
			s.value = latest
		}
		s.value += (latest - s.value) / 4
		s.at, s.when = at, now
	}
	if s.value == 0 {
		return firstSpeed
	}
	return max(s.value, leastSpeed)
}
