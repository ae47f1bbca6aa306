package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// DefaultEndpoint is where a cluster of this machine answers.
const DefaultEndpoint = "http://127.0.0.1:7070"

// Limits of a Client's patience, where Options name none.
const (
	DefaultTimeout  = 30 * time.Second
	DefaultRetryFor = 10 * time.Second

	connectTimeout  = 3 * time.Second
	answerTimeout   = 60 * time.Second // from the end of a request to the head of its answer
	gatewayPatience = 2 * time.Second  // for a gateway that refuses connections
	maxDocument     = 256 << 20        // of JSON
)

// Options configure a Client.
type Options struct {
	// Endpoint is the URL of a gateway, or of several, separated by commas: another is spoken to where one does not answer.
	// "": SHARDSTREAM_ENDPOINT, else DefaultEndpoint.
	Endpoint string
	Token    string        // "": SHARDSTREAM_TOKEN; sent to the endpoint only
	NoToken  bool          // none, not even the environment's, which may be for another cluster
	Timeout  time.Duration // of one request for a document, and of a body without progress
	RetryFor time.Duration // how long calls that may be repeated are repeated; negative: never
	// RequestID marks all requests of this client in the logs of the nodes; "": each gets its own.
	RequestID string
	Transport http.RoundTripper // a seam for tests; nil: one of its own
}

// Client speaks to a cluster. Metadata goes through the gateway of its endpoint, data straight to the
// target that owns it, by a map that it keeps and renews when an answer shows that it is old. All
// methods are safe for concurrent use; errors that a node reported are *Error.
type Client struct {
	options   Options
	endpoints *endpoints
	documents *http.Client // of gateways, and what is transformed; each request has a limit of its own
	data      *http.Client // to and from targets; a body may take long, an answer not

	mu     sync.Mutex
	placer *Placer
}

// NewClient makes a client. It does not connect yet.
func NewClient(o Options) (*Client, error) {
	if o.Endpoint == "" {
		o.Endpoint = os.Getenv("SHARDSTREAM_ENDPOINT")
	}
	if o.Endpoint == "" {
		o.Endpoint = DefaultEndpoint
	}
	if o.Token == "" && !o.NoToken {
		o.Token = os.Getenv("SHARDSTREAM_TOKEN")
	}
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if o.RetryFor == 0 {
		o.RetryFor = DefaultRetryFor
	}
	endpoints, err := parseEndpoints(o.Endpoint)
	if err != nil {
		return nil, err
	}
	c := &Client{options: o, endpoints: endpoints}
	c.documents, c.data = httpClient(o.Transport, 0), httpClient(o.Transport, answerTimeout)
	return c, nil
}

func httpClient(transport http.RoundTripper, answer time.Duration) *http.Client {
	if transport == nil {
		transport = newTransport(answer)
	}
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func newTransport(answer time.Duration) *http.Transport {
	return &http.Transport{
		DialContext:           (&net.Dialer{Timeout: connectTimeout, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout:   connectTimeout,
		ResponseHeaderTimeout: answer,
		ExpectContinueTimeout: connectTimeout,
		MaxIdleConnsPerHost:   64,
		IdleConnTimeout:       30 * time.Second, // shorter than the nodes' own, so that none is closed under a request
		DisableCompression:    true,
		WriteBufferSize:       256 << 10,
		ReadBufferSize:        256 << 10,
	}
}

// Endpoint is the gateway that the client speaks to now.
func (c *Client) Endpoint() string {
	u, _ := c.endpoints.current()
	return strings.TrimSuffix(u.String(), "/")
}

// Close gives up idle connections.
func (c *Client) Close() {
	c.documents.CloseIdleConnections()
	c.data.CloseIdleConnections()
}

// Map is the cluster map that the client goes by; the first call fetches it.
func (c *Client) Map(ctx context.Context) (Map, error) {
	p, err := c.Placer(ctx)
	if err != nil {
		return Map{}, err
	}
	return p.Map, nil
}

// Placer places objects by the client's map.
func (c *Client) Placer(ctx context.Context) (*Placer, error) {
	c.mu.Lock()
	p := c.placer
	c.mu.Unlock()
	if p != nil {
		return p, nil
	}
	return c.RefreshMap(ctx)
}

// RefreshMap fetches the map anew.
func (c *Client) RefreshMap(ctx context.Context) (*Placer, error) {
	var m Map
	if err := c.get(ctx, "/v1/cluster/map", nil, &m); err != nil {
		return nil, err
	}
	p := NewPlacer(m)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.placer != nil && c.placer.Map.Version > m.Version && c.placer.Map.Cluster == m.Cluster {
		return c.placer, nil // a gateway that is behind another
	}
	c.placer = p
	return p, nil
}

// noteMap forgets a map that an answer shows to be old.
func (c *Client) noteMap(h http.Header) {
	version, err := strconv.ParseInt(h.Get(HeaderMap), 10, 64)
	if err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.placer != nil && version > c.placer.Map.Version {
		c.placer = nil
	}
}

func (c *Client) forgetMap() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.placer = nil
}

// get fetches a document from the gateway, again and again where the gateway can't just now.
func (c *Client) get(ctx context.Context, path string, query url.Values, out any) error {
	limit := c.options.Timeout
	if c.endpoints.several() {
		limit = min(limit, otherPatience)
	}
	return c.retry(ctx, func() error { return c.callFor(ctx, limit, http.MethodGet, path, query, nil, out) })
}

// fetch gets a document from the gateway.
func fetch[T any](ctx context.Context, c *Client, path string, query url.Values) (T, error) {
	var document T
	err := c.get(ctx, path, query, &document)
	return document, err
}

// call makes one request for a document to the gateway.
func (c *Client) call(ctx context.Context, method, path string, query url.Values, in, out any) error {
	return c.callFor(ctx, c.options.Timeout, method, path, query, in, out)
}

// callFor goes through the gateways until one is there.
func (c *Client) callFor(ctx context.Context, limit time.Duration, method, path string, query url.Values, in, out any) error {
	for tried := 1; ; tried++ {
		_, at := c.endpoints.current()
		err := c.callOnce(ctx, limit, method, path, query, in, out)
		c.endpoints.next(at, err)
		if err == nil || !unsent(err) || tried >= len(c.endpoints.urls) || ctx.Err() != nil {
			return err
		}
	}
}

func (c *Client) callOnce(ctx context.Context, limit time.Duration, method, path string, query url.Values, in, out any) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errStalled)
	defer cancel()
	var body io.Reader
	if in != nil {
		document, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("%s %s: %w", method, path, err)
		}
		body = bytes.NewReader(document)
	}
	request, err := http.NewRequestWithContext(ctx, method, c.gatewayURL(path, query), body)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	if in != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	c.sign(request)
	response, err := c.documents.Do(request)
	if err != nil {
		if context.Cause(ctx) == errStalled { //nolint:errorlint // set by us
			return Errorf(http.StatusServiceUnavailable, CodeUnavailable, "%s did not answer %s %s within %v", c.Endpoint(), method, path, limit)
		}
		return err
	}
	defer drain(response)
	c.noteMap(response.Header)
	if response.StatusCode >= 300 {
		return ErrorOf(response)
	}
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, maxDocument)).Decode(out); err != nil {
		return fmt.Errorf("%s %s: the answer does not parse: %w", method, path, err)
	}
	return nil
}

func (c *Client) gatewayURL(path string, query url.Values) string {
	u := c.Endpoint() + path
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	return u
}

// sign adds what every request to the endpoint carries. Targets get no token (see Options.Token).
func (c *Client) sign(r *http.Request) {
	if c.options.RequestID != "" {
		r.Header.Set(HeaderRequestID, c.options.RequestID)
	}
	if c.options.Token != "" && c.endpoints.has(r.URL.Host) {
		r.Header.Set("Authorization", "Bearer "+c.options.Token)
	}
}

// retry repeats a call while it fails for a reason that passes, until RetryFor is over.
func (c *Client) retry(ctx context.Context, call func() error) error {
	start := time.Now()
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, 500*time.Millisecond) {
		err := call()
		if err == nil || !passing(err) || ctx.Err() != nil {
			return err
		}
		patience := c.options.RetryFor
		if errors.Is(err, syscall.ECONNREFUSED) && c.isEndpoint(err) {
			patience = min(patience, gatewayPatience)
		}
		wait := wait/2 + rand.N(wait)
		if time.Since(start)+wait > patience {
			return err
		}
		if !sleep(ctx, wait) {
			return err
		}
	}
}

func (c *Client) isEndpoint(err error) bool {
	var request *url.Error
	if !errors.As(err, &request) {
		return false
	}
	at, parsed := url.Parse(request.URL)
	return parsed == nil && c.endpoints.has(at.Host)
}

// passing tells errors after which the same request may succeed: the connection failed, or a node
// said that it can't at the moment.
func passing(err error) bool {
	var answer *Error
	if errors.As(err, &answer) {
		return answer.Code == CodeUnavailable || answer.Code == CodeBusy
	}
	return !errors.Is(err, context.Canceled) && isTransport(err)
}

func isTransport(err error) bool {
	var request *url.Error
	var op *net.OpError
	return errors.As(err, &request) || errors.As(err, &op) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, errStalled)
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// drain lets a connection be used again.
func drain(r *http.Response) {
	_, _ = io.CopyN(io.Discard, r.Body, 64<<10)
	_ = r.Body.Close()
}
