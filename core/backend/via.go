package backend

import "context"

type viaKey struct{}

// WithVia notes the buckets that a request came through, each of which asks the next for what it lacks. A backend that is
// another cluster passes them on, so that a bucket which is among them can say that it would ask itself.
func WithVia(ctx context.Context, buckets []string) context.Context {
	return context.WithValue(ctx, viaKey{}, buckets)
}

// Via are the buckets that the request came through, the first one first.
func Via(ctx context.Context) []string {
	buckets, _ := ctx.Value(viaKey{}).([]string)
	return buckets
}
