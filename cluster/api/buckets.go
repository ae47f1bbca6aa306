package api

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// dropTimeout is for deleting all of a bucket; longer than the gateway's own limit.
const dropTimeout = 11 * time.Minute

// Bucket is a bucket and its properties.
type Bucket struct {
	Name    string    `json:"name"`
	Created time.Time `json:"created"`
	// Mirror is the number of copies of each object, on targets of their own. With EC it is what small objects have.
	Mirror int `json:"mirror"`
	// EC keeps objects as slices: Data of them, with Parity more, any of which may be lost. nil: whole copies.
	EC *EC `json:"ec,omitempty"`
	// Degraded lets writes be acknowledged where fewer targets are up than there are to be copies or slices, if at
	// least one is; rebalance makes up for it later. Otherwise they are refused.
	Degraded bool `json:"degraded,omitempty"`
	// Was are the numbers of copies that objects had under earlier settings, until all have as many as they should.
	Was []int `json:"was,omitempty"`
	// Backend is where the objects come from; nil: the bucket's objects are the cluster's own.
	Backend *Backend `json:"backend,omitempty"`
}

// EC is how objects of a bucket are erasure-coded.
type EC struct {
	Data   int `json:"data"`
	Parity int `json:"parity"`
}

// Bounds of redundancy.
const (
	MaxMirror = 16
	MaxSlices = 32
	// SmallObject is the size up to which objects of an erasure-coded bucket are mirrored, by Parity + 1 copies.
	SmallObject = 128 << 10
)

// Copies is the number of targets that know each object of the bucket: by a whole copy of it, or of an
// erasure-coded object by its description.
func (b *Bucket) Copies() int {
	if b.EC != nil {
		return b.EC.Parity + 1
	}
	return max(b.Mirror, 1)
}

// Width is the number of targets that a write needs.
func (b *Bucket) Width() int {
	if b.EC != nil {
		return b.EC.Data + b.EC.Parity
	}
	return b.Copies()
}

// BucketList is GET /v1/buckets, sorted by name.
type BucketList struct {
	Buckets []Bucket `json:"buckets"`
}

// BucketChange is PATCH /v1/buckets/{bucket}: what is nil stays.
type BucketChange struct {
	Mirror   *int  `json:"mirror,omitempty"`
	EC       *EC   `json:"ec,omitempty"` // Data 0: none any more
	Degraded *bool `json:"degraded,omitempty"`
	// Backend is given with all its properties. It is set when the bucket is created; later its URL stays.
	Backend *Backend `json:"backend,omitempty"`
}

// CreateBucket makes a bucket with one copy of each object; CodeExists if it exists.
func (c *Client) CreateBucket(ctx context.Context, name string) (Bucket, error) {
	return c.CreateBucketWith(ctx, name, BucketChange{})
}

// CreateBucketWith makes a bucket with other properties than a bucket has by default; CodeExists if it exists.
func (c *Client) CreateBucketWith(ctx context.Context, name string, properties BucketChange) (Bucket, error) {
	var b Bucket
	err := c.call(ctx, http.MethodPut, bucketPath(name), nil, properties, &b)
	return b, err
}

// CreateBucketUntried is CreateBucketWith for a bucket whose backend need not answer yet.
func (c *Client) CreateBucketUntried(ctx context.Context, name string, properties BucketChange) (Bucket, error) {
	var b Bucket
	err := c.call(ctx, http.MethodPut, bucketPath(name), url.Values{"check": {"false"}}, properties, &b)
	return b, err
}

// ChangeBucket changes a bucket's properties. Objects are brought to what a new redundancy takes in the background.
func (c *Client) ChangeBucket(ctx context.Context, name string, change BucketChange) (Bucket, error) {
	var b Bucket
	err := c.call(ctx, http.MethodPatch, bucketPath(name), nil, change, &b)
	return b, err
}

// Bucket finds a bucket; CodeNoBucket if there is none.
func (c *Client) Bucket(ctx context.Context, name string) (Bucket, error) {
	return fetch[Bucket](ctx, c, bucketPath(name), nil)
}

// Buckets are all buckets, sorted by name.
func (c *Client) Buckets(ctx context.Context) ([]Bucket, error) {
	list, err := fetch[BucketList](ctx, c, "/v1/buckets", nil)
	return list.Buckets, err
}

// DeleteBucket removes a bucket. One that holds objects is refused with CodeNotEmpty, unless forced:
// then they are gone.
func (c *Client) DeleteBucket(ctx context.Context, name string, force bool) error {
	query := url.Values{}
	if force {
		query.Set("force", "true")
	}
	return c.callFor(ctx, dropTimeout, http.MethodDelete, bucketPath(name), query, nil, nil)
}
