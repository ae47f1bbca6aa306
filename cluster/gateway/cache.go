package gateway

import (
	"net/http"
	"net/url"

	"github.com/shardstream/shardstream/cluster/api"
)

// getCache says how much of a bucket with a backend is in the cluster: complete, or an error.
func (g *Gateway) getCache(w http.ResponseWriter, r *http.Request) error {
	b, err := g.originBucket(r.Context(), r.PathValue("bucket"))
	if err != nil {
		return err
	}
	parts, err := AskTargets[api.Cached](r.Context(), g, pageTimeout, http.MethodGet, cachePath(b.Name, "cache"), nil)
	if err != nil {
		return err
	}
	all := api.Cached{Quota: b.Backend.Quota}
	for i := range parts {
		all.Add(&parts[i])
	}
	return WriteJSON(w, http.StatusOK, all)
}

// cachePath is a target's route about what it has of a bucket.
func cachePath(bucket, verb string) string {
	return "/v1/internal/buckets/" + url.PathEscape(bucket) + "/" + verb
}
