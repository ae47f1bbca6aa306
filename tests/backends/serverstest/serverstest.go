// Package serverstest gives tests the real servers of backends, with a proxy in between that breaks things on demand.
package serverstest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shardstream/shardstream/core/backend"
	"github.com/shardstream/shardstream/tests/backends/faultproxy"
	"github.com/shardstream/shardstream/tests/backends/servers"
)

// Required is the environment variable that makes a missing server a failure. Without it, its tests are skipped.
const Required = "SHARDSTREAM_REQUIRE_BACKENDS"

// Server is a server that tests use.
type Server struct {
	*servers.Server
	// HTTP and TCP are the proxies in front of it: HTTP for all but HDFS, which has one before its name node (TCP) and one
	// before its data node (Data).
	HTTP *faultproxy.HTTP
	TCP  *faultproxy.TCP
	Data *faultproxy.TCP
}

// shared are the servers of a test binary, of which each is started once, if at all.
var shared struct {
	sync.Mutex
	folder  string
	running map[string]*Server
}

// Main runs a package's tests and ends the servers that they have started; a TestMain calls it.
func Main(m *testing.M) int {
	folder, err := os.MkdirTemp("", "shardstream-servers-*")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(folder) }()
	shared.folder, shared.running = folder, map[string]*Server{}
	defer func() {
		for _, s := range shared.running {
			s.stop()
		}
	}()
	return m.Run()
}

// Folder is where a test binary keeps what all of its tests share; it is removed at the end.
func Folder() string { return shared.folder }

// Get is the server of a scheme, which all tests of the binary share, but for another cluster, which is the test's own. Its proxies pass all, and have seen nothing, when a
// test begins: tests that use it are not parallel.
func Get(t testing.TB, kind string) *Server {
	t.Helper()
	if testing.Short() {
		t.Skip("runs a server; -short is for what needs none")
	}
	if kind == backend.Remote {
		return remote(t)
	}
	shared.Lock()
	defer shared.Unlock()
	if shared.running == nil {
		t.Fatal("this package's TestMain does not call serverstest.Main")
	}
	s := shared.running[kind]
	if s == nil {
		dir := filepath.Join(shared.folder, kind)
		if err := os.MkdirAll(dir, 0o750); err != nil {
			t.Fatal(err)
		}
		var err error
		if s, err = start(context.Background(), kind, dir); err != nil {
			missing(t, err)
		}
		shared.running[kind] = s
	}
	s.Heal()
	t.Cleanup(func() {
		s.Heal()
		if t.Failed() {
			t.Logf("the server for %s says: %s", kind, s.Log())
		}
	})
	return s
}

// missing ends a test whose server could not be started.
func missing(t testing.TB, err error) {
	t.Helper()
	if errors.Is(err, servers.ErrMissing) && os.Getenv(Required) == "" {
		t.Skip(err)
	}
	t.Fatal(err)
}

func start(ctx context.Context, kind, dir string) (*Server, error) {
	inner, err := servers.Start(ctx, kind, dir, servers.Options{Relay: true})
	if err != nil {
		return nil, err
	}
	s := &Server{Server: inner}
	if kind != backend.HDFS {
		s.HTTP, err = faultproxy.NewHTTP("", inner.Addr)
	} else if s.TCP, err = faultproxy.NewTCP("", inner.Addr); err == nil {
		s.Data, err = faultproxy.NewTCP(inner.Data, inner.DataBehind)
	}
	if err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

func (s *Server) stop() {
	if s.HTTP != nil {
		s.HTTP.Close()
	}
	if s.TCP != nil {
		s.TCP.Close()
	}
	if s.Data != nil {
		s.Data.Close()
	}
	_ = s.Stop()
}

// Heal ends all faults and forgets what was seen.
func (s *Server) Heal() {
	if s.HTTP != nil {
		s.HTTP.Clear()
		s.HTTP.Reset()
	}
	for _, p := range []*faultproxy.TCP{s.TCP, s.Data} {
		if p != nil {
			p.Clear()
			p.Reset()
		}
	}
}

// ProxyAddr is where clients that go through the proxy reach the server.
func (s *Server) ProxyAddr() string {
	switch {
	case s.Kind == backend.Remote: // which sends them there
		return s.Addr
	case s.HTTP != nil:
		return s.HTTP.Addr
	}
	return s.TCP.Addr
}

// Config is how a backend is opened that has one of the server's buckets, through the proxy.
func (s *Server) Config(t testing.TB, bucket, prefix string) backend.Config {
	t.Helper()
	b := s.Backend(bucket, prefix)
	address, err := backend.ParseAddress(b.URL)
	if err != nil {
		t.Fatal(err)
	}
	return backend.Config{
		Address: address, Endpoint: b.Endpoint, Region: b.Region, Credentials: s.Secret(), Timeout: 10 * time.Second,
	}
}

// Open opens one of the server's buckets, through the proxy, with the server's own secret or another.
func (s *Server) Open(t testing.TB, open backend.Opener, bucket, prefix string, secret map[string]string) backend.Backend {
	t.Helper()
	c := s.Config(t, bucket, prefix)
	if secret != nil {
		c.Credentials = secret
	}
	b, err := open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Reads counts requests for data of an object that have come through the HTTP proxy: its ranges count each.
func (s *Server) Reads(name string) int {
	count := 0
	for _, r := range s.HTTP.Seen() {
		if r.Method == http.MethodGet && isData(r) && strings.HasSuffix(unescaped(r.Path), "/"+name) {
			count++
		}
	}
	return count
}

// Bucket is a bucket of a server that is the test's own.
type Bucket struct {
	Server *Server
	Name   string
	Origin servers.Origin
	t      testing.TB
}

var numbers atomic.Int64

// Bucket makes a new bucket.
func (s *Server) Bucket(t testing.TB) *Bucket {
	t.Helper()
	b := &Bucket{Server: s, Name: fmt.Sprintf("test-%d-%d", os.Getpid(), numbers.Add(1)), t: t}
	var err error
	if b.Origin, err = s.Origin(b.Name); err != nil {
		t.Fatal(err)
	}
	b.must(b.Origin.Make(t.Context()))
	return b
}

func (b *Bucket) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// Put stores an object past the cluster.
func (b *Bucket) Put(name string, data []byte) {
	b.t.Helper()
	b.must(b.Origin.Put(b.t.Context(), name, data))
}

// PutAll stores many objects past the cluster.
func (b *Bucket) PutAll(objects map[string][]byte) {
	b.t.Helper()
	var all errgroup.Group
	all.SetLimit(16)
	for name, data := range objects {
		all.Go(func() error { return b.Origin.Put(b.t.Context(), name, data) })
	}
	b.must(all.Wait())
}

// Get reads an object past the cluster.
func (b *Bucket) Get(name string) ([]byte, error) { return b.Origin.Get(b.t.Context(), name) }

// Delete deletes an object past the cluster.
func (b *Bucket) Delete(name string) {
	b.t.Helper()
	b.must(b.Origin.Delete(b.t.Context(), name))
}
