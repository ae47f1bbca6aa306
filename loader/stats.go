package loader

import (
	"maps"
	"time"
)

// maxSkippedKeys bounds the keys that stats keep of skipped samples; the count goes on.
const maxSkippedKeys = 1000

// How a target's payloads travel: over TCP, or through memory that both processes map.
const (
	TransportTCP    = "tcp"
	TransportShared = "shared_memory"
)

// TargetStats counts what one target sent.
type TargetStats struct {
	Transport  string `json:"transport"` // of the last stream: TransportTCP or TransportShared
	Samples    int64  `json:"samples"`
	Bytes      int64  `json:"bytes"`
	Reconnects int64  `json:"reconnects"`
	// Of what travelled compressed: bytes of samples, and bytes that they took.
	CompressedFrom int64 `json:"compressed_from"`
	CompressedTo   int64 `json:"compressed_to"`
}

// Stats counts what a loader did over all its iterations.
type Stats struct {
	Snapshot    string                 `json:"snapshot"`
	Batches     int64                  `json:"batches"`
	Samples     int64                  `json:"samples"`
	Bytes       int64                  `json:"bytes"`
	WaitSeconds float64                `json:"wait_s"` // the consumer spent in Next
	RunSeconds  float64                `json:"run_s"`  // iterations were running
	Retries     int64                  `json:"retries"`
	Skipped     int64                  `json:"skipped"`
	SkippedKeys []string               `json:"skipped_keys"`
	Targets     map[string]TargetStats `json:"targets"`
}

// counters are Stats under way; guarded by their iteration's mutex.
type counters struct {
	snapshot                         string
	batches, samples, bytes, retries int64
	skipped                          int64
	skippedKeys                      []string
	wait, ran                        time.Duration
	started, stopped                 time.Time
	targets                          map[string]TargetStats
}

func (c *counters) skip(key string) {
	c.skipped++
	if len(c.skippedKeys) < maxSkippedKeys {
		c.skippedKeys = append(c.skippedKeys, key)
	}
}

func (c *counters) target(id string, edit func(*TargetStats)) {
	if c.targets == nil {
		c.targets = make(map[string]TargetStats)
	}
	t := c.targets[id]
	edit(&t)
	c.targets[id] = t
}

// add folds a finished iteration into the total.
func (c *counters) add(o counters) {
	if o.snapshot != "" {
		c.snapshot = o.snapshot
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
	for id, t := range o.targets {
		c.target(id, func(s *TargetStats) {
			s.Transport = t.Transport
			s.Samples += t.Samples
			s.Bytes += t.Bytes
			s.Reconnects += t.Reconnects
			s.CompressedFrom += t.CompressedFrom
			s.CompressedTo += t.CompressedTo
		})
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

func (it *iteration) snapshotCounters() counters {
	it.mu.Lock()
	defer it.mu.Unlock()
	c := it.counters
	c.skippedKeys = append([]string(nil), c.skippedKeys...)
	c.targets = maps.Clone(c.targets)
	return c
}

// Stats returns the counts so far, of finished iterations and of the one that runs.
func (l *Loader) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	var c counters
	c.add(l.total)
	if l.run != nil {
		c.add(l.run.snapshotCounters())
	}
	return Stats{
		Snapshot: c.snapshot, Batches: c.batches, Samples: c.samples, Bytes: c.bytes,
		WaitSeconds: c.wait.Seconds(), RunSeconds: c.ran.Seconds(), Retries: c.retries,
		Skipped: c.skipped, SkippedKeys: append([]string{}, c.skippedKeys...), Targets: c.targets,
	}
}
