package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/shardstream/shardstream/etl"
)

const (
	healthTimeout = 5 * time.Second
	// idleConnection is shorter than servers keep theirs, so that none is closed under a request.
	idleConnection = time.Second
	errorHead      = 4 << 10 // bytes of an answer with an error that are shown
)

// endpoint is one running server and the connections to it.
type endpoint struct {
	base     string // of requests, without the slash at its end
	public   string // of clients that are sent on to it
	client   *http.Client
	rootOnly bool // takes PUT / alone; guarded by mu

	mu    sync.Mutex
	users int
	idle  chan struct{} // made by drained, closed when the last user has gone
}

// newEndpoint makes connections by dial, or to base where that is nil.
func newEndpoint(base, public string, workers int, dial func(ctx context.Context) (net.Conn, error)) *endpoint {
	transport := &http.Transport{
		MaxIdleConns: workers, MaxIdleConnsPerHost: workers, IdleConnTimeout: idleConnection, DisableCompression: true,
		MaxResponseHeaderBytes: 64 << 10, ReadBufferSize: 64 << 10, WriteBufferSize: 64 << 10,
		DialContext: (&net.Dialer{Timeout: healthTimeout}).DialContext, TLSHandshakeTimeout: healthTimeout,
	}
	if dial != nil {
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }
	}
	return &endpoint{
		base: base, public: public,
		client: &http.Client{
			Transport:     transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// use counts a user; release is called for each.
func (e *endpoint) use() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.users++
}

func (e *endpoint) release() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.users--; e.users == 0 && e.idle != nil {
		close(e.idle)
		e.idle = nil
	}
}

// drained is closed once nobody uses the endpoint.
func (e *endpoint) drained() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.users == 0 {
		done := make(chan struct{})
		close(done)
		return done
	}
	if e.idle == nil {
		e.idle = make(chan struct{})
	}
	return e.idle
}

func (e *endpoint) close() { e.client.CloseIdleConnections() }

// check asks for the server's health.
func (e *endpoint) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, e.base+"/health", nil)
	if err != nil {
		return err
	}
	answer, err := e.client.Do(request)
	if err != nil {
		return unwrapURL(err)
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, errorHead))
	if answer.StatusCode/100 != 2 {
		return fmt.Errorf("GET /health is answered with %s", answer.Status)
	}
	return nil
}

// takesPaths says whether PUT goes to the object's path, which is so until the server has shown that it knows / alone.
func (e *endpoint) takesPaths() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return !e.rootOnly
}

func (e *endpoint) learnRootOnly() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.rootOnly = true
}

// memberMark separates an object's key from the member of it that is meant; see ParsePath.
const memberMark = ";member="

// path is that of an object: /bucket/key, each segment escaped.
func path(o etl.Object) string {
	name := strings.TrimPrefix(o.Key, "/")
	if o.Bucket != "" {
		name = o.Bucket + "/" + name
	}
	if o.Member != "" {
		name += memberMark + o.Member
	}
	segments := strings.Split(name, "/")
	for i, s := range segments {
		segments[i] = url.PathEscape(s)
	}
	return "/" + strings.Join(segments, "/")
}

// ParsePath takes apart the path, decoded and without its first slash, at which a server reads from its node. Since a
// key may hold what marks a member, the caller looks for the object named by the whole path first.
func ParsePath(name string) (bucket, key, member string) {
	bucket, key, _ = strings.Cut(name, "/")
	if i := strings.LastIndex(key, memberMark); i >= 0 {
		key, member = key[:i], key[i+len(memberMark):]
	}
	return bucket, key, member
}

// query is that of a request with arguments.
func query(args etl.Args) string {
	if len(args) == 0 {
		return ""
	}
	return "?" + url.Values{"etl_args": {string(args)}}.Encode()
}

// unwrapURL drops the method and URL that net/http puts before an error: they name a socket nobody knows.
func unwrapURL(err error) error {
	if u, ok := err.(*url.Error); ok { //nolint:errorlint // the outermost alone
		return u.Err
	}
	return err
}

// isDial says that no connection was made, so that nothing was sent.
func isDial(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}
