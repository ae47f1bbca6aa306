package heal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/store"
)

// Store is what heal needs of the target's own store.
type Store interface {
	// ListAll gives a page of the bucket's objects and tombstones, sorted by name.
	ListAll(bucket, prefix, startAfter string, limit int) (infos []store.Info, more bool, err error)
	// State is the newest that the store knows of an object, a tombstone included.
	State(bucket, name string) (store.Info, bool, error)
}

// Peers are the other targets.
type Peers interface {
	// Have tells which versions a target has of some objects, tombstones included. version is of the map: a target that
	// knows of a newer one, or does not learn of it in time, does not answer. Where one can't tell, as one of its disks
	// is out, the answer for that name is nil.
	Have(ctx context.Context, version int64, node api.Node, bucket string, names []string) ([]*Answer, error)
	// Push gives a target this node's copy of an object, or its tombstone, and returns how many bytes that took. When it
	// returns without an error, the target has that version or a newer one, on its disk, or the copy here has changed.
	Push(ctx context.Context, version int64, node api.Node, info store.Info) (int64, error)
}

// Slices are those of erasure-coded objects, which lie on targets beside copies.
type Slices interface {
	// Heal makes the slices of an object anew that are missing where they are to be. It is called by the target that
	// answers for the object, after those that are to have its description have it.
	Heal(ctx context.Context, info store.Info) (Outcome, error)
	// Missing says how many slices of an object are not where they are to be.
	Missing(ctx context.Context, info store.Info) (int, error)
	// Sweep removes slices that do not belong here, by proof and after a period of grace of its own, and says how many
	// of them are still here.
	Sweep(ctx context.Context) (misplaced int, err error)
	// Holds says whether there are any slices here.
	Holds() (bool, error)
}

// Outcome is what was done about an object's slices.
type Outcome struct {
	Lacking bool  // some are still missing
	Made    int   // slices
	Bytes   int64 // of them
}

// Config wires a Healer. Slices, Busy, Observe may be nil; durations and Rate 0 for their defaults.
type Config struct {
	Self    string
	Store   Store
	Peers   Peers
	Board   Board
	Deletes *Deletes
	Gate    *Gate
	Slices  Slices
	State   func(round int64) State // as this node sees it now
	Leased  func() bool
	Busy    func() bool // whether users' requests are under way
	Observe func(Counts)
	Logger  *slog.Logger

	HealAfter      time.Duration // how long a target is away before what it has is copied again
	DeleteGrace    time.Duration // between the two proofs that a copy may go
	TombstoneGrace time.Duration
	Rate           int64 // bytes a second; 0: as fast as users' requests allow
	Tick           time.Duration
}

// Defaults of a Config.
const (
	DefaultHealAfter      = 10 * time.Second
	DefaultDeleteGrace    = time.Minute
	DefaultTombstoneGrace = time.Hour
)

const (
	tick         = 200 * time.Millisecond
	persistEvery = time.Second
	firstRetry   = 500 * time.Millisecond
	lastRetry    = 20 * time.Second
)

// Healer looks after what lies on one target.
type Healer struct {
	c    Config
	pace *pace
	log  *slog.Logger

	mu     sync.Mutex
	report Report
	bytes  int64 // moved since the process began, for the rate

	// The rest is the work loop's.
	goal    string
	set     set
	known   map[string]string // policy of buckets that everything was placed by, under this set or an earlier one
	buckets map[string]*progress
	hold    time.Time // nothing is moved before
	quiet   int64     // version of the map that no older commit is under way by
	retry   time.Duration
	again   time.Time // when to try again what could not be done
	swept   time.Time // when tombstones were last looked at
	slices  int       // that don't belong here; negative where that is not known yet
	seen    *api.Placer
}

// progress is how far a bucket is under the present set.
type progress struct {
	policy    string
	was       string
	counted   bool
	cursor    string
	walked    bool            // to its end
	left      []string        // names that were not as they should be when they were looked at
	overflow  bool            // there were more
	misplaced map[uint64]bool // what is here and belongs elsewhere, where it has been confirmed once
	confirmed time.Time       // when the last of these was
}

// reset has the bucket be walked from its beginning.
func (p *progress) reset() { *p = progress{policy: p.policy, was: p.was, counted: p.counted} }

// note remembers what is to be looked at again, and what is to go.
func (p *progress) note(k *key, done bool) {
	switch {
	case done && !k.Misplaced:
	case done:
		if p.misplaced == nil {
			p.misplaced = map[uint64]bool{}
		}
		if len(p.misplaced) < maxMisplaced {
			p.misplaced[k.hash()] = true
		}
		p.confirmed = time.Now()
	case len(p.left) < maxLeft:
		p.left = append(p.left, k.info.Name)
	default:
		p.overflow = true
	}
}

func (p *progress) placed() bool { return p.walked && len(p.left) == 0 && !p.overflow }

// New makes a Healer.
func New(c Config) *Healer {
	defaults := func(d *time.Duration, otherwise time.Duration) {
		if *d == 0 {
			*d = otherwise
		}
	}
	defaults(&c.HealAfter, DefaultHealAfter)
	defaults(&c.DeleteGrace, DefaultDeleteGrace)
	defaults(&c.TombstoneGrace, DefaultTombstoneGrace)
	defaults(&c.Tick, tick)
	return &Healer{
		c: c, pace: newPace(c.Rate, c.Busy), log: c.Logger, report: Report{State: api.RebalanceRunning},
		known: map[string]string{}, buckets: map[string]*progress{},
	}
}

// Run works until the context ends. Nothing but that ends it: what can't be done now is tried again.
func (h *Healer) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return h.persist(ctx) })
	group.Go(func() error {
		h.resume(ctx)
		for {
			h.step(ctx)
			if !pause(ctx, h.c.Tick) {
				return nil
			}
		}
	})
	return group.Wait()
}

// Report is how far this target is.
func (h *Healer) Report() Report {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.report
}

// resume goes on where the process that ran here before was, if the goal is still the same.
func (h *Healer) resume(ctx context.Context) {
	for {
		last, found, err := h.c.Board.Read(ctx)
		if err != nil {
			if !pause(ctx, firstRetry) {
				return
			}
			continue
		}
		s := h.c.State(h.c.Board.Control().Round)
		if !found || last.Goal != s.Goal() {
			return
		}
		h.adopt(s)
		h.take(s, last)
		return
	}
}

// take counts as placed what the last report says is.
func (h *Healer) take(s State, last Report) {
	for i := range s.Buckets {
		b := &s.Buckets[i]
		p := h.buckets[b.Name]
		switch {
		case last.Placed && last.Clean || last.Cursor != nil && b.Name < last.Cursor.Bucket:
			p.walked = true
			h.known[b.Name] = p.policy
		case last.Cursor != nil && b.Name == last.Cursor.Bucket:
			p.cursor = last.Cursor.Name
		}
	}
}

// step does what there is to do now.
func (h *Healer) step(ctx context.Context) {
	control := h.c.Board.Control()
	s := h.c.State(control.Round)
	if goal := s.Goal(); goal != h.goal {
		h.adopt(s)
	}
	if h.seen != s.Placer { // a target may be back that was waited for
		h.seen, h.again = s.Placer, time.Time{}
	}
	switch now := time.Now(); {
	case control.Stopped:
		h.show(waiting(api.RebalanceStopped, "", h.Report()))
		return
	case !h.c.Leased():
		h.show(waiting(api.RebalanceWaiting, "this target's lease is over", h.Report()))
		return
	case now.Before(h.hold):
		h.show(waiting(api.RebalanceWaiting, fmt.Sprintf("targets that went down have %v to come back", h.c.HealAfter), h.Report()))
		return
	case now.Before(h.again):
		return
	}
	err := h.work(ctx, s)
	switch {
	case err == nil:
		h.retry = 0
	case ctx.Err() != nil || errors.Is(err, errGoal):
	default:
		h.retry = min(max(2*h.retry, firstRetry), lastRetry)
		h.again = time.Now().Add(h.retry)
		if !errors.Is(err, errLeft) {
			h.log.WarnContext(ctx, "moving objects is tried again", "after", h.retry, "error", err)
		}
	}
}

// adopt begins anew under another goal; what was placed by the same set of targets and the same policy stays so.
func (h *Healer) adopt(s State) {
	now := s.set()
	if now != h.set {
		h.buckets = map[string]*progress{}
		h.hold = time.Time{}
		if s.onlyAway() {
			h.hold = time.Now().Add(h.c.HealAfter)
		}
		if now.round != h.set.round {
			h.known = map[string]string{}
		}
	}
	present := make(map[string]*progress, len(s.Buckets))
	for i := range s.Buckets {
		b := &s.Buckets[i]
		p := h.buckets[b.Name]
		was := b.was()
		if p == nil || p.policy != b.policy() || p.was != was && was != "" {
			p = &progress{policy: b.policy()}
		}
		p.was = was
		present[b.Name] = p
	}
	for name := range h.known {
		if present[name] == nil {
			delete(h.known, name)
		}
	}
	h.buckets, h.set, h.goal, h.retry, h.again, h.slices = present, now, s.Goal(), 0, time.Time{}, -1
	h.mu.Lock()
	defer h.mu.Unlock()
	h.report = Report{Goal: h.goal, Map: s.Placer.Map.Version, State: api.RebalanceRunning, Began: time.Now().UTC()}
}

func (h *Healer) show(r Report) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r.Count, r.Goal, r.Map, r.Rate, r.Cursor = h.report.Count, h.report.Goal, h.report.Map, h.report.Rate, h.report.Cursor
	h.report = r
}

// count changes the counts of the report.
func (h *Healer) count(change func(c *Counts)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	before := h.report.Count
	change(&h.report.Count)
	h.bytes += h.report.Count.Bytes - before.Bytes
	if h.c.Observe != nil {
		now := h.report.Count
		h.c.Observe(Counts{
			Objects: now.Objects - before.Objects, Moved: now.Moved - before.Moved, Bytes: now.Bytes - before.Bytes,
			Deleted: now.Deleted - before.Deleted, Failed: now.Failed - before.Failed,
		})
	}
}

// persist writes the report to the board when it has changed, at most once a second.
func (h *Healer) persist(ctx context.Context) error {
	var written string
	var bytes int64
	last := time.Now()
	for pause(ctx, min(persistEvery, 2*h.c.Tick)) {
		h.mu.Lock()
		now := time.Now()
		moved := float64(h.bytes-bytes) / now.Sub(last).Seconds()
		bytes, last = h.bytes, now
		if h.report.Rate = 0.7*h.report.Rate + 0.3*moved; h.report.Rate < 1 {
			h.report.Rate = 0
		}
		r := h.report
		h.mu.Unlock()
		if r.Goal == "" {
			continue
		}
		if text := fmt.Sprint(r, r.Cursor); text != written {
			if err := h.c.Board.Write(ctx, r); err != nil {
				continue // the control plane is away: later
			}
			written = text
		}
	}
	return nil
}
