package gateway

import (
	"context"
	"net/http"

	"github.com/shardstream/shardstream/cluster/heal"
)

// ServeRebalance adds the routes of the movement of objects, and has the cluster's status tell of it. Call it before
// Serve.
func (g *Gateway) ServeRebalance(o *heal.Overseer) {
	g.overseer = o
	g.Handle("GET /v1/cluster/rebalance", g.getRebalance)
	g.Handle("POST /v1/cluster/rebalance/start", g.postRebalance(o.Start))
	g.Handle("POST /v1/cluster/rebalance/stop", g.postRebalance(o.Stop))
}

func (g *Gateway) getRebalance(w http.ResponseWriter, _ *http.Request) error {
	return WriteJSON(w, http.StatusOK, g.overseer.Status())
}

func (g *Gateway) postRebalance(act func(context.Context) error) Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if err := act(context.WithoutCancel(r.Context())); err != nil {
			return err
		}
		status := g.overseer.Status()
		g.log.InfoContext(r.Context(), "rebalance", "asked", r.URL.Path, "state", status.State)
		return WriteJSON(w, http.StatusOK, status)
	}
}
