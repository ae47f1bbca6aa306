// Package faultproxy stands between a client and a server and breaks what they say to each other: what is slow, cut,
// refused or wrong elsewhere on some days is so here on demand. It also counts what it has seen.
package faultproxy

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Rule is something that goes wrong with requests. What is zero does not.
type Rule struct {
	// Match picks the requests; nil: all of them.
	Match func(*http.Request) bool
	// Times is how many of them; 0: all, until the rule is removed.
	Times int

	Delay time.Duration // before the request goes on
	// Status answers the request instead of the server, with Body and the header Retry-After.
	Status     int
	RetryAfter string
	Body       string
	// Cut breaks the connection after that many bytes of the body, if it is longer; -1: before the first.
	Cut int64
	// End ends the body after that many bytes as if it were whole: its length is not said before.
	End int64
	// Flip changes the byte at that place of the body, counted from 1.
	Flip int64
	// Stall stops the body after that many bytes until the client goes away or the proxy is closed; -1: before the first.
	Stall int64
	// Rate is how many bytes a second come through, all requests of this rule together.
	Rate int64
}

// rule is a Rule at work.
type rule struct {
	Rule
	fired int
	pace  pace
}

// Request is a request that came through.
type Request struct {
	Method, Path, Query, Range string
	Status                     int // of the answer; 0 where there was none
}

// HTTP is a proxy in front of a server that speaks HTTP.
type HTTP struct {
	Addr string // where it listens

	behind string
	server *http.Server
	ended  chan struct{}
	closed chan struct{}

	mu    sync.Mutex
	rules []*rule
	seen  []Request
	bytes int64 // of bodies that went to clients
}

// NewHTTP starts a proxy on a free port, or on the one of at, before the server at behind.
func NewHTTP(at, behind string) (*HTTP, error) {
	if at == "" {
		at = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", at)
	if err != nil {
		return nil, err
	}
	p := &HTTP{Addr: l.Addr().String(), behind: behind, ended: make(chan struct{}), closed: make(chan struct{})}
	quiet := slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	relay := &httputil.ReverseProxy{
		// The client's own Host: its signature is of that.
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: behind})
			r.Out.Host = r.In.Host
		},
		ModifyResponse: p.modify,
		FlushInterval:  -1,
		ErrorLog:       quiet,
		Transport:      &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true},
	}
	p.server = &http.Server{Handler: p.handler(relay), ErrorLog: quiet, ReadHeaderTimeout: time.Minute}
	go func() { // ends with Close
		_ = p.server.Serve(l)
		close(p.ended)
	}()
	return p, nil
}

// Close ends the proxy and all connections through it.
func (p *HTTP) Close() {
	close(p.closed)
	_ = p.server.Close()
	<-p.ended
}

// Add adds a rule; what it returns tells how many requests were under it. A request is under the first that matches it.
func (p *HTTP) Add(r Rule) func() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	added := &rule{Rule: r}
	p.rules = append(p.rules, added)
	return func() int {
		p.mu.Lock()
		defer p.mu.Unlock()
		return added.fired
	}
}

// Clear removes all rules.
func (p *HTTP) Clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rules = nil
}

// Reset forgets what was seen.
func (p *HTTP) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen, p.bytes = nil, 0
}

// Seen are the requests since the last Reset, in the order in which they came.
func (p *HTTP) Seen() []Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Request(nil), p.seen...)
}

// Bytes is how much of bodies went to clients since the last Reset.
func (p *HTTP) Bytes() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bytes
}

// call is a request on its way: the rule it is under, and its place among those seen.
type call struct {
	rule  *rule
	place int
}

type callKey struct{}

func (p *HTTP) handler(relay http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := p.begin(r)
		if c.rule == nil {
			relay.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callKey{}, c)))
			return
		}
		if !p.wait(r.Context(), c.rule.Delay) {
			panic(http.ErrAbortHandler)
		}
		if c.rule.Status == 0 {
			relay.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callKey{}, c)))
			return
		}
		_, _ = io.Copy(io.Discard, r.Body) // a client that is not yet done with its body would miss the answer
		if c.rule.RetryAfter != "" {
			w.Header().Set("Retry-After", c.rule.RetryAfter)
		}
		if strings.HasPrefix(c.rule.Body, "<") {
			w.Header().Set("Content-Type", "application/xml")
		}
		p.answered(c, c.rule.Status)
		w.WriteHeader(c.rule.Status)
		_, _ = io.WriteString(w, c.rule.Body)
	})
}

func (p *HTTP) begin(r *http.Request) call {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := call{place: len(p.seen)}
	p.seen = append(p.seen, Request{
		Method: r.Method, Path: r.URL.EscapedPath(), Query: r.URL.RawQuery,
		Range: r.Header.Get("Range") + r.Header.Get("X-Ms-Range"),
	})
	for _, rule := range p.rules {
		if (rule.Times == 0 || rule.fired < rule.Times) && (rule.Match == nil || rule.Match(r)) {
			rule.fired++
			c.rule = rule
			break
		}
	}
	return c
}

func (p *HTTP) answered(c call, status int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.place < len(p.seen) { // else there was a Reset
		p.seen[c.place].Status = status
	}
}

func (p *HTTP) wait(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
	case <-p.closed:
	}
	return false
}

// modify breaks an answer of the server.
func (p *HTTP) modify(answer *http.Response) error {
	c := answer.Request.Context().Value(callKey{}).(call)
	p.answered(c, answer.StatusCode)
	// What the server says about where to go on leads through the proxy too.
	if at := answer.Header.Get("Location"); at != "" {
		answer.Header.Set("Location", strings.Replace(at, p.behind, p.Addr, 1))
	}
	if c.rule != nil && c.rule.End > 0 && answer.ContentLength > c.rule.End {
		answer.Header.Del("Content-Length")
		answer.ContentLength = -1
	}
	answer.Body = &body{ReadCloser: answer.Body, proxy: p, rule: c.rule, ctx: answer.Request.Context(), length: answer.ContentLength}
	return nil
}

var errCut = errors.New("cut")

// body is the body of an answer with what its rule does to it.
type body struct {
	io.ReadCloser
	proxy  *HTTP
	rule   *rule
	ctx    context.Context
	length int64
	done   int64
}

func (b *body) Read(to []byte) (int, error) {
	n, err := b.broken(to)
	b.done += int64(n)
	b.proxy.mu.Lock()
	b.proxy.bytes += int64(n)
	b.proxy.mu.Unlock()
	return n, err
}

// broken reads what comes before the next thing that the rule does.
func (b *body) broken(to []byte) (int, error) {
	r := b.rule
	if r == nil {
		return b.ReadCloser.Read(to)
	}
	left := int64(len(to))
	for _, stop := range []struct {
		at  int64
		end func() error
	}{
		{r.End, func() error { return io.EOF }},
		{r.Cut, func() error { return errCut }},
		{r.Stall, b.stalled},
	} {
		if stop.at == 0 {
			continue
		}
		before := max(stop.at, 0) - b.done
		if before <= 0 {
			return 0, stop.end()
		}
		left = min(left, before)
	}
	if r.Rate > 0 {
		left = min(left, 64<<10)
	}
	n, err := b.ReadCloser.Read(to[:left])
	if at := r.Flip - 1 - b.done; r.Flip > 0 && at >= 0 && at < int64(n) {
		to[at] ^= 0x20
	}
	if r.Rate > 0 && !b.proxy.wait(b.ctx, r.pace.take(int64(n), r.Rate)) {
		return n, errCut
	}
	return n, err
}

func (b *body) stalled() error {
	select {
	case <-b.ctx.Done():
	case <-b.proxy.closed:
	}
	return errCut
}

// pace spreads bytes over time.
type pace struct {
	mu   sync.Mutex
	next time.Time
}

// take is how long to wait after n more bytes.
func (p *pace) take(n, rate int64) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if p.next.Before(now) {
		p.next = now
	}
	p.next = p.next.Add(time.Duration(n) * time.Second / time.Duration(rate))
	return p.next.Sub(now)
}
