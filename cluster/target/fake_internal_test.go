package target

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/membership"
	"github.com/shardstream/shardstream/cluster/telemetry"
	"github.com/shardstream/shardstream/core/archive"
	"github.com/shardstream/shardstream/core/store"
	"github.com/shardstream/shardstream/etl"
	"github.com/shardstream/shardstream/etl/outputs"
)

// fake is a runtime of which a test says what it does.
type fake struct {
	etl.Runtime
	definition etl.Definition
	object     func(ctx context.Context, args etl.Args, o etl.Object) (*etl.Output, error)
	sample     func(args etl.Args, in etl.Sample) (etl.Sample, error)
	location   string
	calls      atomic.Int64
	down       chan struct{} // closed by Shutdown
}

func (f *fake) Definition() etl.Definition     { return f.definition }
func (f *fake) Health() etl.Health             { return etl.Health{State: etl.StateReady} }
func (f *fake) Stats() etl.Stats               { return etl.Stats{Requests: f.calls.Load()} }
func (f *fake) Shutdown(context.Context) error { close(f.down); return nil }
func (f *fake) Location(context.Context, etl.Args, etl.Object) (string, error) {
	return f.location, nil
}

func (f *fake) TransformObject(ctx context.Context, args etl.Args, o etl.Object) (*etl.Output, error) {
	f.calls.Add(1)
	return f.object(ctx, args, o)
}

func (f *fake) Transform(_ context.Context, args etl.Args, in []etl.Sample, out []etl.Result) error {
	f.calls.Add(1)
	for i := range in {
		sample, err := f.sample(args, in[i])
		out[i] = etl.Result{Sample: sample, Err: err}
	}
	return nil
}

// outputOf is a transformed object from a reader, or as much of one as is told.
func outputOf(body io.Reader, size int64) *etl.Output {
	closer, ok := body.(io.ReadCloser)
	if !ok {
		closer = io.NopCloser(body)
	}
	return &etl.Output{Body: closer, Size: size, ContentType: "text/x-fake"}
}

// bench is a target with one disk whose transformations are fakes.
type bench struct {
	t      testing.TB
	target *Target
	etls   *ETLs
	kept   string // where outputs are kept
	url    string
	client *api.Client
}

func newBench(t testing.TB) *bench {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	etcd, err := membership.StartEtcd(t.Context(), membership.EtcdConfig{Dir: t.TempDir(), Name: "gateway-1", Logger: log})
	require.NoError(t, err)
	t.Cleanup(etcd.Close)
	members, err := membership.Join(t.Context(), membership.Config{
		Endpoints: etcd.Endpoints(), LeaseTTL: 10 * time.Minute, Logger: log,
		Self: api.Node{ID: "target-1", Role: api.RoleTarget, Addr: listener.Addr().String(), Weight: 1},
	})
	require.NoError(t, err)
	running, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = members.Run(running)
	}()
	t.Cleanup(func() {
		stop()
		<-ended
		_ = members.Close()
	})
	bucket, err := json.Marshal(api.Bucket{Name: "b", Mirror: 1})
	require.NoError(t, err)
	_, err = members.KV("buckets").Put(t.Context(), "b", bucket)
	require.NoError(t, err)
	s, err := store.Open(store.Options{Disks: []store.Disk{{ID: "disk-1", Path: t.TempDir()}}, Logger: log})
	require.NoError(t, err)
	b := &bench{t: t, kept: t.TempDir(), url: "http://" + listener.Addr().String()}
	b.target = New(Config{ID: "target-1", Store: s, Members: members, Logger: log, Metrics: telemetry.New(telemetry.Identity{Node: "target-1", Role: api.RoleTarget})})
	b.etls, err = NewETLs(b.target, t.TempDir())
	require.NoError(t, err)
	cache, err := outputs.Open(outputs.Options{Dir: b.kept, Quota: 64 << 20, Logger: log})
	require.NoError(t, err)
	require.NoError(t, b.etls.Keep(cache))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.target.Serve(ctx, listener) }() // ends with the test
	gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(members.View().Map()) // nothing else is asked of it
	}))
	b.client, err = api.NewClient(api.Options{Endpoint: gateway.URL, Token: "secret", RetryFor: -1})
	require.NoError(t, err)
	t.Cleanup(func() {
		b.client.Close()
		gateway.Close()
		http.DefaultClient.CloseIdleConnections()
		cancel()
		require.NoError(t, <-done)
		b.etls.Close()
		require.NoError(t, s.Close()) // no object is left open
		require.True(t, transforms.TryAcquire(transformMemory), "memory is held")
		transforms.Release(transformMemory)
	})
	return b
}

func (b *bench) put(key string, data []byte) {
	b.t.Helper()
	_, err := b.target.store.Put(b.t.Context(), "b", key, bytes.NewReader(data), store.PutOptions{Size: int64(len(data)), Archive: archive.FormatOf(key)})
	require.NoError(b.t, err)
}

// deploy puts a fake in the place of a transformation, of version 1 where there was none.
func (b *bench) deploy(name, level string, f *fake) *fake {
	b.t.Helper()
	b.etls.mu.Lock()
	defer b.etls.mu.Unlock()
	version := int64(1)
	if old := b.etls.known[name]; old != nil {
		version = old.definition.Version + 1
		b.etls.forget(name)
	}
	f.down = make(chan struct{})
	f.definition.Name, f.definition.Level, f.definition.Version = name, level, version
	f.definition = f.definition.WithDefaults()
	d := newDeployed(b.etls.ctx, api.ETL{Name: name, Version: version})
	d.once.Do(func() { d.runtime = f })
	d.note(nil)
	b.etls.known[name] = d
	return f
}

// do makes a request and reads its answer; err is that of reading.
func (b *bench) do(method, path string, header ...string) (r *http.Response, body []byte, err error) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Minute)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, b.url+"/v1/objects/b/"+path, http.NoBody)
	require.NoError(b.t, err)
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	r, err = client.Do(request)
	require.NoError(b.t, err)
	defer func() { _ = r.Body.Close() }()
	body, err = io.ReadAll(r.Body)
	return r, body, err
}

// get expects an answer of this status that is whole.
func (b *bench) get(status int, path string, header ...string) (*http.Response, []byte) {
	b.t.Helper()
	r, body, err := b.do(http.MethodGet, path, header...)
	require.NoError(b.t, err)
	require.Equal(b.t, status, r.StatusCode, string(body[:min(len(body), 500)]))
	return r, body
}
