package heal

import (
	"context"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
)

// Report is how far a target is with what lies on it. It is small, and all that others know of its passes.
type Report struct {
	Goal  string `json:"goal"` // see State.Goal
	Map   int64  `json:"map"`
	State string `json:"state"` // as in api.Rebalance
	// Placed: whatever this target has is with all that are to have it. Clean: and it has nothing else. Empty: and
	// nothing at all.
	Placed  bool     `json:"placed"`
	Clean   bool     `json:"clean"`
	Empty   bool     `json:"empty"`
	Reasons []string `json:"reasons,omitempty"` // what it waits for
	// Cursor is a bucket, and a name in it, up to which everything is placed: where a pass goes on after a restart.
	Cursor *Cursor   `json:"cursor,omitempty"`
	Count  Counts    `json:"count"`
	Rate   float64   `json:"rate"` // bytes a second
	Began  time.Time `json:"began,omitzero"`
}

// Cursor is a place in the index.
type Cursor struct {
	Bucket string `json:"bucket"`
	Name   string `json:"name"`
}

// Counts are a pass's.
type Counts struct {
	Objects int64  `json:"objects"` // looked at
	Total   int64  `json:"total"`
	Moved   int64  `json:"moved"` // copies made elsewhere
	Bytes   int64  `json:"bytes"`
	Deleted int64  `json:"deleted"`
	Failed  int64  `json:"failed"` // copies that could not be made
	Left    int64  `json:"left"`   // keys that are not as they should be yet
	Detail  string `json:"detail,omitempty"`
}

// Control is what people want of heal.
type Control struct {
	Stopped bool  `json:"stopped,omitempty"`
	Round   int64 `json:"round,omitempty"` // raised to have everything looked at again
}

// Board is where a target writes how far it is, and reads what people want.
type Board interface {
	Write(ctx context.Context, r Report) error
	// Read is this target's report from before it was started again; false where there is none.
	Read(ctx context.Context) (Report, bool, error)
	Control() Control
}

// waiting reports why nothing is done now.
func waiting(state, reason string, r Report) Report {
	r.State, r.Reasons = state, nil
	if reason != "" {
		r.Reasons = []string{reason}
	}
	return r
}

// target renders the report for people.
func (r *Report) target(id string) api.RebalanceTarget {
	return api.RebalanceTarget{
		ID: id, State: r.State, Objects: r.Count.Objects, Total: r.Count.Total, Moved: r.Count.Moved, Bytes: r.Count.Bytes,
		Deleted: r.Count.Deleted, Failed: r.Count.Failed, Detail: r.Count.Detail,
	}
}

// eta is how many seconds are left, as far as that can be told: as the objects went until now.
func (r *Report) eta() float64 {
	took := time.Since(r.Began).Seconds()
	if r.State != api.RebalanceRunning || r.Count.Objects == 0 || r.Count.Objects >= r.Count.Total || r.Began.IsZero() {
		return 0
	}
	return took * float64(r.Count.Total-r.Count.Objects) / float64(r.Count.Objects)
}
