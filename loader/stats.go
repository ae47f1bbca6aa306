package loader

import (
	"maps"
	"time"

	"github.com/shardstream/shardstream/core/wire"
)

// maxSkippedKeys bounds the keys that stats keep of skipped samples; the count goes on.
const maxSkippedKeys = 1000

// How a target's payloads travel: over TCP, or through memory that both processes map.
const (
	TransportTCP    = "tcp"
	TransportShared = "shared_memory"
)

// Rates are what went by in the last seconds.
type Rates struct {
	Seconds   float64 `json:"seconds"`
	SamplesPS float64 `json:"samples_per_s"`
	BytesPS   float64 `json:"bytes_per_s"`
	WaitShare float64 `json:"wait_share"` // of the time, the consumer spent in Next
}

// TargetStats counts what one target sent.
type TargetStats struct {
	Transport  string `json:"transport"` // of the last stream: TransportTCP or TransportShared
	Samples    int64  `json:"samples"`
	Bytes      int64  `json:"bytes"`
	Reconnects int64  `json:"reconnects"`
	// Of what travelled compressed: bytes of samples, and bytes that they took.
	CompressedFrom int64 `json:"compressed_from"`
	CompressedTo   int64 `json:"compressed_to"`

	SamplesPS   float64 `json:"samples_per_s"`
	BytesPS     float64 `json:"bytes_per_s"`
	WaitSeconds float64 `json:"wait_s"` // the consumer spent on batches that this target completed
	Recent      Rates   `json:"recent"`
	Work        Work    `json:"work"`
}

// Work is what a target says that it spent on the stream: seconds of the side that prepares batches and of
// the one that sends them, which run side by side.
type Work struct {
	Plan   float64 `json:"plan_s"` // finding samples, opening shards
	Read   float64 `json:"read_s"` // reading stored bytes to transform or verify them
	ETL    float64 `json:"etl_s"`
	Send   float64 `json:"send_s"`       // blocked included
	Full   float64 `json:"blocked_s"`    // waiting for the connection to take more
	Idle   float64 `json:"idle_s"`       // nothing prepared to send
	Stored int64   `json:"stored_bytes"` // that the node read from its disks meanwhile
}

func workOf(w wire.Work) Work {
	s := func(ns int64) float64 { return time.Duration(ns).Seconds() }
	return Work{Plan: s(w.Plan), Read: s(w.Read), ETL: s(w.ETL), Send: s(w.Send), Full: s(w.Full), Idle: s(w.Idle), Stored: w.Stored}
}

// Queue says how full the window of batches is.
type Queue struct {
	Ready      int `json:"ready"`      // complete
	Assembling int `json:"assembling"` // begun
	Window     int `json:"window"`     // Config.Prefetch: at most so many of both
	Held       int `json:"held"`       // by the consumer
}

// Stats counts what a loader did over all its iterations.
type Stats struct {
	Snapshot    string                 `json:"snapshot"`
	Order       Order                  `json:"order"`
	Batches     int64                  `json:"batches"`
	Samples     int64                  `json:"samples"` // those that pad a batch apart
	Bytes       int64                  `json:"bytes"`
	WaitSeconds float64                `json:"wait_s"` // the consumer spent in Next
	RunSeconds  float64                `json:"run_s"`  // iterations were running
	WaitShare   float64                `json:"wait_share"`
	SamplesPS   float64                `json:"samples_per_s"`
	BytesPS     float64                `json:"bytes_per_s"`
	Retries     int64                  `json:"retries"`
	Skipped     int64                  `json:"skipped"`
	SkippedKeys []string               `json:"skipped_keys"`
	ByCode      map[string]int64       `json:"skipped_by_code"`
	Targets     map[string]TargetStats `json:"targets"`
	Queue       Queue                  `json:"queue"`
	Recent      Rates                  `json:"recent"`   // of the running iteration
	BoundBy     string                 `json:"bound_by"` // one of the Bound constants; empty before the first iteration
	Advice      string                 `json:"advice"`   // a sentence on that, for people
}

// targetCount is TargetStats under way.
type targetCount struct {
	TargetStats
	waited time.Duration // by the consumer, for this target
	work   wire.Work
	trail  trail
}

func (t *targetCount) point(now time.Time) point {
	return point{at: now, waited: t.waited, samples: t.Samples, bytes: t.Bytes, work: t.work}
}

// counters are Stats under way; guarded by their iteration's mutex.
type counters struct {
	snapshot                         string
	order                            Order
	batches, samples, bytes, retries int64
	skipped                          int64
	skippedKeys                      []string
	byCode                           map[string]int64 // of skipped
	lastSkipped                      SampleError
	wait, ran                        time.Duration
	started, stopped                 time.Time
	looked                           time.Time // the consumer's last call of Next ended
	trail                            trail     // from the first batch on
	targets                          map[string]*targetCount
}

func (c *counters) point(now time.Time) point {
	return point{at: now, waited: c.wait, samples: c.samples, bytes: c.bytes}
}

func (c *counters) skip(f *failure, pos int64) {
	c.skipped++
	if len(c.skippedKeys) < maxSkippedKeys {
		c.skippedKeys = append(c.skippedKeys, f.key)
	}
	if c.byCode == nil {
		c.byCode = make(map[string]int64)
	}
	c.byCode[f.code]++
	c.lastSkipped = SampleError{Key: f.key, Position: pos, Code: f.code, Message: f.message}
}

func (c *counters) of(id string) *targetCount {
	t := c.targets[id]
	if t == nil {
		if c.targets == nil {
			c.targets = make(map[string]*targetCount)
		}
		t = &targetCount{}
		t.trail.add(t.point(time.Now()))
		c.targets[id] = t
	}
	return t
}

func (c *counters) target(id string, edit func(*TargetStats)) { edit(&c.of(id).TargetStats) }

// add folds a finished iteration into the total.
func (c *counters) add(o counters) {
	if o.snapshot != "" {
		c.snapshot, c.order = o.snapshot, o.order
	}
	c.batches += o.batches
	c.samples += o.samples
	c.bytes += o.bytes
	c.retries += o.retries
	c.wait += o.wait
	c.ran += o.ran + o.elapsed()
	c.skipped += o.skipped
	for _, k := range o.skippedKeys {
		if len(c.skippedKeys) < maxSkippedKeys {
			c.skippedKeys = append(c.skippedKeys, k)
		}
	}
	for code, n := range o.byCode {
		if c.byCode == nil {
			c.byCode = make(map[string]int64)
		}
		c.byCode[code] += n
	}
	for id, t := range o.targets {
		s := c.of(id)
		s.Transport = t.Transport
		s.Samples += t.Samples
		s.Bytes += t.Bytes
		s.CompressedFrom += t.CompressedFrom
		s.CompressedTo += t.CompressedTo
		s.Reconnects += t.Reconnects
		s.waited += t.waited
		s.work.Add(t.work)
	}
}

func (c *counters) elapsed() time.Duration {
	switch {
	case c.started.IsZero():
		return 0
	case c.stopped.IsZero():
		return time.Since(c.started)
	default:
		return c.stopped.Sub(c.started)
	}
}

func (it *iteration) count(edit func(*counters)) {
	it.mu.Lock()
	edit(&it.counters)
	it.mu.Unlock()
}

// marked notes what a target says of its work since its last mark.
func (it *iteration) marked(node string, w wire.Work) {
	it.count(func(c *counters) {
		t := c.of(node)
		t.work.Add(w)
		t.trail.add(t.point(time.Now()))
	})
}

// waited notes that the consumer spent time in Next, and whether it got a batch. What it spent on one batch
// goes to the account of the target that filled the batch's last place.
func (it *iteration) waited(d time.Duration, delivered bool) {
	now := time.Now()
	it.count(func(c *counters) {
		c.wait += d
		c.looked = now
		it.patience += d
		if !delivered {
			return
		}
		if it.lastBy != "" {
			c.of(it.lastBy).waited += it.patience
		}
		it.patience = 0
		c.trail.add(c.point(now))
	})
}

func (it *iteration) snapshotCounters() counters {
	it.mu.Lock()
	defer it.mu.Unlock()
	c := it.counters
	c.skippedKeys = append([]string(nil), c.skippedKeys...)
	c.byCode = maps.Clone(c.byCode)
	c.targets = make(map[string]*targetCount, len(it.counters.targets))
	for id, t := range it.counters.targets {
		own := *t
		c.targets[id] = &own
	}
	return c
}

// queue looks at the window.
func (it *iteration) queue() Queue {
	it.mu.Lock()
	defer it.mu.Unlock()
	q := Queue{}
	for _, b := range it.window {
		if b.complete() {
			q.Ready++
		} else {
			q.Assembling++
		}
	}
	return q
}

// Stats returns the counts so far, of finished iterations and of the one that runs.
func (l *Loader) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	var c, run counters
	c.add(l.total)
	s := Stats{}
	if l.run != nil {
		run = l.run.snapshotCounters()
		c.add(run)
		s.Queue = l.run.queue()
		s.Recent = run.trail.rates(run.point(run.looked))
		s.BoundBy, s.Advice = verdict(&run, l.cfg.ETL)
	}
	s.Queue.Window, s.Queue.Held = l.cfg.Prefetch, l.arena.held()
	s.Snapshot, s.Order = c.snapshot, c.order
	s.Batches, s.Samples, s.Bytes = c.batches, c.samples, c.bytes
	s.WaitSeconds, s.RunSeconds, s.Retries = c.wait.Seconds(), c.ran.Seconds(), c.retries
	s.Skipped, s.SkippedKeys, s.ByCode = c.skipped, append([]string{}, c.skippedKeys...), c.byCode
	if s.ByCode == nil {
		s.ByCode = map[string]int64{}
	}
	s.WaitShare = ratio(s.WaitSeconds, s.RunSeconds)
	s.SamplesPS, s.BytesPS = ratio(float64(s.Samples), s.RunSeconds), ratio(float64(s.Bytes), s.RunSeconds)
	s.Targets = make(map[string]TargetStats, len(c.targets))
	for id, t := range c.targets {
		out := t.TargetStats
		out.WaitSeconds, out.Work = t.waited.Seconds(), workOf(t.work)
		out.SamplesPS, out.BytesPS = ratio(float64(out.Samples), s.RunSeconds), ratio(float64(out.Bytes), s.RunSeconds)
		if now := run.targets[id]; now != nil {
			out.Recent = now.trail.rates(now.point(run.looked))
		}
		s.Targets[id] = out
	}
	return s
}

func ratio(a, b float64) float64 {
	if b <= 0 {
		return 0
	}
	return a / b
}
