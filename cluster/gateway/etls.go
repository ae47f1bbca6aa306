package gateway

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/etls"
)

const etlRefreshTimeout = 5 * time.Second // for a target to take note of a change

// ServeETLs adds the routes of /v1/etls. Call it before Serve.
func (g *Gateway) ServeETLs() {
	g.Handle("GET /v1/etls", g.getETLs)
	g.Handle("GET /v1/etls/{name}", g.getETL)
	g.Handle("PUT /v1/etls/{name}", g.putETL)
	g.Handle("DELETE /v1/etls/{name}", g.deleteETL)
	g.Handle("GET /v1/etls/{name}/status", g.getETLStatus)
	g.Handle("POST /v1/etls/{name}/restart", g.postETLRestart)
	g.Handle("GET /v1/etls/{name}/logs", g.getETLLogs)
	g.Handle("POST /v1/etls/{name}/test", g.postTrial)
}

// ETL finds a deployed transformation; an *api.Error with CodeNoETL where there is none.
func (g *Gateway) ETL(ctx context.Context, name string) (api.ETL, error) {
	return etls.Of(g.members).Get(ctx, name)
}

func (g *Gateway) getETLs(w http.ResponseWriter, r *http.Request) error {
	list, err := etls.Of(g.members).List(r.Context())
	if err != nil {
		return err
	}
	if len(list) > 0 {
		words := g.askStatus(r.Context(), "")
		for i := range list {
			list[i].Status = summarize(list[i].Name, list[i].Version, words)
			list[i].Status.Targets = nil
		}
	}
	return WriteJSON(w, http.StatusOK, api.ETLList{ETLs: list})
}

func (g *Gateway) getETL(w http.ResponseWriter, r *http.Request) error {
	e, err := g.ETL(r.Context(), r.PathValue("name"))
	if err != nil {
		return err
	}
	e.Status = summarize(e.Name, e.Version, g.askStatus(r.Context(), e.Name))
	return WriteJSON(w, http.StatusOK, e)
}

// putETL stores a definition once every target that is up has made it ready; until then, and if one can't, the version
// before stays in force. With ?wait=false it is stored untried.
func (g *Gateway) putETL(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("name")
	wait := true
	if text := r.URL.Query().Get("wait"); text != "" {
		var err error
		if wait, err = strconv.ParseBool(text); err != nil {
			return api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "wait=%.80q: use true or false", text)
		}
	}
	var e api.ETL
	if err := ReadKnownJSON(w, r, maxDocument, &e); err != nil {
		return err
	}
	if e.Name != "" && e.Name != name {
		return api.Errorf(http.StatusBadRequest, api.CodeBadName, "the path names etl %.80q, the document %.80q", name, e.Name)
	}
	e.Name, e.Status = name, nil
	e, err := etls.Normalize(e)
	if err != nil {
		return err
	}
	if wait {
		if err := g.tryETL(r.Context(), e); err != nil {
			return err
		}
	}
	if e, err = etls.Of(g.members).Put(r.Context(), e); err != nil {
		return err
	}
	g.log.InfoContext(r.Context(), "etl deployed", "etl", name, "version", e.Version, "level", e.Level)
	g.refreshETL(r.Context(), name, wait)
	return WriteJSON(w, http.StatusOK, e)
}

// refreshETL tells the targets that are up of a change, so that it holds when the client has its answer. One that
// does not answer now learns of it by its watch. With wait they answer once they have it ready, or after some seconds:
// what was tried before was a candidate, whose workers nobody else gets.
func (g *Gateway) refreshETL(ctx context.Context, name string, wait bool) {
	path := "/v1/internal/etls/" + url.PathEscape(name) + "/refresh"
	var query url.Values
	if wait {
		query = url.Values{"wait": {"true"}}
	}
	g.eachTarget(func(_ int, node api.Node) {
		if err := g.Ask(ctx, etlRefreshTimeout, node, http.MethodPost, path, query, nil); err != nil {
			g.log.WarnContext(ctx, "a target did not take note of an etl; it will by its watch", "etl", name, "target", node.ID, "error", err)
		}
	}, g.upTargets())
}

func (g *Gateway) upTargets() []api.Node {
	return slices.DeleteFunc(g.members.View().Map().Targets(), func(n api.Node) bool { return n.State == api.StateDown })
}

// eachTarget calls f for all nodes at once and waits.
func (g *Gateway) eachTarget(f func(int, api.Node), nodes []api.Node) {
	var wait sync.WaitGroup
	for i, node := range nodes {
		wait.Go(func() { f(i, node) })
	}
	wait.Wait()
}

func (g *Gateway) deleteETL(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("name")
	if err := etls.Of(g.members).Delete(r.Context(), name); err != nil {
		return err
	}
	g.log.InfoContext(r.Context(), "etl deleted", "etl", name)
	g.refreshETL(r.Context(), name, false)
	w.WriteHeader(http.StatusNoContent)
	return nil
}
