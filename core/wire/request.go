package wire

import (
	"encoding/json"
	"errors"
	"fmt"
)

// What a loader may ask for about compression: never, where it pays, or wherever bytes shrink.
const (
	CompressOff    = "off"
	CompressAuto   = "auto"
	CompressAlways = "lz4"
)

// ReadRequest opens a stream on a target: which part of which epoch, in whose view. It is the JSON
// body of the upgraded POST /v1/streams/{snapshot}/read.
type ReadRequest struct {
	Epoch   uint64 `json:"epoch"`
	Seed    uint64 `json:"seed"`
	Shuffle string `json:"shuffle"`
	Slices  int    `json:"slices,omitempty"`
	Window  int    `json:"window,omitempty"`

	Start     int64 `json:"start"` // position in samples at which this run of the epoch began
	BatchSize int   `json:"batch_size"`
	World     int   `json:"world"`
	Rank      int   `json:"rank"`
	Workers   int   `json:"workers"`
	Worker    int   `json:"worker"`
	DropLast  bool  `json:"drop_last"`

	From  int64 `json:"from"`  // first batch of the view to send
	To    int64 `json:"to"`    // one past the last
	Chunk int   `json:"chunk"` // batches between chunk marks

	// Objects says that the snapshot's shards are no archives but one sample each.
	Objects bool `json:"objects,omitempty"`

	// ETL names the transformations that samples go through, in order, separated by commas.
	ETL string `json:"etl,omitempty"`
	// ETLArgs are their arguments: a JSON object, of several transformations a list with one, or null, for each.
	ETLArgs json.RawMessage `json:"etl_args,omitempty"`
	Fields  []string        `json:"fields,omitempty"`
	// Decode says how fields are decoded; see core/decode.
	Decode map[string]any `json:"decode,omitempty"`

	// Share offers the loader's memory: large payloads may come as Placed frames. Only over a Unix socket.
	Share bool `json:"share,omitempty"`
	// Mixture, when set, takes the place of Shuffle and ETL.
	Mixture *Mixture `json:"mixture,omitempty"`

	// Compress says when payloads may come as LZ4 frames; empty is CompressOff.
	Compress string `json:"compress,omitempty"`

	// Slots, when set, asks for these places of batch From only: samples that were missing or damaged.
	Slots []int `json:"slots,omitempty"`
	// Verify reads through the block checksums, so that damage is named by object and block.
	Verify bool `json:"verify,omitempty"`
}

// Mixture is an epoch over several parts of the snapshot; what it means, and its bounds, are the sampler's.
type Mixture struct {
	Interleave string `json:"interleave"`
	Unit       int64  `json:"unit,omitempty"`
	Parts      []Part `json:"parts"`
}

// Part is the shards that follow those of the parts before it.
type Part struct {
	Shards  int64           `json:"shards"`
	Draws   int64           `json:"draws"` // samples of an epoch
	Shuffle string          `json:"shuffle"`
	Slices  int             `json:"slices,omitempty"` // 0: those of the request
	Window  int             `json:"window,omitempty"`
	ETL     string          `json:"etl,omitempty"`
	ETLArgs json.RawMessage `json:"etl_args,omitempty"`
}

// Validate bounds what a target computes for a request; the view's own rules are the sampler's.
func (r *ReadRequest) Validate() error {
	switch {
	case r.BatchSize < 1 || r.BatchSize > MaxSamples:
		return fmt.Errorf("batch_size %d is not in 1..%d", r.BatchSize, MaxSamples)
	case r.From < 0 || r.To < r.From:
		return fmt.Errorf("batches %d to %d are not a range", r.From, r.To)
	case r.Chunk < 1:
		return fmt.Errorf("chunk %d is not positive", r.Chunk)
	case r.Mixture != nil && (r.Shuffle != "" || r.ETL != "" || len(r.ETLArgs) > 0):
		return errors.New("shuffle and etl are of the parts, where there is a mixture")
	case len(r.Slots) > 0 && r.To != r.From+1:
		return fmt.Errorf("slots ask for one batch, not for %d to %d", r.From, r.To)
	case len(r.Slots) > r.BatchSize:
		return fmt.Errorf("%d slots in a batch of %d", len(r.Slots), r.BatchSize)
	case r.Compress != "" && r.Compress != CompressOff && r.Compress != CompressAuto && r.Compress != CompressAlways:
		return fmt.Errorf("compress must be %q, %q or %q, not %.20q", CompressAuto, CompressAlways, CompressOff, r.Compress)
	case len(r.Fields) > MaxFields:
		return fmt.Errorf("%d fields, at most %d", len(r.Fields), MaxFields)
	}
	for _, s := range r.Slots {
		if s < 0 || s >= r.BatchSize {
			return fmt.Errorf("slot %d is not in a batch of %d", s, r.BatchSize)
		}
	}
	return nil
}
