package target

import (
	"errors"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/telemetry"
)

// Handler answers a request. An error becomes an error document (see AsError); a handler that has
// begun an answer of its own returns nil.
type Handler func(r *Request) error

// route is a method and a pattern: literal segments, {name} for one segment, {name...} for the rest.
type route struct {
	method, pattern string
	segments        []string
	handler         Handler
}

// Handle adds a route. Patterns are as in net/http: "/v1/streams/{id}/read", "/v1/objects/{bucket}/{key...}".
func (t *Target) Handle(method, pattern string, h Handler) {
	t.routes = append(t.routes, route{method: method, pattern: pattern, segments: strings.Split(pattern, "/")[1:], handler: h})
}

// Routes are the patterns of all routes, as "GET /v1/health".
func (t *Target) Routes() []string {
	list := make([]string, len(t.routes))
	for i, r := range t.routes {
		list[i] = r.method + " " + r.pattern
	}
	return list
}

// match compares the segments of a raw path, not yet decoded, so that %2F is no separator.
func (r *route) match(raw []string) bool {
	for i, s := range r.segments {
		switch {
		case strings.HasSuffix(s, "...}"):
			return len(raw) > i
		case i >= len(raw):
			return false
		case strings.HasPrefix(s, "{"):
		case s != raw[i]:
			return false
		}
	}
	return len(raw) == len(r.segments)
}

// params decodes the pattern's parameters out of a path that matched.
func (r *route) params(raw []string) (map[string]string, error) {
	var params map[string]string
	for i, s := range r.segments {
		if !strings.HasPrefix(s, "{") {
			continue
		}
		value := raw[i]
		name, rest := strings.CutSuffix(s[1:len(s)-1], "...")
		if rest {
			value = strings.Join(raw[i:], "/")
		}
		decoded, err := url.PathUnescape(value)
		if err != nil {
			return nil, api.Errorf(http.StatusBadRequest, api.CodeBadName, "the path has a broken %%-escape: %v", err)
		}
		if params == nil {
			params = make(map[string]string, 2)
		}
		params[name] = decoded
	}
	return params, nil
}

func (t *Target) handle(ctx *fasthttp.RequestCtx) {
	start := time.Now()
	r := &Request{
		RequestCtx: ctx, Target: t,
		RequestID: telemetry.RequestID(string(ctx.Request.Header.Peek(api.HeaderRequestID))),
	}
	ctx.Response.Header.Set(api.HeaderRequestID, r.RequestID)
	end := t.users.begin(string(ctx.URI().PathOriginal()))
	pattern := t.dispatch(r)
	t.observe(r, pattern, start, end)
}

// dispatch finds the route and runs its handler.
func (t *Target) dispatch(r *Request) (pattern string) {
	defer func() {
		if p := recover(); p != nil { // the server would take the whole node down
			t.log.ErrorContext(r.Context(), "panic in a handler", "panic", p, "stack", string(debug.Stack()))
			r.fail(api.Errorf(http.StatusInternalServerError, api.CodeInternal, "the node failed on this request; see its log"))
			r.SetConnectionClose()
		}
	}()
	method := string(r.Method())
	raw := strings.Split(strings.TrimPrefix(string(r.URI().PathOriginal()), "/"), "/")
	known := false
	for i := range t.routes {
		route := &t.routes[i]
		if !route.match(raw) {
			continue
		}
		known = true
		if route.method != method {
			continue
		}
		var err error
		if r.params, err = route.params(raw); err == nil {
			err = route.handler(r)
		}
		if err != nil {
			r.fail(err)
		}
		return route.pattern
	}
	if known {
		r.fail(api.Errorf(http.StatusMethodNotAllowed, api.CodeMethod, "this resource has no method %s", method))
	} else {
		r.fail(api.Errorf(http.StatusNotFound, api.CodeNotFound, "there is no such resource; see /v1/openapi.yaml of a gateway"))
	}
	return ""
}

// observe counts and logs the request, at once or when its streamed body has been sent.
func (t *Target) observe(r *Request, pattern string, start time.Time, end func()) {
	method, path, from := string(r.Method()), string(r.URI().PathOriginal()), r.RemoteAddr().String()
	code := r.Response.StatusCode()
	if r.Hijacked() {
		code = http.StatusSwitchingProtocols
	}
	ctx := r.Context()
	done := func(out int64, err error) {
		end()
		took := time.Since(start)
		t.metrics.Observe(pattern, method, code, r.received, out, took)
		if code < 500 && err == nil && !t.log.Enabled(ctx, -4) {
			return
		}
		report := t.log.DebugContext
		if code >= 500 {
			report = t.log.WarnContext
		}
		report(ctx, "request", "method", method, "path", path, "status", code, "in", r.received, "out", out,
			"took", took, "from", from, "error", errors.Join(r.err, err))
	}
	if r.body != nil {
		r.body.whenDone(done)
		return
	}
	done(int64(len(r.Response.Body())), nil)
}

func (t *Target) standardRoutes() {
	const object = "/v1/objects/{bucket}/{key...}"
	t.Handle("GET", "/v1/health", t.getHealth)
	t.Handle("GET", "/metrics", t.getMetrics)
	t.Handle("PUT", object, t.putObject)
	t.Handle("GET", object, t.getObject)
	t.Handle("HEAD", object, t.getObject)
	t.Handle("DELETE", object, t.deleteObject)
	t.Handle("POST", "/v1/fsck", t.fsck)
	// Between nodes:
	t.Handle("GET", "/v1/internal/buckets/{bucket}/empty", t.bucketEmpty)
	t.Handle("POST", "/v1/internal/buckets/{bucket}/drop", t.dropBucket)
}
