// Package target serves the objects of one node over HTTP: the data path of the cluster.
//
// A target trusts nobody's checks: it enforces names, limits and ownership itself, as clients may
// come with a map of their own, past any gateway. It answers for what it is the primary of under the cluster
// map, and sends others on with 307. A write is durable on all targets that are to have a copy before it is
// answered (see write.go); where the set of targets has changed, the primary finds out what is the newest before
// it answers at all (resolve.go). It decides nothing about the cluster; that is membership's business.
//
// The server is fasthttp: nothing of a request is kept past its handler, bodies stream both ways, and
// an answer is either verified before its status is sent or cut short, never ended cleanly, where its
// bytes turn out to be damaged.
package target

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/audit"
	"github.com/shardstream/shardstream/cluster/cache"
	"github.com/shardstream/shardstream/cluster/copies"
	"github.com/shardstream/shardstream/cluster/heal"
	"github.com/shardstream/shardstream/cluster/membership"
	slicing "github.com/shardstream/shardstream/cluster/slices"
	"github.com/shardstream/shardstream/cluster/telemetry"
	"github.com/shardstream/shardstream/core/store"
)

// Bounds of what one client can take.
const (
	maxHeader      = 32 << 10
	headerTimeout  = 10 * time.Second // from the first byte of a request to the end of its header
	idleTimeout    = 90 * time.Second // longer than our clients keep idle connections
	answerTimeout  = 60 * time.Second // to send a document
	uploadPause    = 60 * time.Second // without a byte of a body that is put
	downloadPause  = 10 * time.Minute // without 256 KiB of a body being taken: a trainer may be busy
	maxConnections = 1 << 15          // of which streams are the half at most
	stopTimeout    = 5 * time.Second
	peerTimeout    = 10 * time.Second // for a short answer of another target
)

// Config wires a target. All fields but Transform are needed.
type Config struct {
	ID      string
	Store   *store.Store
	Members *membership.Membership
	Metrics *telemetry.Metrics
	Logger  *slog.Logger
	Audit   *audit.Log // of what the target deletes of its own accord; nil where it does not run

	DeleteGrace, StrayGrace, CommitTimeout time.Duration // see node.Settings; 0: their defaults

	Origins             cache.Backends // of buckets that have one; nil: there are none
	CacheHigh, CacheLow float64        // parts of a disk that may be in use before cached objects are evicted, and after
}

// Target is the data server of one node. Routes are added before Serve.
type Target struct {
	id      string
	store   *store.Store
	members *membership.Membership
	metrics *telemetry.Metrics
	log     *slog.Logger

	routes    []route
	transform Transform
	peers     *http.Client
	copies    *copies.Client
	slices    *slicing.Keeper
	cache     *cache.Cache
	deletes   *heal.Deletes

	fence    fence
	gate     heal.Gate
	patience time.Duration // with the others, to commit what they have staged
	locks    keyLocks
	certain  certainty
	stages   stages
	suspects suspects
	users    users
	wholes   atomic.Int64                                   // bodies of answers that are in memory
	inspect  func(context.Context) (heal.Inspection, error) // nil: nobody looks after copies

	told atomic.Uint64   // losses of the store that the map shows, as it says that this node is bare
	ctx  context.Context //nolint:containedctx // of Serve; fasthttp has none of its own
}

// Transform answers GET ?etl=: it reads what the object (or the section of it that ?member= names)
// holds and sets the response. The answer keeps the object open where kept is true. Errors become error documents.
type Transform func(r *Request, s *Section, etls []string) (kept bool, err error)

// New makes a target with its standard routes.
func New(c Config) *Target {
	t := &Target{
		id: c.ID, store: c.Store, members: c.Members, metrics: c.Metrics, log: c.Logger,
		peers: &http.Client{
			Timeout:       peerTimeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Transport: &http.Transport{
				DialContext:         (&net.Dialer{Timeout: 2 * time.Second}).DialContext,
				MaxIdleConnsPerHost: 8, IdleConnTimeout: 30 * time.Second, DisableCompression: true,
			},
		},
		ctx: context.Background(), patience: cmp.Or(c.CommitTimeout, defaultCommitTimeout),
	}
	t.copies = copies.NewClient(c.ID, t.mapVersion)
	t.deletes = &heal.Deletes{
		Drop: c.Store.Drop, DropSlice: c.Store.DropSlice, Log: c.Audit, Leased: c.Members.Leased, Gate: &t.gate, Version: t.known,
	}
	t.slices = t.keeper(c)
	t.cache = t.newCache(c)
	t.standardRoutes()
	t.copyRoutes()
	t.sliceRoutes()
	return t
}

// ID is the node's id.
func (t *Target) ID() string { return t.id }

// Store is the node's store.
func (t *Target) Store() *store.Store { return t.store }

// Members is the node's view of the cluster.
func (t *Target) Members() *membership.Membership { return t.members }

// Placer places objects by the map as this node last saw it.
func (t *Target) Placer() *api.Placer { return t.members.View().Placer }

// Metrics are the node's instruments.
func (t *Target) Metrics() *telemetry.Metrics { return t.metrics }

// Logger is the node's logger.
func (t *Target) Logger() *slog.Logger { return t.log }

// Context ends when the target stops: what outlives a handler (a hijacked connection) ends with it.
func (t *Target) Context() context.Context { return t.ctx }

// Peers is an HTTP client for short requests to other nodes. It follows no redirects.
func (t *Target) Peers() *http.Client { return t.peers }

// Copies is a client for what targets ask each other about copies of objects.
func (t *Target) Copies() *copies.Client { return t.copies }

// Gate is what all commits of objects here go through.
func (t *Target) Gate() *heal.Gate { return &t.gate }

// SetTransform installs what answers GET ?etl=. Call it before Serve.
func (t *Target) SetTransform(f Transform) { t.transform = f }

// Disks is the state of the node's disks.
func (t *Target) Disks() []api.Disk { return Disks(t.store) }

// Disks renders the state of a store's disks.
func Disks(s *store.Store) []api.Disk {
	usage := s.Disks()
	disks := make([]api.Disk, len(usage))
	for i, d := range usage {
		disks[i] = api.Disk{
			ID: d.ID, Path: d.Path, State: d.State, Reason: d.Reason, Used: d.Used, Capacity: d.Capacity, Reserved: d.Reserved,
		}
	}
	return disks
}

// Serve answers requests on the listener, and on the socket that clients of this machine use, until the
// context ends, then lets those under way finish for a few seconds. It may be called once.
func (t *Target) Serve(ctx context.Context, listener net.Listener) error {
	t.ctx = ctx
	server := &fasthttp.Server{
		Handler:                      t.handle,
		ErrorHandler:                 refuse,
		ReadBufferSize:               maxHeader,
		WriteBufferSize:              64 << 10,
		ReadTimeout:                  headerTimeout,
		IdleTimeout:                  idleTimeout,
		WriteTimeout:                 answerTimeout,
		Concurrency:                  maxConnections,
		TCPKeepalive:                 true,
		StreamRequestBody:            true,
		DisablePreParseMultipartForm: true,
		NoDefaultServerHeader:        true,
		NoDefaultContentType:         true,
		CloseOnShutdown:              true,
		SecureErrorLogMessage:        true,
		Logger:                       serverLog{t.log},
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }() // ends with the listener
	if local := t.listenLocally(ctx); local != nil {
		go func() { _ = server.Serve(local) }() // ends with Shutdown; streams go over TCP then
	}
	select {
	case err := <-failed:
		return fmt.Errorf("serve on %s: %w", listener.Addr(), err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	err := server.ShutdownWithContext(stop)
	t.stages.close()
	t.peers.CloseIdleConnections()
	t.copies.Close()
	if errors.Is(err, context.DeadlineExceeded) {
		t.log.WarnContext(ctx, "stopped while requests were still under way")
		return nil
	}
	if err != nil {
		return fmt.Errorf("stop serving on %s: %w", listener.Addr(), err)
	}
	return nil
}

// listenLocally opens the socket on which loaders of this machine share their memory; nil where that is
// switched off, or not to be had, which costs speed and nothing else.
func (t *Target) listenLocally(ctx context.Context) net.Listener {
	if !api.SharedMemory() {
		return nil
	}
	local, err := (&net.ListenConfig{}).Listen(ctx, "unix", api.LocalSocket(t.Placer().Map.Cluster, t.id))
	if err != nil {
		t.log.WarnContext(ctx, "loaders on this machine will be served over TCP", "reason", err)
		return nil
	}
	return local
}

// refuse answers what could not even be parsed as a request.
func refuse(ctx *fasthttp.RequestCtx, err error) {
	var small *fasthttp.ErrSmallBuffer
	var timeout net.Error
	e := api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "the request does not parse as HTTP")
	switch {
	case errors.As(err, &small):
		e = api.Errorf(http.StatusRequestHeaderFieldsTooLarge, api.CodeBadRequest, "the request's header is larger than %d bytes", maxHeader)
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, os.ErrDeadlineExceeded):
		e = api.Errorf(http.StatusRequestTimeout, api.CodeBadRequest, "the request's header took more than %v to arrive", headerTimeout)
	}
	writeError(ctx, e)
	ctx.SetConnectionClose()
}

// serverLog takes the server's complaints about connections: a matter of clients, not of ours.
type serverLog struct{ log *slog.Logger }

func (l serverLog) Printf(format string, args ...any) {
	l.log.Debug("connection", "detail", fmt.Sprintf(format, args...))
}
