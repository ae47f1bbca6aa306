package backend

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Config says which backend is opened, and how it is reached.
type Config struct {
	Address
	Endpoint string // overrides where the vendor's service is: a URL
	Region   string
	// Credentials are a secret's fields; empty: the vendor's usual chain. Each implementation documents its names.
	Credentials map[string]string
	CA          []byte // PEM of the certificates that are trusted besides the system's
	Insecure    bool   // certificates are not checked
	// Via names the bucket that the backend is opened for to other clusters, see WithVia; "": none.
	Via string
	// Dial opens connections, and refuses addresses that must not be reached; nil: any.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// EnvProxy says that proxies of the environment (HTTPS_PROXY, ...) are used. Dial then sees the proxy's address alone.
	EnvProxy bool
	// Timeout is how long a request may wait for the backend to say something; 0: 30 s.
	Timeout time.Duration
}

// Opener opens a backend of one scheme. It makes no request yet: what is wrong at the other end is the error of the
// first call.
type Opener func(ctx context.Context, c Config) (Backend, error)

// Set are the schemes that a build has.
type Set map[string]Opener

// Open opens a backend.
func (s Set) Open(ctx context.Context, c Config) (Backend, error) {
	open := s[c.Scheme]
	if open == nil {
		return nil, &Error{
			Backend: c.Address.String(), Op: "connect", Kind: Unsupported,
			Err: fmt.Errorf("this build of shardstream has no %s backends", c.Scheme),
		}
	}
	return open(ctx, c)
}

// Schemes of backends' URLs.
const (
	S3     = "s3"
	GCS    = "gs"
	Azure  = "az"
	HDFS   = "hdfs"
	HTTP   = "http"
	HTTPS  = "https"
	Remote = "ss" // another cluster
)

// Schemes are all of them.
var Schemes = []string{S3, GCS, Azure, HDFS, HTTP, HTTPS, Remote}

// Address is a backend's URL, taken apart: scheme://host/path. The host is a bucket for s3 and gs, a container for az, or
// HOST:PORT. It never has credentials.
type Address struct {
	Scheme string
	Host   string
	Path   string // below the host, without a leading slash: a prefix of names
	Query  string // of http and https
}

func (a Address) String() string {
	text := a.Scheme + "://" + a.Host
	if a.Path != "" {
		text += "/" + a.Path
	}
	if a.Query != "" {
		text += "?" + a.Query
	}
	return text
}

// ParseAddress reads a backend's URL.
func ParseAddress(text string) (Address, error) {
	bad := func(format string, args ...any) (Address, error) {
		return Address{}, fmt.Errorf("backend %.200q: %s", withoutUser(text), fmt.Sprintf(format, args...))
	}
	scheme, rest, found := strings.Cut(text, "://")
	if !found || !slices.Contains(Schemes, scheme) {
		return bad("it begins with one of %s", strings.Join(Schemes, "://, ")+"://")
	}
	if len(text) > 2048 {
		return bad("it is longer than 2048 characters")
	}
	if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return bad("it has control characters")
	}
	a := Address{Scheme: scheme}
	if scheme == HTTP || scheme == HTTPS {
		u, err := url.Parse(text)
		switch {
		case err != nil:
			return bad("it does not parse")
		case u.User != nil:
			return bad("it has credentials in it; put them into a secret")
		case u.Host == "" || u.Fragment != "":
			return bad("write %s://HOST[:PORT]/PATH", scheme)
		}
		a.Host, a.Query = u.Host, u.RawQuery
		a.Path = strings.TrimPrefix(u.EscapedPath(), "/")
		return a, nil
	}
	a.Host, a.Path, _ = strings.Cut(rest, "/")
	switch {
	case strings.Contains(a.Host, "@"):
		return bad("it has credentials in it; put them into a secret")
	case a.Host == "" || strings.ContainsAny(a.Host, "?# \\"):
		return bad("write %s://%s", scheme, map[bool]string{true: "HOST:PORT/PATH", false: "BUCKET/PREFIX"}[scheme == HDFS || scheme == Remote])
	case strings.HasPrefix(a.Path, "/") || slices.Contains(strings.Split(a.Path, "/"), ".."):
		return bad("its path has an empty or .. part")
	}
	return a, nil
}

// withoutUser takes what may be a password out of a text that did not parse.
func withoutUser(text string) string {
	scheme, rest, found := strings.Cut(text, "://")
	if !found {
		return text
	}
	if at := strings.LastIndex(rest, "@"); at >= 0 { // a password may have slashes
		rest = "..." + rest[at:]
	}
	return scheme + "://" + rest
}
