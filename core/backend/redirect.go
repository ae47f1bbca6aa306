package backend

import (
	"fmt"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
)

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
		return refusedRedirect("%d redirects, the last to %s", len(via), r.URL.Host)
	}
	foreign := false
	for _, earlier := range via {
		foreign = foreign || origin(earlier.URL) != origin(r.URL)
		if earlier.URL.Scheme == HTTPS && r.URL.Scheme != HTTPS {
			return refusedRedirect("a redirect from https://%s to %s://%s, which anybody could read", earlier.URL.Host, r.URL.Scheme, r.URL.Host)
		}
	}
	if !foreign {
		return nil
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return refusedRedirect("a redirect of %s to %s, another origin", r.Method, r.URL.Host)
	}
	for name := range r.Header {
		if !slices.Contains(harmless, textproto.CanonicalMIMEHeaderKey(name)) {
			r.Header.Del(name)
		}
	}
	r.URL.User = nil
	return nil
}

// refusedRedirect is final: the same request would be sent to the same place again.
func refusedRedirect(format string, args ...any) error {
	return &Error{Op: "connect", Kind: Unsupported, Err: fmt.Errorf(format, args...)}
}

// origin is scheme, host and port.
func origin(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{HTTP: "80", HTTPS: "443"}[u.Scheme]
	}
	return u.Scheme + "://" + strings.ToLower(u.Hostname()) + ":" + port
}
