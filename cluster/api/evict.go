package api

import (
	"context"
	"net/http"
	"net/url"
)

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

// Evict takes away the whole copies that targets keep of a bucket's erasure-coded objects, to be read without their
// slices, whose names begin with prefix. The next read of one makes it anew.
func (c *Client) Evict(ctx context.Context, bucket, prefix string) (Evicted, error) {
	var e Evicted
	err := c.callFor(ctx, dropTimeout, http.MethodPost, bucketPath(bucket)+"/evict", url.Values{"prefix": {prefix}}, nil, &e)
	return e, err
}
