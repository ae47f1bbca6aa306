// Package ahead fetches the shards of buckets with backends before streams need them. The order of an epoch is a pure
// function, so what a stream needs next, in this epoch and in the next one, is known: the manager fetches in that order,
// ahead of use and within a budget, and tells the cache when each object is needed again, so that it evicts what is needed
// last (Belady's rule).
//
// All streams over the same data in the same order, the ranks of a job or several jobs, are one track. Those that are at about
// the same position are one front of it: what a front needs is fetched once, however many streams it has.
package ahead

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/shardstream/shardstream/sampler"
)

// ErrNoRoom is what Options.Fetch returns where the cache would have to evict what is needed sooner, or must not be evicted.
var ErrNoRoom = errors.New("no room for what is needed later than all that is cached")

const (
	// keepTrack is how long a track stays after its last stream: the next epoch, or the next evaluation, opens another.
	keepTrack = 30 * time.Minute
	// maxTracks bounds the memory; streams of more are served without reading ahead.
	maxTracks = 64
	// pace is the shortest time between two looks, and patience the longest.
	pace     = 5 * time.Millisecond
	patience = time.Second
	// idle is how many times as long as a look a pause is at least: where much is here already, a look goes through thousands of
	// shards.
	idle = 4
	// tryAgain is when a shard is tried again that could not be fetched. A stream that needs it asks by itself.
	tryAgain = 10 * time.Second

	defaultAtOnce = 16
)

// Options are what a manager works with.
type Options struct {
	// Fetch brings the bytes of an object here, if they are not; spare: only where nothing has to give way to it. An error that
	// is ErrNoRoom is no failure.
	Fetch func(ctx context.Context, bucket, key string, version uint64, spare bool) error
	// Stat says how large an object is, and whether its bytes are here; known is false where there is none of the version, or,
	// where that is 0, none at all.
	Stat func(bucket, key string, version uint64) (size int64, here, known bool)
	// Budget is how many bytes may be fetched ahead of use from the backend of a bucket; false where it has none.
	Budget func(bucket string) (bytes int64, cold bool)
	// Share says what this target is to fetch.
	Share func() Share
	// AtOnce is how many objects of a bucket are fetched ahead of use at a time; 0: 16. More than the cache lets read from the
	// backend: while some are made durable, the others keep it busy.
	AtOnce int
	Logger *slog.Logger
}

// Share is what a target is to fetch, under one version of the map.
type Share struct {
	Map  int64
	Mine func(bucket, key string) bool
}

// Manager reads ahead for the streams of one target. Run does the work.
type Manager struct {
	options Options
	meters  meters
	outlook atomic.Pointer[outlook]
	wake    chan struct{}

	mu     sync.Mutex
	tracks map[trackKey]*track
	// fetched are the objects that were fetched ahead, or are being, and that no stream has come to yet.
	fetched map[object]*parcel
	flying  map[string]int       // fetches under way, by bucket
	failed  map[object]time.Time // when they may be tried again
	full    map[string]time.Time // buckets for which there was no room
	// expected are the objects of streams that are being opened, by bucket.
	expected map[string]*guesses

	// The rest is Run's alone.
	indexes map[string]*index // by snapshot
	fetches sync.WaitGroup
}

// New makes a manager.
func New(o Options) *Manager {
	if o.AtOnce == 0 {
		o.AtOnce = defaultAtOnce
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	m := &Manager{
		options: o, meters: newMeters(), wake: make(chan struct{}, 1), tracks: map[trackKey]*track{},
		fetched: map[object]*parcel{}, flying: map[string]int{}, failed: map[object]time.Time{}, full: map[string]time.Time{}, indexes: map[string]*index{},
		expected: map[string]*guesses{},
	}
	m.outlook.Store(&outlook{})
	return m
}

// Run fetches until the context ends, and returns when no fetch is under way any more.
func (m *Manager) Run(ctx context.Context) {
	defer m.fetches.Wait()
	look := time.NewTicker(patience)
	defer look.Stop()
	rest := time.NewTimer(pace)
	defer rest.Stop()
	for {
		select {
		case <-m.wake:
		case <-look.C:
		case <-ctx.Done():
			return
		}
		begun := time.Now()
		m.step(ctx, begun)
		rest.Reset(max(pace, idle*time.Since(begun)))
		select {
		case <-rest.C:
		case <-ctx.Done():
			return
		}
	}
}

func (m *Manager) nudge() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Plan is the order that a stream goes through, epoch by epoch.
type Plan struct {
	Snapshot *sampler.Snapshot
	// Key tells the orders of a snapshot apart: seed, shuffle, and all else but the epoch.
	Key string
	// Of makes the plan of an epoch.
	Of func(epoch uint64) (sampler.Plan, error)
}

type trackKey struct{ snapshot, order string }

// track is what several streams go through in one order.
type track struct {
	key     trackKey
	plan    Plan
	courses map[*Course]struct{}
	last    place     // where the last of them ended
	ended   time.Time // when that was

	// The rest is Run's alone.
	plans    map[uint64]sampler.Plan
	horizons []*horizon
	broken   bool // its orders can't be made
	pace     speed
}

// place is a position of an epoch.
type place struct {
	epoch uint64
	pos   int64
}

func (p place) before(q place) bool { return p.epoch < q.epoch || p.epoch == q.epoch && p.pos < q.pos }

// Course is one stream's part in a track. Its methods may be called from any goroutine; those of a nil course do nothing.
type Course struct {
	manager *Manager
	track   *track
	epoch   uint64
	pos     atomic.Int64
	wakeAt  atomic.Int64 // the position from which Run should look again
}

// Open says that a stream goes through an epoch from a position on. It does no work and waits for nothing. A nil manager,
// and one that has too many tracks, returns a nil course.
func (m *Manager) Open(p Plan, epoch uint64, pos int64) *Course {
	if m == nil {
		return nil
	}
	key := trackKey{p.Snapshot.ID(), p.Key}
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.tracks[key]
	if t == nil {
		if len(m.tracks) >= maxTracks && !m.dropOldest() {
			return nil
		}
		t = &track{key: key, plan: p, courses: map[*Course]struct{}{}, plans: map[uint64]sampler.Plan{}}
		m.tracks[key] = t
	}
	c := &Course{manager: m, track: t, epoch: epoch}
	c.pos.Store(pos)
	t.courses[c] = struct{}{}
	m.nudge()
	return c
}

// dropOldest forgets the track that ended first; false where none has.
func (m *Manager) dropOldest() bool {
	var oldest *track
	for _, t := range m.tracks {
		if len(t.courses) == 0 && (oldest == nil || t.ended.Before(oldest.ended)) {
			oldest = t
		}
	}
	if oldest != nil {
		delete(m.tracks, oldest.key)
	}
	return oldest != nil
}

// At says where the stream is: all before that position is prepared.
func (c *Course) At(pos int64) {
	if c == nil {
		return
	}
	c.pos.Store(pos)
	if pos >= c.wakeAt.Load() {
		c.manager.nudge()
	}
}

// Used says that the stream has opened a shard, and whether it had to wait for its bytes.
func (c *Course) Used(bucket, key string, waited bool) {
	if c == nil {
		return
	}
	m := c.manager
	m.mu.Lock()
	p := m.fetched[object{bucket, key}]
	delete(m.fetched, object{bucket, key})
	m.mu.Unlock()
	switch {
	case waited:
		m.meters.waits.Inc()
	case p != nil:
		m.meters.hits.Inc()
	}
	if p != nil {
		m.nudge() // there is room in the budget
	}
}

// Close says that the stream has ended.
func (c *Course) Close() {
	if c == nil {
		return
	}
	m := c.manager
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, open := c.track.courses[c]; !open {
		return
	}
	delete(c.track.courses, c)
	if len(c.track.courses) == 0 {
		c.track.last, c.track.ended = place{c.epoch, c.pos.Load()}, time.Now()
	}
	m.nudge()
}
