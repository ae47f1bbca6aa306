package api

// Evicted is what an eviction came to: whole copies of erasure-coded objects that were taken away, so that only
// their slices are left.
type Evicted struct {
	Objects int64 `json:"objects"`
	Bytes   int64 `json:"bytes"`
	// Kept are those that stay, as not all of their slices are confirmed to be on targets that are up.
	Kept int64 `json:"kept"`
}

// Add adds what was evicted elsewhere.
func (e *Evicted) Add(o Evicted) {
	e.Objects += o.Objects
	e.Bytes += o.Bytes
	e.Kept += o.Kept
}
