package api

import (
	"context"
	"strings"
	"time"
)

// Backend is where a bucket's objects come from: the bucket is a cache in front of it.
type Backend struct {
	// URL is s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX, hdfs://HOST:PORT/PATH, http(s)://HOST/PATH or
	// ss://HOST:PORT/BUCKET/PREFIX (another cluster). It never has credentials.
	URL string `json:"url"`
	// Secret names the credentials, among the cluster's secrets; "": the vendor's usual chain on each target.
	Secret   string `json:"secret,omitempty"`
	Endpoint string `json:"endpoint,omitempty"` // URL of the service, where it is not the vendor's
	Region   string `json:"region,omitempty"`
	CA       string `json:"ca,omitempty"`       // PEM of certificates that are trusted besides the system's
	Insecure bool   `json:"insecure,omitempty"` // certificates are not checked

	// Check says when a cached object is compared with the backend's: CheckNever, CheckTTL or CheckAlways.
	Check string  `json:"check"`
	TTLS  float64 `json:"ttl_s,omitempty"` // seconds, of CheckTTL
	// Write says where new objects go: WriteReadOnly, WriteThrough or WriteCacheOnly.
	Write string `json:"write"`
	// Delete says what a deletion removes: DeleteRefused, DeleteCached (the cached copy alone) or DeleteThrough.
	Delete string `json:"delete"`

	// Quota is how many bytes the bucket's cached objects may take, in the whole cluster; 0: as many as the disks have
	// room for.
	Quota int64 `json:"quota,omitempty"`
	// ReadAhead is how many bytes streams may fetch ahead of use, in the whole cluster; 0: a default.
	ReadAhead int64 `json:"read_ahead,omitempty"`
	// Pinned are patterns (globs and braces, as in addresses) of the names of objects that are not evicted.
	Pinned []string `json:"pinned,omitempty"`
}

// Policies of a Backend. The first of each is the default.
const (
	CheckTTL    = "ttl"
	CheckNever  = "never"
	CheckAlways = "always"

	WriteReadOnly  = "read-only"
	WriteThrough   = "write-through" // an acknowledged object is at the backend
	WriteCacheOnly = "cache-only"    // objects that are put stay in the cluster, and are never evicted

	DeleteRefused = "refuse"
	DeleteCached  = "cache"
	DeleteThrough = "through"

	// DefaultTTL is TTLS where it is 0.
	DefaultTTL = 60 * time.Second
)

// OriginTag is the metadata of a cached object that has its backend's tag: what is cached is the bytes under that tag. An
// object of a bucket with a backend that lacks it is the cluster's own, and nowhere else. Users can't set it.
const OriginTag = "shardstream-origin"

// Cached says how much of a bucket with a backend is in the cluster: GET /v1/buckets/{bucket}/cache.
type Cached struct {
	Objects int64 `json:"objects"` // whole
	Bytes   int64 `json:"bytes"`
	Known   int64 `json:"known"`   // described, but not here
	Own     int64 `json:"own"`     // put into the cluster alone
	Quota   int64 `json:"quota"`   // bytes; 0: none
	Pinned  int64 `json:"pinned"`  // bytes of pinned objects
	Fetches int64 `json:"fetches"` // under way
}

// IsReservedMeta says that a name of metadata is the cluster's own: users neither set nor see it.
func IsReservedMeta(name string) bool { return strings.HasPrefix(name, "shardstream-") }

// Add adds what another target has; the quota is the bucket's.
func (c *Cached) Add(o *Cached) {
	c.Objects += o.Objects
	c.Bytes += o.Bytes
	c.Known += o.Known
	c.Own += o.Own
	c.Pinned += o.Pinned
	c.Fetches += o.Fetches
}

// Cached says how much of a bucket with a backend is in the cluster.
func (c *Client) Cached(ctx context.Context, bucket string) (Cached, error) {
	return fetch[Cached](ctx, c, bucketPath(bucket)+"/cache", nil)
}

// CachePart asks a target, on behalf of a gateway, to fetch objects of a bucket from its backend, or to let them go. It
// answers as soon as it has dealt with some of them, so it is asked again for the others.
type CachePart struct {
	Names []string `json:"names"`
}

// CacheReport is the answer: of those that are dealt with.
type CacheReport struct {
	Done []CacheResult `json:"done"`
	Open int           `json:"open"` // that are under way, or about to be
}

// CacheResult is what came of one object.
type CacheResult struct {
	Name  string `json:"name"`
	Bytes int64  `json:"bytes"`
	// Skipped: there was nothing to do, as it was here, or not here, already; or it has to stay.
	Skipped bool   `json:"skipped,omitempty"`
	Error   *Error `json:"error,omitempty"`
}

// MaxCachePart bounds the names of a CachePart.
const MaxCachePart = 128
