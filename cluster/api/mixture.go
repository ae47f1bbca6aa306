package api

import "encoding/json"

// Mixture describes an epoch over several sources. All of them have a weight, or none has; where no
// number is given, each source gives all its samples once.
type Mixture struct {
	Sources    []MixtureSource `json:"sources"`
	Interleave string          `json:"interleave,omitempty"` // random (the default), stratified, per_source
	// Samples of an epoch, shared out by weight; 0 is as many as all sources have.
	Samples int64 `json:"samples,omitempty"`
}

// MixtureSource is one source of a mixture, with at most one of weight, repeat and samples.
type MixtureSource struct {
	Sources []string `json:"sources"`           // ss:// addresses, braces and globs
	Weight  *float64 `json:"weight,omitempty"`  // its share of the epoch, relative to the other weights
	Repeat  *float64 `json:"repeat,omitempty"`  // times that its samples come in an epoch
	Samples *int64   `json:"samples,omitempty"` // that it gives an epoch
	// Shuffle, Slices and Window are as in StreamRequest. Under interleave random, "" is global.
	Shuffle string `json:"shuffle,omitempty"`
	Slices  int    `json:"slices,omitempty"`
	Window  int    `json:"window,omitempty"`
	// ETL and ETLArgs are what its samples go through, as in StreamRequest.
	ETL     string          `json:"etl,omitempty"`
	ETLArgs json.RawMessage `json:"etl_args,omitempty"`
}

// MixtureInfo is a mixture in exact numbers: all that the order of its epochs depends on, apart from
// snapshot, seed and epoch.
type MixtureInfo struct {
	Interleave string        `json:"interleave"`
	Unit       int64         `json:"unit,omitempty"` // positions in a row that one part gives; per_source only
	Parts      []MixturePart `json:"parts"`
}

// MixturePart is a source of a mixture: its shards follow those of the parts before it in the snapshot.
type MixturePart struct {
	Shards  int64  `json:"shards"`
	Samples int64  `json:"samples"` // that it has
	Draws   int64  `json:"draws"`   // samples that it gives an epoch
	Shuffle string `json:"shuffle"`
	Slices  int    `json:"slices,omitempty"` // as in StreamInfo
	Window  int    `json:"window,omitempty"`
	ETL     string `json:"etl,omitempty"`
	// ETLArgs are the arguments of the part's transformation.
	ETLArgs json.RawMessage `json:"etl_args,omitempty"`
	// ETLVersion is that of the part's transformation, 0 without one.
	ETLVersion int64 `json:"etl_version,omitempty"`
}
