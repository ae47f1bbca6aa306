package jobs

import "github.com/shardstream/shardstream/cluster/api"

// Bounds of what is kept of failures, for a job and for each target's part of it.
const (
	MaxFailures      = 1000
	maxFailureBytes  = 512 << 10 // of all of them; etcd takes 1.5 MB at once
	maxFailureReason = 2 << 10   // of one
)

// Part is how far a target is with the objects that it is the primary of under one ring (see api.Placer.Ring). All
// names up to and with the cursor are dealt with, and counted; what is beyond is not counted, even where it is done.
type Part struct {
	Cursor   string `json:"cursor,omitempty"`
	Done     bool   `json:"done,omitempty"`
	Stored   int64  `json:"stored,omitempty"`
	Skipped  int64  `json:"skipped,omitempty"`
	Failed   int64  `json:"failed,omitempty"`
	BytesIn  int64  `json:"bytes_in,omitempty"`
	BytesOut int64  `json:"bytes_out,omitempty"`
	Repaired int64  `json:"repaired,omitempty"`
	Total    int64  `json:"total,omitempty"` // where the target counts what is its part
}

// PartRequest asks a target to work on its part of a job, and how far it is. It is made again and again while the job
// runs: a target that is not asked any more stops.
type PartRequest struct {
	Spec       api.JobSpec `json:"spec"`
	ETLVersion int64       `json:"etl_version"`
	Ring       string      `json:"ring"` // whose part it is about; a target that goes by another map has none
	From       Part        `json:"from"` // where to begin, if the target is not at work on it
	// Run is the report's that came last, Seen how many of its failures the caller has.
	Run  string `json:"run,omitempty"`
	Seen int    `json:"seen,omitempty"`
}

// PartReport is the answer.
type PartReport struct {
	Run      string           `json:"run"` // changes when the target begins anew, as after its own restart
	Part     Part             `json:"part"`
	Failures []api.JobFailure `json:"failures,omitempty"` // that the caller has not seen
	Waiting  []string         `json:"waiting,omitempty"`
	Error    *api.Error       `json:"error,omitempty"` // ends the job
}

// Failures gathers the first failures of a job, each object once.
type Failures struct {
	List  []api.JobFailure
	known map[string]bool
	bytes int
}

// Add takes a failure, and says whether there was room for it.
func (f *Failures) Add(failure api.JobFailure) bool {
	if f.known == nil {
		f.known = make(map[string]bool)
	}
	reason := *failure.Error
	reason.Message = clip(reason.Message, maxFailureReason)
	failure.Error = &reason
	n := len(failure.Object) + len(failure.Node) + len(reason.Message) + 100
	if f.known[failure.Object] || len(f.List) == MaxFailures || f.bytes+n > maxFailureBytes {
		return false
	}
	f.known[failure.Object] = true
	f.bytes += n
	f.List = append(f.List, failure)
	return true
}

// clip keeps both ends of a long text: a traceback begins with where, and ends with what.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return toValid(s[:n/2]) + " ... " + toValid(s[len(s)-n/2:])
}
