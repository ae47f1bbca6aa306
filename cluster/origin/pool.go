// Package origin opens the backends of buckets: with the credentials that they name, no further than the node may reach,
// patiently, and counted. Gateways list by them and try them when a bucket is made; targets fetch and put.
package origin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/backend"
)

// How long a secret is taken for what it was, and a backend that nobody asks for is kept open.
const (
	secretFor = 5 * time.Second
	idleFor   = 15 * time.Minute
)

// Secrets are the credentials that buckets name. An unknown one is an *api.Error with CodeNoSecret.
type Secrets interface {
	Get(ctx context.Context, name string) (api.Secret, error)
}

// Config is what a Pool opens backends with.
type Config struct {
	Schemes backend.Set
	Secrets Secrets
	Cluster func() string  // the id of the cluster that the buckets are of
	Allow   []netip.Prefix // networks that backends may be in besides those of the internet
	Policy  backend.Policy // without Backend and Observer
}

// Pool has the backends of a node's buckets. All methods are safe for concurrent use.
type Pool struct {
	config  Config
	guard   *backend.Guard
	metrics *metrics

	mu      sync.Mutex
	buckets map[string]*shared
	secrets map[string]*known
	closed  bool
	ending  sync.WaitGroup // of backends that were replaced: one may wait for calls that hang
}

// shared is the backend of a bucket.
type shared struct {
	reach   reach
	session *session
	backend backend.Backend
	used    time.Time
}

// known is a secret as it was read last.
type known struct {
	secret api.Secret
	at     time.Time
}

// reach is what makes one backend another.
type reach struct {
	url, secret, endpoint, region, ca string
	insecure                          bool
	renewed                           time.Time // the secret
}

// New makes a pool. Its metrics are for Register of the node's telemetry.
func New(c Config) *Pool {
	return &Pool{
		config: c, guard: backend.NewGuard(c.Allow), metrics: newMetrics(),
		buckets: map[string]*shared{}, secrets: map[string]*known{},
	}
}

// Close closes all backends, those in use once they no longer are.
func (p *Pool) Close() error {
	p.mu.Lock()
	p.closed = true
	open := p.buckets
	p.buckets = nil
	p.mu.Unlock()
	var faults []error
	for _, s := range open {
		faults = append(faults, s.session.Close())
	}
	p.ending.Wait()
	return errors.Join(faults...)
}

// Get opens a bucket's backend. It is shared by all who ask for it, and its Close does nothing. It is another once the
// bucket's properties or the secret have changed; what is read through the old one goes on. The credentials are read
// anew as well when the backend refuses them.
func (p *Pool) Get(ctx context.Context, b *api.Bucket) (backend.Backend, error) {
	if b.Backend == nil {
		return nil, fmt.Errorf("bucket %s has no backend", b.Name)
	}
	if err := p.circle(ctx, b); err != nil {
		return nil, err
	}
	secret, err := p.secret(ctx, b.Backend.Secret, secretFor)
	if err != nil {
		return nil, err
	}
	s, err := p.shared(b, secret.Created)
	if err != nil {
		return nil, err
	}
	if err := s.session.prepare(ctx); err != nil {
		return nil, err
	}
	return s.backend, nil
}

func (p *Pool) shared(b *api.Bucket, renewed time.Time) (*shared, error) {
	wanted := reach{
		url: b.Backend.URL, secret: b.Backend.Secret, endpoint: b.Backend.Endpoint, region: b.Backend.Region,
		ca: b.Backend.CA, insecure: b.Backend.Insecure, renewed: renewed,
	}
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errClosed
	}
	if s := p.buckets[b.Name]; s != nil && s.reach == wanted {
		s.used = now
		return s, nil
	}
	for name, s := range p.buckets {
		if name == b.Name || now.Sub(s.used) > idleFor && !s.session.busy() {
			p.ending.Go(func() { _ = s.session.Close() }) // nobody is left to be told
			delete(p.buckets, name)
		}
	}
	session, patient, err := p.session(b.Backend, p.config.Policy, p.via(b))
	if err != nil {
		return nil, err
	}
	s := &shared{reach: wanted, session: session, backend: kept{patient}, used: now}
	p.buckets[b.Name] = s
	return s, nil
}

// kept is a backend that stays open when one of those who share it closes it.
type kept struct{ backend.Backend }

func (kept) Close() error { return nil }

// Open opens a backend of the caller's own, which closes it. It is less patient than those of Get: a person waits.
func (p *Pool) Open(ctx context.Context, b *api.Backend) (backend.Backend, error) {
	policy := p.config.Policy
	policy.Attempts, policy.Patience, policy.Timeout = 3, 10*time.Second, 15*time.Second
	session, patient, err := p.session(b, policy, "")
	if err != nil {
		return nil, err
	}
	if err := session.prepare(ctx); err != nil {
		return nil, errors.Join(err, session.Close())
	}
	return patient, nil
}

// session makes a backend that is not opened yet, for the bucket of that name among clusters.
func (p *Pool) session(b *api.Backend, policy backend.Policy, via string) (*session, backend.Backend, error) {
	address, err := p.check(b)
	if err != nil {
		return nil, nil, err
	}
	s := newSession(address.String(), func(ctx context.Context, again bool) (backend.Backend, error) {
		age := secretFor
		if again {
			age = 0
		}
		secret, err := p.secret(ctx, b.Secret, age)
		if err != nil {
			return nil, err
		}
		return p.config.Schemes.Open(ctx, backend.Config{
			Address: address, Endpoint: b.Endpoint, Region: b.Region, Credentials: secret.Data,
			CA: []byte(b.CA), Insecure: b.Insecure, Dial: p.guard.DialContext, Via: via,
		})
	})
	policy.Backend, policy.Observer = address.String(), p.metrics.of(address.Scheme)
	return s, backend.WithRetries(s, policy), nil
}

// Check says, without asking anybody, why no node can open a backend: this build lacks its scheme, or it names an
// address that must not be reached. Its errors are *backend.Error.
func (p *Pool) Check(b *api.Backend) error {
	_, err := p.check(b)
	return err
}

func (p *Pool) check(b *api.Backend) (backend.Address, error) {
	fault := func(kind backend.Kind, err error) error {
		return &backend.Error{Backend: b.URL, Op: "connect", Kind: kind, Err: err}
	}
	address, err := backend.ParseAddress(b.URL)
	if err != nil {
		return address, &backend.Error{Backend: "the backend's URL", Op: "connect", Kind: backend.Unsupported, Err: err}
	}
	if p.config.Schemes[address.Scheme] == nil {
		return address, fault(backend.Unsupported, fmt.Errorf("this build of shardstream has no %s backends", address.Scheme))
	}
	switch address.Scheme {
	case backend.HDFS, backend.HTTP, backend.HTTPS, backend.Remote:
		for host := range strings.SplitSeq(address.Host, ",") {
			if err := p.guard.CheckHost(host); err != nil {
				return address, err
			}
		}
	}
	if b.Endpoint == "" {
		return address, nil
	}
	u, err := url.Parse(b.Endpoint)
	switch {
	case err != nil, u.Scheme != backend.HTTP && u.Scheme != backend.HTTPS, u.Host == "":
		return address, fault(backend.Unsupported, errors.New("its endpoint is not a URL, such as https://storage.example.org:9000"))
	case u.User != nil:
		return address, fault(backend.Unsupported, errors.New("its endpoint has credentials in it; put them into a secret"))
	}
	return address, p.guard.CheckHost(u.Host)
}

// secret reads a secret, unless it was read a moment ago. One that was read before is used where it can't be read now.
func (p *Pool) secret(ctx context.Context, name string, age time.Duration) (api.Secret, error) {
	if name == "" {
		return api.Secret{}, nil
	}
	p.mu.Lock()
	before := p.secrets[name]
	if before != nil && time.Since(before.at) < age {
		p.mu.Unlock()
		return before.secret, nil
	}
	if before != nil && age > 0 { // others go by what there is while this one looks
		p.secrets[name] = &known{before.secret, time.Now()}
	}
	p.mu.Unlock()
	secret, err := p.config.Secrets.Get(ctx, name)
	var answer *api.Error
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case err == nil:
		p.secrets[name] = &known{secret, time.Now()}
		return secret, nil
	case errors.As(err, &answer) && answer.Code == api.CodeNoSecret:
		delete(p.secrets, name)
		return secret, api.Errorf(http.StatusBadGateway, api.CodeDenied, "the credentials of the backend: %s", answer.Message)
	case before != nil:
		return before.secret, nil
	}
	return secret, err
}
