package origin

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/backend"
)

// maxVia bounds the buckets that a request comes through, should one of them not tell its name.
const maxVia = 8

// via names a bucket among those of all clusters.
func (p *Pool) via(b *api.Bucket) string {
	if p.config.Cluster == nil {
		return ""
	}
	return p.config.Cluster() + "/" + b.Name
}

// circle refuses a request that came through the bucket before, or through too many.
func (p *Pool) circle(ctx context.Context, b *api.Bucket) error {
	before := backend.Via(ctx)
	if len(before) < maxVia && !slices.Contains(before, p.via(b)) {
		return nil
	}
	return &backend.Error{
		Backend: b.Backend.URL, Op: "connect", Kind: backend.Loop,
		Err: fmt.Errorf("bucket %s is in front of itself, by %s: none of them has the object", b.Name, strings.Join(append(slices.Clone(before), p.via(b)), " -> ")),
	}
}
