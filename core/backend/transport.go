package backend

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// DefaultTimeout is a Config's Timeout where it is 0.
const DefaultTimeout = 30 * time.Second

// Patience is how long a request may wait for the backend to say something.
func (c Config) Patience() time.Duration {
	if c.Timeout > 0 {
		return c.Timeout
	}
	return DefaultTimeout
}

// Transport makes what carries requests to a backend: through the configuration's Dial and past no proxy unless it says
// so, with its certificates, and with a limit to each step but the body.
func (c Config) Transport() (*http.Transport, error) {
	trusted, err := c.tls()
	if err != nil {
		return nil, err
	}
	t := &http.Transport{
		DialContext:           c.Dial,
		TLSClientConfig:       trusted,
		ForceAttemptHTTP2:     true,
		TLSHandshakeTimeout:   dialTimeout,
		ResponseHeaderTimeout: c.Patience(),
		ExpectContinueTimeout: time.Second,
		MaxIdleConns:          256,
		MaxIdleConnsPerHost:   128,
		IdleConnTimeout:       30 * time.Second,
		DisableCompression:    true, // objects are what they are
		WriteBufferSize:       128 << 10,
		ReadBufferSize:        128 << 10,
	}
	if t.DialContext == nil {
		t.DialContext = (&net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}).DialContext
	}
	if c.EnvProxy {
		t.Proxy = http.ProxyFromEnvironment
	}
	return t, nil
}

// tls is whom connections trust.
func (c Config) tls() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: c.Insecure} //nolint:gosec // as it was asked for
	if len(c.CA) == 0 {
		return config, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // a system without certificates
	}
	if !pool.AppendCertsFromPEM(c.CA) {
		return nil, &Error{
			Backend: c.Address.String(), Op: "connect", Kind: Failed,
			Err: errors.New("its CA has no certificate; give certificates in PEM"),
		}
	}
	config.RootCAs = pool
	return config, nil
}

// HTTPClient is a client over Transport that follows redirects by Redirect.
func (c Config) HTTPClient() (*http.Client, error) {
	t, err := c.Transport()
	if err != nil {
		return nil, err
	}
	return &http.Client{Transport: t, CheckRedirect: Redirect}, nil
}

// maxRedirects bounds the redirects of one request.
const maxRedirects = 5

// harmless are headers that go along to another origin. All others stay behind: vendors have their credentials, and
// what signs a request, in headers of many names.
var harmless = []string{
	"Accept", "Accept-Encoding", "Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range", "User-Agent",
}

// Redirect is a CheckRedirect of http.Client: a few redirects are followed, none of them from https to http, and to
// another origin only those of reads, without credentials. That the other end may be reached is for Dial to check.
func Redirect(r *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return fmt.Errorf("%d redirects, the last to %s", len(via), r.URL.Host)
	}
	foreign := false
	for _, earlier := range via {
		foreign = foreign || origin(earlier.URL) != origin(r.URL)
		if earlier.URL.Scheme == HTTPS && r.URL.Scheme != HTTPS {
			return fmt.Errorf("a redirect from https://%s to %s://%s, which anybody could read", earlier.URL.Host, r.URL.Scheme, r.URL.Host)
		}
	}
	if !foreign {
		return nil
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return fmt.Errorf("a redirect of %s to %s, another origin", r.Method, r.URL.Host)
	}
	for name := range r.Header {
		if !slices.Contains(harmless, textproto.CanonicalMIMEHeaderKey(name)) {
			r.Header.Del(name)
		}
	}
	r.URL.User = nil
	return nil
}

// origin is scheme, host and port.
func origin(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{HTTP: "80", HTTPS: "443"}[u.Scheme]
	}
	return u.Scheme + "://" + strings.ToLower(u.Hostname()) + ":" + port
}

// StatusKind is the kind of error that an HTTP status is, of a request about an object.
func StatusKind(status int) Kind {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusProxyAuthRequired:
		return Denied
	case http.StatusNotFound, http.StatusGone:
		return NotFound
	case http.StatusPreconditionFailed:
		return Changed
	case http.StatusRequestedRangeNotSatisfiable:
		return Range
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return Busy
	case http.StatusRequestTimeout, http.StatusInternalServerError, http.StatusBadGateway, http.StatusGatewayTimeout:
		return Passing
	case http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return Unsupported
	}
	return Failed
}

// RetryAfter is how long an answer asks to wait; 0 where it does not say.
func RetryAfter(h http.Header) time.Duration {
	text := h.Get("Retry-After")
	if seconds, err := strconv.ParseInt(text, 10, 32); err == nil {
		return max(time.Duration(seconds)*time.Second, 0)
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(time.Until(at), 0)
	}
	return 0
}

// NetKind is the kind of an error that a connection or a client of a vendor ended with, where it is no answer of the
// backend.
func NetKind(err error) Kind {
	var known *Error
	var name *net.DNSError
	var op *net.OpError
	var timeout interface{ Timeout() bool }
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.As(err, &known): // from Guard.DialContext
		return known.Kind
	case errors.Is(err, context.Canceled):
		return Failed
	case errors.As(err, &certificate):
		return Failed
	case errors.As(err, &name):
		if name.IsNotFound {
			return NoBucket
		}
		return Passing
	case errors.As(err, &timeout) && timeout.Timeout(), errors.As(err, &op),
		errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, os.ErrDeadlineExceeded),
		errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.EPIPE),
		errors.Is(err, net.ErrClosed):
		return Passing
	}
	// What net/http has no type for.
	for _, text := range []string{"server closed idle connection", "http2: ", "connection broken", "malformed HTTP response", "transport connection broken"} {
		if err != nil && strings.Contains(err.Error(), text) {
			return Passing
		}
	}
	return Failed
}
