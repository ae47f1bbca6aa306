package api

import (
	"context"
	"net/http"
	"time"
)

// fsckTimeout is for reading all the cluster's data.
const fsckTimeout = 6 * time.Hour

// FsckReport is what fsck found; all three lists are empty on a sound cluster.
type FsckReport struct {
	Objects int64     `json:"objects"`
	Corrupt []Finding `json:"corrupt"`
	Missing []Finding `json:"missing"`
	Stray   []Finding `json:"stray"`
}

// Finding is one fault that fsck found.
type Finding struct {
	Node   string `json:"node"`
	Disk   string `json:"disk"`
	Object string `json:"object,omitempty"` // ss://bucket/key
	File   string `json:"file,omitempty"`
	Block  int64  `json:"block,omitempty"`
	Detail string `json:"detail"`
}

// Fsck has every target read and verify all that it holds.
func (c *Client) Fsck(ctx context.Context) (FsckReport, error) {
	var r FsckReport
	err := c.callFor(ctx, fsckTimeout, http.MethodPost, "/v1/fsck", nil, nil, &r)
	return r, err
}
