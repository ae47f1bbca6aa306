package telemetry

import (
	"bufio"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
)

// Middleware counts the requests that next answers, gives each its request id (in the context and
// in the answer) and logs them: server errors as warnings, all others at debug level.
//
// The route label is the pattern that http.ServeMux matched, which it writes into the request it is
// given; so put no handler that copies the request between Middleware and the mux.
func (m *Metrics) Middleware(log *slog.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		m.inFlight.Inc()
		defer m.inFlight.Dec()

		id := RequestID(r.Header.Get(api.HeaderRequestID))
		ctx := WithRequestID(r.Context(), id)
		w.Header().Set(api.HeaderRequestID, id)
		answer := &countingWriter{ResponseWriter: w}
		// A copy: net/http looks at its own request's Body after the handler, to decide on 100-continue.
		request := r.WithContext(ctx)
		body := &countingBody{ReadCloser: r.Body}
		if r.Body != nil && r.Body != http.NoBody {
			request.Body = body
		}

		done := func(code int) {
			took := time.Since(start)
			m.Observe(routeOf(request), r.Method, code, body.n, answer.n, took)
			level := slog.LevelDebug
			if code >= 500 {
				level = slog.LevelWarn
			}
			log.LogAttrs(ctx, level, "request", slog.String("method", r.Method), slog.String("path", r.URL.Path),
				slog.Int("status", code), slog.Int64("in", body.n), slog.Int64("out", answer.n),
				slog.Duration("took", took), slog.String("from", r.RemoteAddr))
		}
		defer func() {
			if p := recover(); p != nil { // net/http ends the connection; the count must not miss it
				done(http.StatusInternalServerError)
				panic(p)
			}
			done(answer.status())
		}()
		next.ServeHTTP(answer, request)
	})
}

// routeOf is the matched pattern without its method: "GET /v1/health" is "/v1/health".
func routeOf(r *http.Request) string {
	pattern := r.Pattern
	if _, path, ok := strings.Cut(pattern, " "); ok {
		pattern = path
	}
	return pattern
}

// countingWriter counts what an answer's body sends, and keeps sendfile, flush and hijack usable.
type countingWriter struct {
	http.ResponseWriter
	code int
	n    int64
}

func (w *countingWriter) status() int {
	if w.code == 0 {
		return http.StatusOK
	}
	return w.code
}

func (w *countingWriter) WriteHeader(code int) {
	if w.code == 0 && (code >= 200 || code == http.StatusSwitchingProtocols) { // other 1xx are not the answer
		w.code = code
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *countingWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.n += int64(n)
	return n, err
}

// ReadFrom lets io.Copy reach the connection's sendfile.
func (w *countingWriter) ReadFrom(r io.Reader) (int64, error) {
	n, err := io.Copy(w.ResponseWriter, r)
	w.n += n
	return n, err
}

// Flush and Hijack serve callers that assert the interfaces; Unwrap serves http.ResponseController.
func (w *countingWriter) Flush() { _ = http.NewResponseController(w.ResponseWriter).Flush() }

func (w *countingWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil && w.code == 0 {
		w.code = http.StatusSwitchingProtocols
	}
	return conn, rw, err
}

func (w *countingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// countingBody counts what a handler reads of a request.
type countingBody struct {
	io.ReadCloser
	n int64
}

func (b *countingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n += int64(n)
	return n, err
}
