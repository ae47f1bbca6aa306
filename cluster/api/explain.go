package api

import (
	"context"
	"net/http"
)

// ExplainRequest asks which samples a stream yields: POST /v1/streams/explain. It names a batch of the rank's
// epoch, or a range of the epoch's positions.
type ExplainRequest struct {
	StreamRequest // of its epoch
	// Snapshot is that of the run that is asked about; empty: of the sources as they are now.
	Snapshot string `json:"snapshot,omitempty"`
	Start    int64  `json:"start,omitempty"`    // position at which the run began or was resumed
	Batch    int64  `json:"batch"`              // of the rank, counted from Start
	Position *int64 `json:"position,omitempty"` // where set, instead of a batch
	Count    int64  `json:"count,omitempty"`    // positions; 1 where 0
}

// Explanation is where the samples of a batch, or at some positions, come from.
type Explanation struct {
	Snapshot string `json:"snapshot"`
	Seed     uint64 `json:"seed"`
	Epoch    uint64 `json:"epoch"`
	// Shuffle is the one that was asked for or chosen; Slices and Window are those of a window that is not the default.
	Shuffle   string `json:"shuffle"`
	Slices    int    `json:"slices,omitempty"`
	Window    int    `json:"window,omitempty"`
	Rank      int    `json:"rank"`
	WorldSize int    `json:"world_size"`
	Batch     int64  `json:"batch"`    // -1 where positions were asked for
	Position  int64  `json:"position"` // of the first sample
	Next      int64  `json:"next"`     // what a checkpoint behind it stores
	// Padding says that the rank has no sample in this step and repeats one that is another's, masked.
	Padding bool              `json:"padding"`
	Samples []ExplainedSample `json:"samples"`
}

// ExplainedSample is where one sample comes from.
type ExplainedSample struct {
	Position int64  `json:"position"` // in the epoch
	Sample   int64  `json:"sample"`   // number in the snapshot
	Shard    string `json:"shard"`    // ss://bucket/key
	Version  uint64 `json:"version"`  // of the shard
	Index    int64  `json:"index"`    // in the shard
	Key      string `json:"key"`      // empty where Error says why
	Target   string `json:"target"`   // that holds the shard, or should
	Error    string `json:"error,omitempty"`
	Source   *int   `json:"source,omitempty"` // number of the mixture's source
}

// KeyQuery asks a target for the keys of samples of the shards that it has; between nodes.
type KeyQuery struct {
	Shards  []ShardSamples `json:"shards"`
	Objects bool           `json:"objects,omitempty"` // the shards are objects that are one sample each
}

// ShardSamples names samples of a shard by their index in it.
type ShardSamples struct {
	Name    string  `json:"name"` // bucket/key
	Version uint64  `json:"version"`
	Samples int64   `json:"samples"` // in the shard
	Indexes []int64 `json:"indexes"`
}

// KeyAnswer has an entry for each shard of a KeyQuery, in its order.
type KeyAnswer struct {
	Shards []ShardKeys `json:"shards"`
}

// ShardKeys are the keys of the samples that were asked for, in order, unless the shard is not there or
// can't be read.
type ShardKeys struct {
	Absent bool     `json:"absent,omitempty"`
	Error  string   `json:"error,omitempty"`
	Keys   [][]byte `json:"keys,omitempty"` // names of members are bytes
}

// Explain asks where the samples of a stream come from.
func (c *Client) Explain(ctx context.Context, r ExplainRequest) (Explanation, error) {
	var e Explanation
	err := c.retry(ctx, func() error {
		return c.call(ctx, http.MethodPost, "/v1/streams/explain", nil, r, &e)
	})
	return e, err
}
