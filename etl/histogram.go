package etl

import (
	"sync/atomic"
	"time"
)

// latencyBounds are the upper bounds of a Histogram's buckets.
var latencyBounds = [...]time.Duration{
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond,
	50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond, time.Second,
	2500 * time.Millisecond, 5 * time.Second, 10 * time.Second, 30 * time.Second, time.Minute,
}

// Histogram is a count of durations by bucket.
type Histogram struct {
	Counts [len(latencyBounds) + 1]int64 // by bucket, not cumulative; the last has no upper bound
	Sum    time.Duration
}

// HistogramBounds are the upper bounds of the buckets but the last.
func HistogramBounds() []time.Duration { return latencyBounds[:] }

// Count is the number of durations.
func (h *Histogram) Count() int64 {
	var n int64
	for _, c := range h.Counts {
		n += c
	}
	return n
}

// Meter counts durations. The zero value is ready; it is safe for concurrent use.
type Meter struct {
	counts [len(latencyBounds) + 1]atomic.Int64
	sum    atomic.Int64
}

// Observe counts one duration.
func (m *Meter) Observe(d time.Duration) {
	i := 0
	for i < len(latencyBounds) && d > latencyBounds[i] {
		i++
	}
	m.counts[i].Add(1)
	m.sum.Add(int64(d))
}

// Histogram is what was counted.
func (m *Meter) Histogram() Histogram {
	h := Histogram{Sum: time.Duration(m.sum.Load())}
	for i := range h.Counts {
		h.Counts[i] = m.counts[i].Load()
	}
	return h
}
