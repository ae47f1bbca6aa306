package origin_test

import (
	"context"
	"errors"
	"io"
	"iter"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/origin"
	"github.com/shardstream/shardstream/core/backend"
)

// secrets are those of a cluster.
type secrets struct {
	mu    sync.Mutex
	known map[string]api.Secret
	down  bool
	reads int
}

func (s *secrets) set(name, key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known == nil {
		s.known = map[string]api.Secret{}
	}
	s.known[name] = api.Secret{Name: name, Created: time.Now(), Data: map[string]string{"key": key}}
}

func (s *secrets) Get(_ context.Context, name string) (api.Secret, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads++
	if s.down {
		return api.Secret{}, errors.New("etcd does not answer")
	}
	secret, known := s.known[name]
	if !known {
		return secret, api.Errorf(http.StatusNotFound, api.CodeNoSecret, "there is no secret %s", name)
	}
	return secret, nil
}

// place is a backend that takes one key.
type place struct {
	mu     sync.Mutex
	key    string // that is right; "": any
	opened []*opened
	// closing holds up whoever closes until it is closed; nil: nobody.
	closing chan struct{}
}

type opened struct {
	place  *place
	config backend.Config
	closed bool
}

func (p *place) open(_ context.Context, c backend.Config) (backend.Backend, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	o := &opened{place: p, config: c}
	p.opened = append(p.opened, o)
	return o, nil
}

func (p *place) state() (opened, closed int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, o := range p.opened {
		if o.closed {
			closed++
		}
	}
	return len(p.opened), closed
}

func (o *opened) check() error {
	o.place.mu.Lock()
	defer o.place.mu.Unlock()
	if o.closed {
		return errors.New("used after it was closed")
	}
	if o.place.key != "" && o.config.Credentials["key"] != o.place.key {
		return &backend.Error{Backend: o.config.String(), Op: "stat", Kind: backend.Denied, Status: 403}
	}
	return nil
}

func (o *opened) Stat(_ context.Context, name string) (backend.Entry, error) {
	return backend.Entry{Name: name, Size: 4, Tag: "t"}, o.check()
}

func (o *opened) Open(_ context.Context, name string, _ backend.OpenOptions) (*backend.Body, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	return &backend.Body{ReadCloser: &watchedBody{strings.NewReader("body"), o}, Entry: backend.Entry{Name: name, Size: 4, Tag: "t"}, Length: 4}, nil
}

type watchedBody struct {
	io.Reader
	o *opened
}

func (w *watchedBody) Read(p []byte) (int, error) {
	if err := w.o.check(); err != nil {
		return 0, err
	}
	return w.Reader.Read(p)
}

func (w *watchedBody) Close() error { return nil }

func (o *opened) Put(_ context.Context, name string, body io.ReadSeeker, size int64, _ backend.PutOptions) (backend.Entry, error) {
	data, err := io.ReadAll(body)
	if err == nil && int64(len(data)) != size {
		err = errors.New("not all of the body")
	}
	return backend.Entry{Name: name, Size: size, Tag: "t"}, errors.Join(err, o.check())
}

func (o *opened) Delete(context.Context, string) error { return o.check() }

func (o *opened) List(context.Context, string, string) iter.Seq2[backend.Entry, error] {
	return func(yield func(backend.Entry, error) bool) {
		if err := o.check(); err != nil {
			yield(backend.Entry{}, err)
			return
		}
		_ = yield(backend.Entry{Name: "a"}, nil) && yield(backend.Entry{Name: "b"}, nil)
	}
}

func (o *opened) Close() error {
	if o.place.closing != nil {
		<-o.place.closing
	}
	o.place.mu.Lock()
	defer o.place.mu.Unlock()
	if o.closed {
		return errors.New("closed twice")
	}
	o.closed = true
	return nil
}

func pool(p *place, s *secrets, allow ...string) *origin.Pool {
	networks, _ := backend.ParseAllow(allow)
	return origin.New(origin.Config{Schemes: backend.Set{backend.S3: p.open, backend.HTTP: p.open, backend.HDFS: p.open}, Secrets: s, Allow: networks})
}

func bucket(secret string) *api.Bucket {
	return &api.Bucket{Name: "b", Backend: &api.Backend{URL: "s3://bucket/prefix", Secret: secret}}
}

func TestABucketsBackendIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, s := &place{}, &secrets{}
		s.set("keys", "one")
		o := pool(p, s)
		var wait sync.WaitGroup
		for range 20 {
			wait.Go(func() {
				b, err := o.Get(t.Context(), bucket("keys"))
				require.NoError(t, err)
				_, err = b.Stat(t.Context(), "a")
				require.NoError(t, err)
				require.NoError(t, b.Close())
			})
		}
		wait.Wait()
		opened, closed := p.state()
		require.Equal(t, []int{1, 0}, []int{opened, closed})
		require.Equal(t, "one", p.opened[0].config.Credentials["key"])
		require.NoError(t, o.Close())
		_, closed = p.state()
		require.Equal(t, 1, closed)
		_, err := o.Get(t.Context(), bucket("keys"))
		require.Error(t, err)
	})
}

func TestAnotherSecretIsAnotherBackend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, s := &place{}, &secrets{}
		s.set("keys", "one")
		o := pool(p, s)
		defer func() { require.NoError(t, o.Close()) }()
		before, err := o.Get(t.Context(), bucket("keys"))
		require.NoError(t, err)
		body, err := before.Open(t.Context(), "a", backend.OpenOptions{})
		require.NoError(t, err)

		time.Sleep(time.Second)
		s.set("keys", "two")
		time.Sleep(5 * time.Second)
		after, err := o.Get(t.Context(), bucket("keys"))
		require.NoError(t, err)
		_, err = after.Stat(t.Context(), "a")
		require.NoError(t, err)
		opened, closed := p.state()
		require.Equal(t, []int{2, 0}, []int{opened, closed}, "what is read goes on")
		data, err := io.ReadAll(body)
		require.NoError(t, err)
		require.Equal(t, "body", string(data))
		require.NoError(t, body.Close())
		synctest.Wait()
		_, closed = p.state()
		require.Equal(t, 1, closed, "and then the old one is closed")
		require.Equal(t, "two", p.opened[1].config.Credentials["key"])

		s.down = true
		time.Sleep(time.Hour)
		again, err := o.Get(t.Context(), bucket("keys"))
		require.NoError(t, err, "what was read serves while etcd is away")
		_, err = again.Stat(t.Context(), "a")
		require.NoError(t, err)
	})
}

// A backend that takes its time to close, or is used for long without anybody asking for it anew, is in nobody's way.
func TestBackendsEndInTheBackground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, s := &place{}, &secrets{}
		p.closing = make(chan struct{})
		o := pool(p, s)
		get := func(name, url string) backend.Backend {
			b, err := o.Get(t.Context(), &api.Bucket{Name: name, Backend: &api.Backend{URL: url}})
			require.NoError(t, err)
			return b
		}
		body, err := get("a", "s3://one").Open(t.Context(), "x", backend.OpenOptions{})
		require.NoError(t, err)
		get("b", "s3://two")
		time.Sleep(time.Hour)
		get("c", "s3://three")
		get("c", "s3://four") // while two and three do not get to their ends
		data, err := io.ReadAll(body)
		require.NoError(t, err)
		require.Equal(t, "body", string(data))
		_, err = get("a", "s3://one").Stat(t.Context(), "x")
		require.NoError(t, err)
		opened, _ := p.state()
		require.Equal(t, 4, opened, "what is read is not closed for being idle")
		require.NoError(t, body.Close())
		close(p.closing)
		require.NoError(t, o.Close())
		_, closed := p.state()
		require.Equal(t, 4, closed)
	})
}

func TestCredentialsThatWereRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, s := &place{key: "one"}, &secrets{}
		s.set("keys", "one")
		o := pool(p, s)
		defer func() { require.NoError(t, o.Close()) }()
		b, err := o.Get(t.Context(), bucket("keys"))
		require.NoError(t, err)
		for _, call := range []func() error{
			func() error { _, err := b.Stat(t.Context(), "a"); return err },
			func() error { return b.Delete(t.Context(), "a") },
			func() error {
				_, err := b.Put(t.Context(), "a", strings.NewReader("body"), 4, backend.PutOptions{})
				return err
			},
			func() error {
				names := ""
				for e, err := range b.List(t.Context(), "", "") {
					if err != nil {
						return err
					}
					names += e.Name
				}
				require.Equal(t, "ab", names)
				return nil
			},
			func() error {
				body, err := b.Open(t.Context(), "a", backend.OpenOptions{})
				if err != nil {
					return err
				}
				_, err = io.ReadAll(body)
				return errors.Join(err, body.Close())
			},
		} {
			require.NoError(t, call())
			time.Sleep(time.Minute)
			key := time.Now().String()
			p.mu.Lock()
			p.key = key // expired, and renewed at once
			p.mu.Unlock()
			s.set("keys", key)
			require.NoError(t, call(), "read anew when it was refused")
		}
		p.mu.Lock()
		p.key = "another"
		p.mu.Unlock()
		time.Sleep(time.Minute)
		opened, _ := p.state()
		for range 10 {
			_, err := b.Stat(t.Context(), "a")
			require.Equal(t, backend.Denied, backend.KindOf(err))
		}
		now, closed := p.state()
		require.Equal(t, opened+1, now, "not for each call")
		require.Equal(t, now-1, closed)
	})
}

func TestASecretThatIsNotThere(t *testing.T) {
	o := pool(&place{}, &secrets{})
	defer func() { require.NoError(t, o.Close()) }()
	_, err := o.Get(t.Context(), bucket("keys"))
	var answer *api.Error
	require.ErrorAs(t, err, &answer)
	require.Equal(t, api.CodeDenied, answer.Code)
	require.ErrorContains(t, err, "there is no secret keys")
	_, err = o.Open(t.Context(), bucket("keys").Backend)
	require.ErrorContains(t, err, "there is no secret keys")
}

func TestOpenIsTheCallersOwn(t *testing.T) {
	p := &place{}
	o := pool(p, &secrets{})
	b, err := o.Open(t.Context(), bucket("").Backend)
	require.NoError(t, err)
	_, err = b.Stat(t.Context(), "a")
	require.NoError(t, err)
	require.NoError(t, b.Close())
	_, closed := p.state()
	require.Equal(t, 1, closed)
	require.NoError(t, o.Close())
}

func TestWhatIsRefusedWithoutAsking(t *testing.T) {
	o := pool(&place{}, &secrets{}, "10.1.0.0/16")
	for _, test := range []struct {
		url, endpoint string
		kind          backend.Kind // Failed: none
		says          string
	}{
		{"http://127.0.0.1:8080/x/", "", backend.Forbidden, "backend_allow"},
		{"http://169.254.169.254/latest/", "", backend.Forbidden, "metadata"},
		{"http://[::1]/x/", "", backend.Forbidden, "this host"},
		{"http://10.2.0.1/x/", "", backend.Forbidden, "private"},
		{"http://10.1.0.1/x/", "", backend.Failed, ""},
		{"http://example.org/x/", "", backend.Failed, ""},
		{"hdfs://8.8.8.8:8020,192.168.0.1:8020/x", "", backend.Forbidden, "192.168.0.1"},
		{"s3://bucket", "http://127.0.0.1:9000", backend.Forbidden, "this host"},
		{"s3://127.0.0.1", "", backend.Failed, ""}, // a bucket's name
		{"s3://bucket", "https://user:hidden@store.example.org", backend.Unsupported, "credentials"},
		{"s3://bucket", "store.example.org", backend.Unsupported, "not a URL"},
		{"gs://bucket", "", backend.Unsupported, "no gs backends"},
		{"ftp://bucket", "", backend.Unsupported, "begins with"},
	} {
		err := o.Check(&api.Backend{URL: test.url, Endpoint: test.endpoint})
		if test.says == "" {
			require.NoError(t, err, test.url)
			continue
		}
		require.Equal(t, test.kind, backend.KindOf(err), "%s: %v", test.url, err)
		require.ErrorContains(t, err, test.says, test.url)
		require.NotContains(t, err.Error(), "hidden")
	}
	require.NoError(t, o.Close())
}

func TestConnectionsAreGuarded(t *testing.T) {
	p := &place{}
	o := origin.New(origin.Config{Schemes: backend.Set{backend.S3: p.open}, Secrets: &secrets{}, Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.7/32")}})
	_, err := o.Get(t.Context(), bucket(""))
	require.NoError(t, err)
	_, err = p.opened[0].config.Dial(t.Context(), "tcp", "localhost:80")
	require.Equal(t, backend.Forbidden, backend.KindOf(err))
	_, err = p.opened[0].config.Dial(t.Context(), "tcp", "127.0.0.7:1")
	require.Error(t, err)
	require.NotEqual(t, backend.Forbidden, backend.KindOf(err), "allowed, and nobody is there")
	require.NoError(t, o.Close())
}

func TestMetrics(t *testing.T) {
	p := &place{key: "right"}
	o := pool(p, &secrets{})
	registry := prometheus.NewRegistry()
	require.NoError(t, registry.Register(o))
	b, err := o.Get(t.Context(), bucket(""))
	require.NoError(t, err)
	_, err = b.Stat(t.Context(), "a")
	require.Error(t, err)
	p.mu.Lock()
	p.key = ""
	p.mu.Unlock()
	body, err := b.Open(t.Context(), "a", backend.OpenOptions{})
	require.NoError(t, err)
	_, err = io.ReadAll(body)
	require.NoError(t, err)
	require.NoError(t, body.Close())
	families, err := registry.Gather()
	require.NoError(t, err)
	seen := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			labels := family.GetName()
			for _, l := range m.GetLabel() {
				labels += " " + l.GetValue()
			}
			seen[labels] = m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	require.Equal(t, map[string]float64{
		"shardstream_backend_errors_total access_denied stat s3": 1,
		"shardstream_backend_request_duration_seconds stat s3":   1,
		"shardstream_backend_request_duration_seconds open s3":   1,
		"shardstream_backend_request_duration_seconds read s3":   1,
		"shardstream_backend_bytes_total read s3":                4,
	}, seen)
	require.NoError(t, o.Close())
}
