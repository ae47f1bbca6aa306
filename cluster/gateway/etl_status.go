package gateway

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
)

const (
	etlStatusTimeout  = 3 * time.Second
	etlRestartTimeout = 3 * time.Minute  // for one target to have a new worker up
	etlLogsTimeout    = 10 * time.Second // for one target's log
)

// etlStates are the states from the best to the worst.
var etlStates = []string{api.ETLReady, api.ETLNew, api.ETLStarting, api.ETLBuilding, api.ETLUnreachable, api.ETLFailed}

// statusWord is what a target says of its transformations, by name.
type statusWord struct {
	node api.Node
	etls map[string]api.ETLTarget
	err  error // it did not answer
}

// askStatus asks all targets that are up; name "" asks for all transformations.
func (g *Gateway) askStatus(ctx context.Context, name string) []statusWord {
	query := url.Values{}
	if name != "" {
		query.Set("name", name)
	}
	nodes := g.upTargets()
	words := make([]statusWord, len(nodes))
	g.eachTarget(func(i int, node api.Node) {
		words[i].node = node
		words[i].err = g.Ask(ctx, etlStatusTimeout, node, http.MethodGet, "/v1/internal/etls", query, &words[i].etls)
	}, nodes)
	return words
}

// summarize is how one transformation is on all targets that are up. Version 0 stands for one that is only being tried.
func summarize(name string, version int64, words []statusWord) *api.ETLStatus {
	status := &api.ETLStatus{State: api.ETLReady, Wanted: len(words), Targets: make([]api.ETLTarget, len(words))}
	for i, word := range words {
		t := word.etls[name]
		t.ID = word.node.ID
		switch {
		case word.err != nil:
			t.Health = api.ETLHealth{State: api.ETLUnreachable, Detail: word.err.Error(), Since: time.Now().UTC()}
		case t.Health.State == "":
			t.Health = api.ETLHealth{State: api.ETLNew, Since: time.Now().UTC()}
		case t.Version < version && t.Health.State == api.ETLReady:
			t.Health.State, t.Health.Detail = api.ETLStarting, fmt.Sprintf("it still runs version %d", t.Version)
		}
		if t.Health.State == api.ETLReady {
			status.Ready++
		}
		if slices.Index(etlStates, t.Health.State) > slices.Index(etlStates, status.State) {
			status.State = t.Health.State
		}
		status.Stats.Add(&t.Stats)
		status.Targets[i] = t
	}
	if len(words) == 0 {
		status.State = api.ETLUnreachable
	}
	return status
}

// getETLStatus tells how a transformation is, also one that a PUT under way has the targets try for the first time.
func (g *Gateway) getETLStatus(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("name")
	e, err := g.ETL(r.Context(), name)
	words := g.askStatus(r.Context(), name)
	if err != nil && !slices.ContainsFunc(words, func(word statusWord) bool { return word.etls[name].Candidate != nil }) {
		return err
	}
	return WriteJSON(w, http.StatusOK, summarize(name, e.Version, words))
}

// postETLRestart replaces the workers on every target that is up and answers once new ones are ready.
func (g *Gateway) postETLRestart(w http.ResponseWriter, r *http.Request) error {
	e, err := g.ETL(r.Context(), r.PathValue("name"))
	if err != nil {
		return err
	}
	nodes := g.upTargets()
	failed := make([]error, len(nodes))
	path := "/v1/internal/etls/" + url.PathEscape(e.Name) + "/restart"
	g.eachTarget(func(i int, node api.Node) {
		failed[i] = g.Ask(r.Context(), etlRestartTimeout, node, http.MethodPost, path, nil, nil)
	}, nodes)
	if err := verdict(failed); err != nil {
		return err
	}
	g.log.InfoContext(r.Context(), "etl restarted", "etl", e.Name)
	return WriteJSON(w, http.StatusOK, summarize(e.Name, e.Version, g.askStatus(r.Context(), e.Name)))
}

// getETLLogs answers with what builds and user code printed on each target, or on the one that ?target= names, as text.
func (g *Gateway) getETLLogs(w http.ResponseWriter, r *http.Request) error {
	e, err := g.ETL(r.Context(), r.PathValue("name"))
	if err != nil {
		return err
	}
	nodes := g.upTargets()
	if id := r.URL.Query().Get("target"); id != "" {
		nodes = slices.DeleteFunc(nodes, func(n api.Node) bool { return n.ID != id })
		if len(nodes) == 0 {
			return api.Errorf(http.StatusNotFound, api.CodeNotFound, "no target %.80q is up; `shardstream status` shows them", id)
		}
	}
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
