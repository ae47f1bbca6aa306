package sampler

import "fmt"

// Interleave says how the draws of a mixture's parts share the positions of an epoch.
type Interleave uint8

const (
	// Random permutes all draws of an epoch, as if the parts were one data set.
	Random Interleave = iota
	// Stratified gives each part its share of every stretch of positions, so of every batch at any batch
	// size and world size, and keeps the order of each part. It is nearly periodic: where a rank's batch
	// is smaller than the number of parts, a rank may get some parts always and others never.
	Stratified
	// PerSource takes units of positions from one part each, the parts nearly as evenly as Stratified does,
	// and keeps the order of each part.
	PerSource
)

var interleaveNames = [...]string{Random: "random", Stratified: "stratified", PerSource: "per_source"}

// ParseInterleave reads a name: "random", "stratified" or "per_source".
func ParseInterleave(s string) (Interleave, error) {
	for v, name := range interleaveNames {
		if s == name {
			return Interleave(v), nil
		}
	}
	return 0, fmt.Errorf(`sampler: unknown interleave %q, expected "random", "stratified" or "per_source"`, s)
}

func (v Interleave) String() string {
	if int(v) < len(interleaveNames) {
		return interleaveNames[v]
	}
	return fmt.Sprintf("Interleave(%d)", uint8(v))
}
