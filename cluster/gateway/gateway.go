// Package gateway serves the cluster's face: membership, buckets, merged listings, and the way to every
// object.
//
// No object's bytes pass through it. A request for an object is checked and sent on with 307 to the
// target that owns it, before its body is read. What needs all targets (a listing, fsck, the end of a
// bucket) is complete or an error: one target that does not answer makes it 503, never a short answer.
// A gateway keeps no state of its own; any number of them serve the same cluster.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/heal"
	"github.com/shardstream/shardstream/cluster/membership"
	"github.com/shardstream/shardstream/cluster/telemetry"
	"github.com/shardstream/shardstream/core/backend"
)

// Bounds of what one client can take.
const (
	maxHeader     = 32 << 10
	maxDocument   = 8 << 20
	headerTimeout = 10 * time.Second
	bodyTimeout   = 60 * time.Second // for a document to arrive or to leave
	idleTimeout   = 90 * time.Second // longer than our clients keep idle connections
	unreadTimeout = 2 * time.Second  // for a body that nobody is going to read
	stopTimeout   = 5 * time.Second

	dialTimeout    = 2 * time.Second
	healthTimeout  = time.Second
	pageTimeout    = 15 * time.Second // for one target's part of a listing
	dropTimeout    = 10 * time.Minute // for the end of a bucket
	fsckTimeout    = 6 * time.Hour
	maxPeerAnswers = 256 << 20
)

// Config wires a gateway. All fields but Origins are needed.
type Config struct {
	ID      string
	Version string // of the software
	Members *membership.Membership
	Metrics *telemetry.Metrics
	Logger  *slog.Logger
	Origins Origins // nil: buckets with backends are refused
}

// Gateway is a gateway's HTTP server. Routes are added before Serve.
type Gateway struct {
	id      string
	version string
	members *membership.Membership
	metrics *telemetry.Metrics
	log     *slog.Logger
	origins Origins

	mux    *http.ServeMux
	routes []string            // patterns, as "GET /v1/health"
	paths  map[string][]string // methods of each path
	peers  *http.Client

	opens  opens
	pushed pushedPages

	overseer *heal.Overseer // nil: nobody moves objects
}

// Handler answers a request. An error becomes an error document (see AsError), so a handler that
// returns one must not have written anything.
type Handler func(w http.ResponseWriter, r *http.Request) error

// New makes a gateway with its standard routes.
func New(c Config) *Gateway {
	g := &Gateway{
		id: c.ID, version: c.Version, members: c.Members, metrics: c.Metrics, log: c.Logger, origins: c.Origins,
		mux: http.NewServeMux(), paths: map[string][]string{},
		peers: &http.Client{
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Transport: &http.Transport{
				DialContext:         (&net.Dialer{Timeout: dialTimeout}).DialContext,
				MaxIdleConnsPerHost: 32, IdleConnTimeout: 30 * time.Second, DisableCompression: true,
			},
		},
	}
	g.mux.HandleFunc("/", g.answer(func(http.ResponseWriter, *http.Request) error {
		return api.Errorf(http.StatusNotFound, api.CodeNotFound, "there is no such resource; see /v1/openapi.yaml")
	}))
	g.standardRoutes()
	return g
}

func (g *Gateway) standardRoutes() {
	g.handle("GET /v1/health", g.getHealth)
	g.mux.Handle("GET /metrics", g.metrics.Handler())
	g.routes = append(g.routes, "GET /metrics")
	g.handle("GET /v1/openapi.yaml", getOpenAPI)
	g.Handle("GET /v1/cluster", g.getCluster)
	g.Handle("GET /v1/cluster/map", g.getMap)
	g.Handle("GET /v1/cluster/nodes", g.getNodes)
	g.Handle("GET /v1/cluster/nodes/{id}", g.getNode)
	g.Handle("DELETE /v1/cluster/nodes/{id}", g.deleteNode)
	g.Handle("POST /v1/cluster/tokens", g.postToken)
	g.Handle("POST /v1/cluster/nodes/{id}/drain", g.postDrain)
	g.Handle("DELETE /v1/cluster/nodes/{id}/drain", g.deleteDrain)
	g.diskRoutes()
	g.Handle("GET /v1/buckets", g.getBuckets)
	g.Handle("GET /v1/buckets/{bucket}", g.getBucket)
	g.Handle("PUT /v1/buckets/{bucket}", g.putBucket)
	g.Handle("PATCH /v1/buckets/{bucket}", g.patchBucket)
	g.Handle("DELETE /v1/buckets/{bucket}", g.deleteBucket)
	g.Handle("GET /v1/buckets/{bucket}/objects", g.getObjects)
	g.Handle("POST /v1/buckets/{bucket}/evict", g.postEvict)
	g.Handle("GET /v1/buckets/{bucket}/cache", g.getCache)
	g.secretRoutes()
	g.Handle("POST /v1/fsck", g.postFsck)
	for _, method := range objectMethods { // see ServeHTTP
		g.routes = append(g.routes, method+" "+objectPattern)
	}
}

// Handle adds a route; the pattern is net/http's, with a method: "POST /v1/streams". It answers 503 while the gateway is
// cut off from the cluster.
func (g *Gateway) Handle(pattern string, h Handler) { g.handle(pattern, g.fenced(h)) }

func (g *Gateway) handle(pattern string, h Handler) {
	method, path, _ := strings.Cut(pattern, " ")
	if g.paths[path] == nil {
		g.mux.HandleFunc(path, g.answer(func(w http.ResponseWriter, r *http.Request) error {
			w.Header().Set("Allow", strings.Join(g.paths[path], ", "))
			return api.Errorf(http.StatusMethodNotAllowed, api.CodeMethod, "%s has no method %s", path, r.Method)
		}))
	}
	g.paths[path] = append(g.paths[path], method)
	g.routes = append(g.routes, pattern)
	g.mux.HandleFunc(pattern, g.answer(h))
}

// Routes are the patterns of all routes, sorted.
func (g *Gateway) Routes() []string { return slices.Sorted(slices.Values(g.routes)) }

// ID is the node's id.
func (g *Gateway) ID() string { return g.id }

// Members is the node's view of the cluster.
func (g *Gateway) Members() *membership.Membership { return g.members }

// Metrics are the node's instruments.
func (g *Gateway) Metrics() *telemetry.Metrics { return g.metrics }

// Logger is the node's logger.
func (g *Gateway) Logger() *slog.Logger { return g.log }

// ServeHTTP implements http.Handler. Objects' paths bypass the mux, which would clean them: "a/../b"
// must be refused, not made into "b".
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.EscapedPath(), objectPrefix) {
		r.Pattern = objectPattern
		g.answer(g.object)(w, r)
		return
	}
	if unclean(r.URL.EscapedPath()) || r.Method == http.MethodConnect {
		g.answer(func(http.ResponseWriter, *http.Request) error {
			return api.Errorf(http.StatusBadRequest, api.CodeBadName, "the path has a segment '.' or '..', or an empty one")
		})(w, r)
		return
	}
	g.mux.ServeHTTP(w, r)
}

// unclean tells paths that the mux would redirect to something else.
func unclean(p string) bool {
	return p != "/" && path.Clean(p) != strings.TrimSuffix(p, "/")
}

// answer makes an http.HandlerFunc of a Handler.
func (g *Gateway) answer(h Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if via := api.ParseVia(r.Header.Get(api.HeaderVia)); len(via) > 0 {
			r = r.WithContext(backend.WithVia(r.Context(), via))
		}
		if err := h(w, r); err != nil {
			e := AsError(err)
			if e.Code == api.CodeInternal {
				g.log.ErrorContext(r.Context(), "request failed", "method", r.Method, "path", r.URL.Path, "error", err)
			}
			if r.Method == http.MethodHead {
				w.Header().Set(api.HeaderErrorMessage, e.HeaderMessage())
			}
			WriteError(w, e)
		}
	}
}

// Serve answers requests on the listener until the context ends, then lets those under way finish for
// a few seconds.
func (g *Gateway) Serve(ctx context.Context, listener net.Listener) error {
	server := &http.Server{
		Handler:           g.metrics.Middleware(g.log, g),
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(g.log.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }() // ends with the listener
	select {
	case err := <-failed:
		return fmt.Errorf("serve on %s: %w", listener.Addr(), err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	err := server.Shutdown(stop)
	if errors.Is(err, context.DeadlineExceeded) {
		g.log.WarnContext(ctx, "stopped while requests were still under way")
		err = server.Close()
	}
	g.peers.CloseIdleConnections()
	if err != nil {
		return fmt.Errorf("stop serving on %s: %w", listener.Addr(), err)
	}
	return nil
}
