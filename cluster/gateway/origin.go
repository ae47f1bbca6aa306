package gateway

import (
	"context"
	"errors"
	"iter"
	"net/http"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/membership"
	"github.com/shardstream/shardstream/cluster/origin"
	"github.com/shardstream/shardstream/core/backend"
	"github.com/shardstream/shardstream/core/store"
)

// Origins open the backends of buckets. The errors of what they open are *backend.Error.
type Origins interface {
	// Get opens a bucket's backend. It is shared by all who ask for it, and not for them to close.
	Get(ctx context.Context, b *api.Bucket) (backend.Backend, error)
	// Open opens a backend of the caller's own, which closes it.
	Open(ctx context.Context, b *api.Backend) (backend.Backend, error)
	// Check says, without asking anybody, why no node can open a backend: this build lacks its scheme, or it names an
	// address that must not be reached.
	Check(b *api.Backend) error
}

// origin is a bucket's backend.
func (g *Gateway) origin(ctx context.Context, b *api.Bucket) (backend.Backend, error) {
	if g.origins == nil {
		return nil, api.Errorf(http.StatusBadGateway, api.CodeBackend, "bucket %s: gateway %s opens no backends", b.Name, g.id)
	}
	from, err := g.origins.Get(ctx, b)
	return from, origin.Answer(b.Name, err)
}

// entries yields what a bucket's backend has under names that begin with prefix and are greater than after, sorted by
// name; complete, or an error, which comes last and is an answer. What is there under a name that no object can have is
// left out, and told in the log.
func (g *Gateway) entries(ctx context.Context, b *api.Bucket, prefix, after string) iter.Seq2[backend.Entry, error] {
	return func(yield func(backend.Entry, error) bool) {
		from, err := g.origin(ctx, b)
		if err != nil {
			yield(backend.Entry{}, err)
			return
		}
		left, example := 0, ""
		defer func() {
			if left > 0 {
				g.log.WarnContext(ctx, "names at a backend that no object can have are left out",
					"bucket", b.Name, "backend", backendOf(b), "names", left, "for_example", example)
			}
		}()
		last := after
		for e, err := range from.List(ctx, prefix, after) {
			switch {
			case err != nil:
				yield(backend.Entry{}, listingFailed(ctx, b, err))
				return
			case store.CheckName(e.Name) != nil:
				if left++; left == 1 {
					example = clipName(e.Name)
				}
				continue
			case e.Name <= last:
				// Merging needs the order: names out of it would be lost, or come twice.
				yield(backend.Entry{}, api.Errorf(http.StatusBadGateway, api.CodeBackend,
					"bucket %s: its backend %s lists %q behind %q, which is out of order", b.Name, backendOf(b), clipName(e.Name), clipName(last)))
				return
			}
			last = e.Name
			if !yield(e, nil) {
				return
			}
		}
	}
}

// listingFailed is the answer for a listing that broke off at the backend: that there is nothing to be listed is no 404
// of an object.
func listingFailed(ctx context.Context, b *api.Bucket, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if failed := (*backend.Error)(nil); errors.As(err, &failed) && failed.Kind == backend.NotFound {
		gone := *failed
		gone.Kind = backend.NoBucket
		err = &gone
	}
	return origin.Answer(b.Name, err)
}

// originBucket finds a bucket that has a backend.
func (g *Gateway) originBucket(ctx context.Context, name string) (membership.Bucket, error) {
	b, err := g.bucket(ctx, name)
	if err == nil && b.Backend == nil {
		err = api.Errorf(http.StatusBadRequest, api.CodeBadRequest,
			"bucket %s has no backend: its objects are the cluster's own, and nowhere to be fetched from", name)
	}
	return b, err
}
