package gateway

import (
	"net/http"
	"net/url"

	"golang.org/x/sync/errgroup"

	"github.com/shardstream/shardstream/cluster/api"
)

// postEvict has all targets take away the whole copies that they keep of a bucket's erasure-coded objects. Those that
// are down have none that anybody could read.
func (g *Gateway) postEvict(w http.ResponseWriter, r *http.Request) error {
	b, err := g.bucket(r.Context(), r.PathValue("bucket"))
	if err != nil {
		return err
	}
	var targets []api.Node
	for _, n := range g.members.View().Map().Targets() {
		if n.State == api.StateOK {
			targets = append(targets, n)
		}
	}
	parts := make([]api.Evicted, len(targets))
	group, ctx := errgroup.WithContext(r.Context())
	query := url.Values{"prefix": {r.URL.Query().Get("prefix")}}
	for i, n := range targets {
		group.Go(func() error {
			return g.Ask(ctx, dropTimeout, n, http.MethodPost, "/v1/internal/buckets/"+url.PathEscape(b.Name)+"/evict", query, &parts[i])
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	var all api.Evicted
	for _, p := range parts {
		all.Add(p)
	}
	g.log.InfoContext(r.Context(), "evicted", "bucket", b.Name, "prefix", query.Get("prefix"), "objects", all.Objects, "bytes", all.Bytes, "kept", all.Kept)
	return WriteJSON(w, http.StatusOK, all)
}
