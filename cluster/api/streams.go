package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"
)

// What a stream's sources are.
const (
	SamplesShards  = "shards"  // archives of samples
	SamplesObjects = "objects" // objects that are one sample each
)

// StreamRequest describes a stream: POST /v1/streams.
type StreamRequest struct {
	// Sources are ss:// addresses with braces and globs; behind "=" an address without, behind "@" that of a
	// manifest, an object that lists objects.
	Sources   []string `json:"sources"`
	Samples   string   `json:"samples,omitempty"` // what the sources are: SamplesShards where empty
	BatchSize int      `json:"batch_size"`
	// Shuffle is global, window, shards or none; "": global, or window where a source has a backend.
	Shuffle string `json:"shuffle"`
	// Slices and Window are those of a window; 0: the defaults, or what fits the cache where the shuffle is chosen.
	Slices int    `json:"slices,omitempty"`
	Window int    `json:"window,omitempty"`
	Seed   uint64 `json:"seed"`
	ETL    string `json:"etl,omitempty"` // transformations to go through in order, separated by commas
	// ETLArgs are their arguments: a JSON object, of several transformations a list with one, or null, for each.
	ETLArgs json.RawMessage `json:"etl_args,omitempty"`
	Fields  []string        `json:"fields,omitempty"`
	// Decode names for fields how the targets decode them: a decoder ("rgb8", "int"), or for JSON a map
	// from members to decoders, nested as the document is.
	Decode    map[string]any `json:"decode,omitempty"`
	WorldSize int            `json:"world_size"`
	Rank      int            `json:"rank"`
	DropLast  bool           `json:"drop_last"`
	// Epoch is which one begins, and Ahead says that it is read now, from its beginning. Both are hints: of shards at a backend,
	// what the epoch needs first is described first, and fetched while others are described.
	Epoch uint64 `json:"epoch,omitempty"`
	Ahead bool   `json:"ahead,omitempty"`
	// Mixture takes the place of sources, shuffle and etl.
	Mixture *Mixture `json:"mixture,omitempty"`
}

// StreamInfo is the answer to POST /v1/streams.
type StreamInfo struct {
	Snapshot  string `json:"snapshot"` // id: hash of shards, versions and counts
	Samples   int64  `json:"samples"`  // of an epoch
	Shards    int64  `json:"shards"`
	Bytes     int64  `json:"bytes"`
	Batches   int64  `json:"batches"`    // of this rank's epoch
	MaxSample int64  `json:"max_sample"` // bytes
	// Shuffle is the one that was asked for or chosen; Slices and Window are those of a window that is not the default.
	Shuffle string `json:"shuffle,omitempty"`
	Slices  int    `json:"slices,omitempty"`
	Window  int    `json:"window,omitempty"`
	// ETLVersion is that of the deployed transformation, of several the latest, 0 without one.
	ETLVersion int64 `json:"etl_version,omitempty"`
	Map        Map   `json:"map"`
	// Mixture is what a mixture's description came to.
	Mixture *MixtureInfo `json:"mixture,omitempty"`
}

// OpenStream describes a stream to the cluster, which makes its snapshot.
func (c *Client) OpenStream(ctx context.Context, r StreamRequest) (StreamInfo, error) {
	var info StreamInfo
	// Repeating is harmless: the same description makes the same snapshot.
	err := c.retry(ctx, func() error {
		return c.call(ctx, http.MethodPost, "/v1/streams", nil, r, &info)
	})
	return info, err
}

// describingPause is between two questions; each is answered once there is something to say.
const describingPause = 200 * time.Millisecond

// AwaitStream is OpenStream that asks again for as long as the cluster describes the stream's shards at their backend, which
// for many of them takes longer than one answer may.
func (c *Client) AwaitStream(ctx context.Context, r StreamRequest) (StreamInfo, error) {
	for {
		info, err := c.OpenStream(ctx, r)
		var answer *Error
		if !errors.As(err, &answer) || answer.Code != CodeDescribing || !sleep(ctx, describingPause) {
			return info, err
		}
	}
}
