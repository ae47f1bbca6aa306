package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/etls"
	"github.com/shardstream/shardstream/etl"
	"github.com/shardstream/shardstream/etl/deploy"
)

const (
	etlRefreshTimeout = 5 * time.Second  // for a target to take note of a change
	etlLogsTimeout    = 10 * time.Second // for one target's log
	etlChecks         = 2                // definitions that are loaded at a time to see whether they can be
)

// ServeETLs adds the routes of /v1/etls. Call it before Serve.
func (g *Gateway) ServeETLs() {
	checks := make(chan struct{}, etlChecks)
	g.Handle("GET /v1/etls", g.getETLs)
	g.Handle("GET /v1/etls/{name}", g.getETL)
	g.Handle("PUT /v1/etls/{name}", func(w http.ResponseWriter, r *http.Request) error { return g.putETL(w, r, checks) })
	g.Handle("DELETE /v1/etls/{name}", g.deleteETL)
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
	return WriteJSON(w, http.StatusOK, api.ETLList{ETLs: list})
}

func (g *Gateway) getETL(w http.ResponseWriter, r *http.Request) error {
	e, err := g.ETL(r.Context(), r.PathValue("name"))
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, e)
}

// putETL takes a definition only if its source loads, and answers once the targets that are up know of it.
func (g *Gateway) putETL(w http.ResponseWriter, r *http.Request, checks chan struct{}) error {
	name := r.PathValue("name")
	var e api.ETL
	if err := ReadJSON(w, r, maxDocument, &e); err != nil {
		return err
	}
	if e.Name != "" && e.Name != name {
		return api.Errorf(http.StatusBadRequest, api.CodeBadName, "the path names etl %.80q, the document %.80q", name, e.Name)
	}
	e.Name = name
	e, err := etls.Normalize(e)
	if err != nil {
		return err
	}
	if err := g.checkETL(r.Context(), e, checks); err != nil {
		return err
	}
	if e, err = etls.Of(g.members).Put(r.Context(), e); err != nil {
		return err
	}
	g.log.InfoContext(r.Context(), "etl deployed", "etl", name, "version", e.Version, "level", e.Level)
	g.refreshETL(r.Context(), name)
	return WriteJSON(w, http.StatusOK, e)
}

// checkETL loads the source in a process of its own, a few at a time.
func (g *Gateway) checkETL(ctx context.Context, e api.ETL, checks chan struct{}) error {
	select {
	case checks <- struct{}{}:
		defer func() { <-checks }()
	case <-ctx.Done():
		return api.Errorf(http.StatusServiceUnavailable, api.CodeUnavailable, "the request ended before its turn: %v", ctx.Err())
	}
	err := deploy.Check(ctx, etls.Definition(e), deploy.Options{Logger: g.log})
	var fault *etl.UserError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &fault):
		return api.Errorf(http.StatusUnprocessableEntity, api.CodeETLFailed, "%v", fault)
	case errors.Is(err, etl.ErrNoPython):
		return api.Errorf(http.StatusServiceUnavailable, api.CodeUnavailable, "gateway %s can't check the source: %v", g.id, err)
	}
	return err
}

// refreshETL tells the targets that are up of a change, so that it holds when the client has its answer. One that
// does not answer now learns of it by its watch.
func (g *Gateway) refreshETL(ctx context.Context, name string) {
	path := "/v1/internal/etls/" + url.PathEscape(name) + "/refresh"
	g.eachTarget(func(_ int, node api.Node) {
		if err := g.Ask(ctx, etlRefreshTimeout, node, http.MethodPost, path, nil, nil); err != nil {
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
	g.refreshETL(r.Context(), name)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// getETLLogs answers with what user code printed on each target, as text.
func (g *Gateway) getETLLogs(w http.ResponseWriter, r *http.Request) error {
	e, err := g.ETL(r.Context(), r.PathValue("name"))
	if err != nil {
		return err
	}
	nodes := g.upTargets()
	texts := make([]string, len(nodes))
	g.eachTarget(func(i int, node api.Node) {
		var answer struct{ Log string }
		path := "/v1/internal/etls/" + url.PathEscape(e.Name) + "/logs"
		if err := g.Ask(r.Context(), etlLogsTimeout, node, http.MethodGet, path, nil, &answer); err != nil {
			texts[i] = err.Error() + "\n"
			return
		}
		texts[i] = answer.Log
	}, nodes)
	var b strings.Builder
	for i, node := range nodes {
		fmt.Fprintf(&b, "==> %s <==\n%s", node.ID, texts[i])
		if texts[i] != "" && !strings.HasSuffix(texts[i], "\n") {
			b.WriteByte('\n')
		}
	}
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(bodyTimeout)) // not all writers have one
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write([]byte(b.String())) // the client is gone: nobody to tell
	return nil
}
