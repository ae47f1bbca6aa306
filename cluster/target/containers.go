package target

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/store"
	"github.com/shardstream/shardstream/etl"
	"github.com/shardstream/shardstream/etl/engine"
	"github.com/shardstream/shardstream/etl/server"
)

// sweepTimeout bounds the search for containers that a killed node has left behind.
const sweepTimeout = 2 * time.Minute

// sourcePath is where ETL servers read objects: /v1/etl-objects/{source}/{bucket}/{key}.
const sourcePath = "/v1/etl-objects/"

// UseContainers lets the target run containers by an engine (see engine.Names), which keeps its own things in dir, and
// serves objects to them and to users' servers at addr, the node's own address. Call it before Run.
func (e *ETLs) UseContainers(name, dir, addr string) error {
	engines, err := engine.New(engine.Options{Engine: name, Dir: dir, Logger: e.target.log})
	if err != nil {
		return err
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	e.options.Engines, e.options.Host, e.options.Target = engines, host, e.target.id
	e.options.Labels = map[string]string{"shardstream.node": e.target.id}
	e.options.Source = func(def etl.Definition) string { return e.source(def, addr) }
	e.target.Handle("GET", sourcePath+"{source}/{path...}", e.getSource)
	e.target.Handle("HEAD", sourcePath+"{source}/{path...}", e.getSource)
	return nil
}

// sweepContainers removes what a killed process of this node has left behind.
func (e *ETLs) sweepContainers(ctx context.Context) {
	if e.options.Engines == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	swept, err := e.options.Engines.Sweep(ctx)
	switch {
	case err != nil && ctx.Err() == nil:
		e.target.log.Warn("containers of an earlier run could not all be removed", "error", err)
	case swept > 0:
		e.target.log.Info("containers of an earlier run were removed", "containers", swept)
	}
}

// source is the URL at which a definition's server reads objects of this node. A container's holds a secret: whoever has
// it may read. A server that somebody else runs is told a URL once, by hand, so it goes by the definition's name.
func (e *ETLs) source(def etl.Definition, addr string) string {
	if def.Network == etl.NetworkBridge {
		if host, port, err := net.SplitHostPort(addr); err == nil {
			if ip := net.ParseIP(host); ip != nil && ip.IsLoopback() {
				addr = net.JoinHostPort(engine.HostName, port)
			}
		}
	}
	key := def.Name
	if def.Kind == etl.KindContainer {
		var secret [16]byte
		_, _ = rand.Read(secret[:]) // never fails
		key = hex.EncodeToString(secret[:])
		e.sources.add(key, api.ETL{Name: def.Name, Version: def.Version})
	}
	return "http://" + addr + sourcePath + key
}

// maySource says whether a source is that of a runtime which lives, or of a server that is deployed.
func (e *ETLs) maySource(key string) bool {
	if e.sources.has(key) {
		return true
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	d := e.known[key]
	return d != nil && d.definition.Kind == etl.KindServer
}

// sources are the secrets by which containers read objects, each of one version of a definition.
type sources struct {
	mu      sync.Mutex
	secrets map[string]api.ETL
}

func (s *sources) add(secret string, of api.ETL) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.secrets == nil {
		s.secrets = map[string]api.ETL{}
	}
	s.secrets[secret] = of
}

func (s *sources) has(secret string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.secrets[secret]
	return ok
}

// drop ends the reading of a runtime that is gone.
func (s *sources) drop(gone api.ETL) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.secrets, func(_ string, of api.ETL) bool { return of.Name == gone.Name && of.Version == gone.Version })
}

// getSource gives an object to an ETL server, as GET /v1/objects would. The path's parts may be escaped in any way, also
// as one segment.
func (e *ETLs) getSource(r *Request) error {
	if !e.maySource(r.Param("source")) {
		return api.Errorf(http.StatusNotFound, api.CodeNotFound, "no ETL of this node reads here")
	}
	whole := strings.TrimPrefix(r.Param("path"), "/")
	bucket, key, _ := strings.Cut(whole, "/")
	member := ""
	if b, k, m := server.ParsePath(whole); m != "" && !e.target.has(bucket, key) {
		bucket, key, member = b, k, m
	}
	r.params = map[string]string{"bucket": bucket, "key": key}
	query := r.QueryArgs()
	query.Reset()
	if member != "" {
		query.Set("member", member)
	}
	err := e.target.getObject(r)
	if location := r.Response.Header.Peek("Location"); err == nil && len(location) > 0 {
		// Another target has it, where this source is not known.
		if u, parseErr := url.Parse(string(location)); parseErr == nil {
			u.Path, u.RawPath = "/v1/objects/"+bucket+"/"+key, ""
			r.Response.Header.Set("Location", u.String())
		}
	}
	return err
}

// has says whether this node has such an object.
func (t *Target) has(bucket, key string) bool {
	object, err := t.store.Open(bucket, key)
	if err == nil {
		_ = object.Close()
	}
	return !errors.Is(err, store.ErrNotFound)
}
