package ahead

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/shardstream/shardstream/sampler"
)

const (
	// maxFronts bounds the fronts of a track: streams behind the last of them go by its needs.
	maxFronts = 8
	// maxLooks bounds the visits of a front that one look goes through.
	maxLooks = 4096
)

// parcel is an object that is fetched ahead.
type parcel struct {
	size   int64
	track  *track // nil: it is a guess
	needed place
	here   bool // the fetch has ended
}

// want is a shard that is needed and not here.
type want struct {
	object
	version uint64
	size    int64
	track   *track
	needed  place
	due     float64  // in seconds
	guess   *guesses // of an opening, for which nothing has to give way; nil: it is planned
}

// step looks at where the streams are, says what is needed when, and begins the fetches that there is room for.
func (m *Manager) step(ctx context.Context, now time.Time) {
	fronts := m.fronts(now)
	m.outlook.Store(&outlook{fronts: fronts})
	m.settle(fronts)
	var wants []want
	for _, f := range fronts {
		if f.open {
			wants = append(wants, m.wants(f)...)
		}
	}
	wants = append(wants, m.guessed(fronts, now)...)
	slices.SortStableFunc(wants, func(a, b want) int { return cmp.Compare(a.due, b.due) })
	m.start(ctx, wants, now)
}

// fronts groups the streams of all tracks, and forgets tracks that have ended long ago.
func (m *Manager) fronts(now time.Time) []*front {
	m.mu.Lock()
	tracks := make(map[*track][]*Course, len(m.tracks))
	for key, t := range m.tracks {
		if len(t.courses) == 0 && now.Sub(t.ended) > keepTrack {
			delete(m.tracks, key)
			continue
		}
		tracks[t] = slices.Collect(maps.Keys(t.courses))
	}
	m.mu.Unlock()
	share := m.options.Share()
	used := make(map[string]bool, len(tracks))
	var fronts []*front
	for t, courses := range tracks {
		used[t.key.snapshot] = true
		ix := m.indexOf(t, share)
		if len(ix.shards) > 0 && !t.broken {
			fronts = append(fronts, m.frontsOf(t, ix, courses, now)...)
		}
	}
	maps.DeleteFunc(m.indexes, func(snapshot string, _ *index) bool { return !used[snapshot] })
	return fronts
}

func (m *Manager) indexOf(t *track, share Share) *index {
	ix := m.indexes[t.key.snapshot]
	if ix == nil || ix.of != share.Map {
		ix = newIndex(t.plan.Snapshot, share, func(bucket string) bool {
			_, cold := m.options.Budget(bucket)
			return cold
		})
		m.indexes[t.key.snapshot] = ix
	}
	return ix
}

// frontsOf groups the streams of a track: those that are not far behind each other are one front, at the place of the
// slowest.
func (m *Manager) frontsOf(t *track, ix *index, courses []*Course, now time.Time) []*front {
	type standing struct {
		at     place
		course *Course
	}
	standings := make([]standing, 0, len(courses))
	for _, c := range courses {
		standings = append(standings, standing{place{c.epoch, c.pos.Load()}, c})
	}
	if len(courses) == 0 {
		m.mu.Lock()
		standings = append(standings, standing{at: t.last})
		m.mu.Unlock()
	}
	slices.SortFunc(standings, func(a, b standing) int {
		return cmp.Or(cmp.Compare(a.at.epoch, b.at.epoch), cmp.Compare(a.at.pos, b.at.pos))
	})
	var fronts []*front
	for _, s := range standings {
		if n := len(fronts); n > 0 {
			before := fronts[n-1]
			same := before.at.epoch == s.at.epoch
			if same && s.at.pos-before.at.pos <= before.samples/64 {
				before.courses = append(before.courses, s.course)
				continue
			}
			if n == maxFronts {
				continue
			}
		}
		f, err := t.front(s.at, ix)
		if err != nil {
			t.broken = true // the streams have failed for the same reason
			return nil
		}
		if f.open = s.course != nil; f.open {
			f.courses = append(f.courses, s.course)
		}
		fronts = append(fronts, f)
	}
	pace := t.pace.of(fronts[0].at, now)
	for _, f := range fronts {
		f.speed = pace
	}
	for _, c := range courses {
		c.wakeAt.Store(c.pos.Load() + fronts[0].stride())
	}
	t.prune(fronts)
	return fronts
}

// front is what lies before a place of a track.
func (t *track) front(at place, ix *index) (*front, error) {
	f := &front{track: t, index: ix, at: at}
	var plans [2]sampler.Plan
	for i := range plans {
		epoch := at.epoch + uint64(i)
		if t.plans[epoch] == nil {
			plan, err := t.plan.Of(epoch)
			if err != nil {
				return nil, err
			}
			t.plans[epoch] = plan
		}
		plans[i] = t.plans[epoch]
	}
	f.samples = plans[0].Samples()
	now, plain := plans[0].(*sampler.Order)
	then, _ := plans[1].(*sampler.Order)
	if plain && !sampler.Jumps(now) {
		f.now, f.then = plotted{now}, plotted{then}
		return f, nil
	}
	i := slices.IndexFunc(t.horizons, func(h *horizon) bool { return h.index == ix && h.covers(at) })
	if i < 0 {
		i = len(t.horizons)
		t.horizons = append(t.horizons, walk(at, plans, ix))
	}
	f.now = t.horizons[i]
	return f, nil
}

// prune forgets the plans and horizons that no front goes by.
func (t *track) prune(fronts []*front) {
	maps.DeleteFunc(t.plans, func(epoch uint64, _ sampler.Plan) bool {
		return !slices.ContainsFunc(fronts, func(f *front) bool { return f.at.epoch == epoch || f.at.epoch+1 == epoch })
	})
	t.horizons = slices.DeleteFunc(t.horizons, func(h *horizon) bool {
		return !slices.ContainsFunc(fronts, func(f *front) bool { return f.now == course(h) })
	})
}

// stride is after how many positions another look is worth its while.
func (f *front) stride() int64 {
	if _, jumps := f.now.(*horizon); jumps {
		return reach / 16
	}
	for v := range f.now.visits(f.at.pos) {
		return max(1, (v.To-v.From)/8)
	}
	return 1
}

// settle takes the parcels off the account that a stream has come to, or that are gone.
func (m *Manager) settle(fronts []*front) {
	slowest := make(map[*track]place, len(fronts))
	for _, f := range slices.Backward(fronts) { // the slowest of a track is its first
		slowest[f.track] = f.at
	}
	m.mu.Lock()
	parcels := maps.Clone(m.fetched)
	m.mu.Unlock()
	var depth int64
	for o, p := range parcels {
		_, here, _ := m.options.Stat(o.bucket, o.key, 0)
		m.mu.Lock()
		if p.track == nil {
			p.track, p.needed, _ = plannedBy(fronts, o)
		}
		at, known := slowest[p.track]
		guessed := p.track == nil && m.expected[o.bucket] != nil
		switch {
		case m.fetched[o] != p: // a stream has come to it meanwhile
		case !p.here:
			depth += p.size
		case !here:
			m.meters.wasted.Add(float64(p.size))
			delete(m.fetched, o)
		case guessed:
			depth += p.size
		case !known || !at.before(p.needed):
			delete(m.fetched, o)
		default:
			depth += p.size
		}
		m.mu.Unlock()
	}
	m.meters.depth.Set(float64(depth))
}

// wants are the shards that a front needs next and that are not here, as far as its budgets reach.
func (m *Manager) wants(f *front) []want {
	var wants []want
	sums := map[string]int64{}
	seen := map[int]bool{}
	looks := 0
	for v := range f.now.visits(f.at.pos) {
		if looks++; looks > maxLooks*16 || len(seen) > maxLooks {
			break
		}
		if !f.index.has(v.Shard) || seen[v.Shard] {
			continue
		}
		seen[v.Shard] = true
		shard := f.index.snap.Shard(v.Shard)
		bucket, key, _ := strings.Cut(shard.Name, "/")
		size, here, known := m.options.Stat(bucket, key, shard.Version)
		if here || !known {
			continue
		}
		due := float64(v.From-f.at.pos) / f.speed
		wants = append(wants, want{
			object: object{bucket, key}, version: shard.Version, size: size, track: f.track, needed: place{f.at.epoch, v.From}, due: max(due, 0),
		})
		budget, _ := m.options.Budget(bucket)
		if sums[bucket] += size; due > 0 && sums[bucket] > budget {
			break
		}
	}
	return wants
}

// start begins fetches, in the order of need.
func (m *Manager) start(ctx context.Context, wants []want, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.failed, func(_ object, until time.Time) bool { return now.After(until) })
	maps.DeleteFunc(m.full, func(_ string, until time.Time) bool { return now.After(until) })
	used, spent := map[string]int64{}, map[string]bool{}
	for o, p := range m.fetched {
		if p.track != nil { // guesses have a budget of their own
			used[o.bucket] += p.size
		}
	}
	for _, w := range wants {
		_, failed := m.failed[w.object]
		_, full := m.full[w.bucket]
		if failed || full || spent[w.bucket] || m.fetched[w.object] != nil || m.flying[w.bucket] >= m.options.AtOnce {
			continue
		}
		if w.guess != nil && m.flying[w.bucket] >= max(1, m.options.AtOnce/2) { // what the stream needs first should not have to wait long
			continue
		}
		budget, _ := m.options.Budget(w.bucket)
		if w.due > 0 && used[w.bucket] > 0 && used[w.bucket]+w.size > budget {
			spent[w.bucket] = true // smaller ones that are needed later wait for their turn
			continue
		}
		if w.guess == nil {
			used[w.bucket] += w.size
		}
		p := &parcel{size: w.size, track: w.track, needed: w.needed}
		m.fetched[w.object] = p
		m.flying[w.bucket]++
		if w.guess != nil {
			w.guess.begun(w.object)
		}
		m.fetches.Go(func() { m.fetch(ctx, w, p) })
	}
}

// fetch brings a shard here.
func (m *Manager) fetch(ctx context.Context, w want, p *parcel) {
	err := m.options.Fetch(ctx, w.bucket, w.key, w.version, w.guess != nil)
	m.mu.Lock()
	defer m.mu.Unlock()
	defer m.nudge()
	if m.flying[w.bucket]--; m.flying[w.bucket] == 0 {
		delete(m.flying, w.bucket)
	}
	if err == nil {
		p.here = true
		m.meters.bytes.Add(float64(w.size))
		return
	}
	if m.fetched[w.object] == p {
		delete(m.fetched, w.object)
	}
	if w.guess != nil {
		w.guess.fail()
		return
	}
	if errors.Is(err, ErrNoRoom) {
		m.full[w.bucket] = time.Now().Add(patience / 2)
		return
	}
	m.failed[w.object] = time.Now().Add(tryAgain)
	if ctx.Err() == nil {
		m.options.Logger.Warn("a shard could not be fetched ahead", "bucket", w.bucket, "object", w.key, "reason", err)
	}
}
