package api

import "time"

// States of a transformation on a target; of the whole it is the one that comes last here.
const (
	ETLReady       = "ready"
	ETLNew         = "new" // not asked for anything yet
	ETLStarting    = "starting"
	ETLBuilding    = "building"    // its environment or image is being made
	ETLUnreachable = "unreachable" // the target does not answer
	ETLFailed      = "failed"
)

// ETLStatus is how a transformation is on the targets: GET /v1/etls/{name}/status. A list has no Targets.
type ETLStatus struct {
	State   string      `json:"state"`   // the worst of all targets
	Ready   int         `json:"ready"`   // targets on which it is ready
	Wanted  int         `json:"wanted"`  // targets that are up
	Stats   ETLStats    `json:"stats"`   // of all targets together
	Targets []ETLTarget `json:"targets"` // sorted by id
}

// ETLTarget is how a transformation is on one target.
type ETLTarget struct {
	ID      string    `json:"id"`
	Version int64     `json:"version,omitempty"` // that it runs; 0: none yet
	Health  ETLHealth `json:"health"`
	Stats   ETLStats  `json:"stats"` // since this version was taken over or the target started
	// Candidate is how far a version is that is being tried before it is deployed.
	Candidate *ETLHealth `json:"candidate,omitempty"`
}

// ETLHealth is a state and what is to say about it.
type ETLHealth struct {
	State     string    `json:"state"`
	Detail    string    `json:"detail,omitempty"` // one line: what is being built, why it failed
	Since     time.Time `json:"since"`
	Isolation string    `json:"isolation,omitempty"` // the level in force
	Confined  []string  `json:"confined,omitempty"`  // what confines it
	Python    string    `json:"python,omitempty"`    // version that a function runs under
}

// ETLStats are counts of a transformation.
type ETLStats struct {
	Workers  int        `json:"workers"` // processes wanted, or requests at once
	Running  int        `json:"running"`
	Requests int64      `json:"requests"`
	Samples  int64      `json:"samples"`
	Errors   int64      `json:"errors"`
	Restarts int64      `json:"restarts"` // processes that died or were killed
	Timeouts int64      `json:"timeouts"`
	BytesIn  int64      `json:"bytes_in"`
	BytesOut int64      `json:"bytes_out"`
	Waiting  int64      `json:"waiting"` // samples that are not answered yet
	BusyS    float64    `json:"busy_s"`  // summed over workers
	Latency  ETLLatency `json:"latency"`
}

// ETLLatency is how long calls took. Percentiles are upper bounds of the buckets that they fall into, the last finite
// one where there is none.
type ETLLatency struct {
	BoundsS []float64 `json:"bounds_s,omitempty"` // of the buckets but the last, which has none
	Counts  []int64   `json:"counts,omitempty"`   // by bucket
	SumS    float64   `json:"sum_s"`
	MeanS   float64   `json:"mean_s"`
	P50S    float64   `json:"p50_s"`
	P99S    float64   `json:"p99_s"`
}

// Add adds the counts of another target.
func (s *ETLStats) Add(o *ETLStats) {
	s.Workers += o.Workers
	s.Running += o.Running
	s.Requests += o.Requests
	s.Samples += o.Samples
	s.Errors += o.Errors
	s.Restarts += o.Restarts
	s.Timeouts += o.Timeouts
	s.BytesIn += o.BytesIn
	s.BytesOut += o.BytesOut
	s.Waiting += o.Waiting
	s.BusyS += o.BusyS
	s.Latency.add(&o.Latency)
}

func (l *ETLLatency) add(o *ETLLatency) {
	if len(l.Counts) == 0 {
		l.BoundsS, l.Counts = o.BoundsS, make([]int64, len(o.Counts))
	}
	if len(l.Counts) == len(o.Counts) { // else a target of another release
		for i, n := range o.Counts {
			l.Counts[i] += n
		}
		l.SumS += o.SumS
	}
	l.Summarize()
}

// Summarize computes mean and percentiles from the buckets.
func (l *ETLLatency) Summarize() {
	var all int64
	for _, n := range l.Counts {
		all += n
	}
	l.MeanS, l.P50S, l.P99S = 0, 0, 0
	if all == 0 {
		return
	}
	l.MeanS, l.P50S, l.P99S = l.SumS/float64(all), l.percentile(all, 50), l.percentile(all, 99)
}

func (l *ETLLatency) percentile(all, percent int64) float64 {
	var seen int64
	for i, n := range l.Counts {
		if seen += n; seen*100 >= all*percent && i < len(l.BoundsS) {
			return l.BoundsS[i]
		}
	}
	if len(l.BoundsS) == 0 {
		return 0
	}
	return l.BoundsS[len(l.BoundsS)-1]
}

// ETLAttempt is a target's word on a definition that it tries before it is deployed. Between nodes.
type ETLAttempt struct {
	Done   bool      `json:"done"`
	Health ETLHealth `json:"health"`
	Error  *Error    `json:"error,omitempty"`  // why it can't be made ready
	Status int       `json:"status,omitempty"` // of the error
}
