package loader

import (
	"time"

	"github.com/shardstream/shardstream/core/wire"
)

// A trail remembers the last seconds of counts that only grow: trailPoints of them, trailStep apart.
const (
	trailPoints = 6
	trailStep   = time.Second
)

// point is the state of the counts at one time.
type point struct {
	at             time.Time
	waited         time.Duration
	samples, bytes int64
	work           wire.Work
}

type trail struct {
	points [trailPoints]point
	n      int // ever added
}

// add keeps a point, unless the last one is too young.
func (t *trail) add(p point) {
	if t.n > 0 && p.at.Sub(t.points[(t.n-1)%trailPoints].at) < trailStep {
		return
	}
	t.points[t.n%trailPoints] = p
	t.n++
}

// since is what has changed since the oldest point; nothing where there is none.
func (t *trail) since(now point) (d point, took time.Duration) {
	if t.n == 0 {
		return point{}, 0
	}
	old := t.points[0]
	if t.n > trailPoints {
		old = t.points[t.n%trailPoints]
	}
	took = now.at.Sub(old.at)
	if took <= 0 {
		return point{}, 0
	}
	now.waited -= old.waited
	now.samples -= old.samples
	now.bytes -= old.bytes
	now.work.Sub(old.work)
	return now, took
}

func (t *trail) rates(now point) Rates {
	d, took := t.since(now)
	s := took.Seconds()
	return Rates{
		Seconds: s, SamplesPS: ratio(float64(d.samples), s), BytesPS: ratio(float64(d.bytes), s),
		WaitShare: min(ratio(d.waited.Seconds(), s), 1),
	}
}
