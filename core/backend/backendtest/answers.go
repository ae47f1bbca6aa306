package backendtest

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/core/backend"
)

// Answer is what a server says to every request, and what has to come of it.
type Answer struct {
	Status int
	Header map[string]string
	Body   string // of answers that may have one
	Cut    bool   // the connection ends instead

	Kind  backend.Kind
	After time.Duration
	Text  string // is in the errors
}

// Answers has a server answer the same to all calls of a backend that open makes for its URL, and checks the errors, none
// of which may contain one of the secrets.
func Answers(t *testing.T, open func(t *testing.T, url string) backend.Backend, secrets []string, answers map[string]Answer) {
	t.Helper()
	for name, answer := range answers {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if answer.Cut {
					panic(http.ErrAbortHandler)
				}
				for name, value := range answer.Header {
					w.Header().Set(name, value)
				}
				w.WriteHeader(answer.Status)
				if r.Method != http.MethodHead {
					_, _ = w.Write([]byte(answer.Body))
				}
			}))
			server.Config.ErrorLog = nil
			t.Cleanup(server.Close)
			b := open(t, server.URL)
			t.Cleanup(func() { require.NoError(t, b.Close()) })
			for op, err := range calls(t.Context(), b) {
				var e *backend.Error
				require.ErrorAs(t, err, &e, op)
				require.Equal(t, answer.Kind, e.Kind, "%s: %v", op, err)
				require.Equal(t, answer.After, e.After, "%s: %v", op, err)
				if op != "stat" { // which has no body
					require.ErrorContains(t, err, answer.Text, op)
				}
				if !answer.Cut {
					require.Equal(t, answer.Status, e.Status, "%s: %v", op, err)
				}
				for _, secret := range secrets {
					require.NotContains(t, err.Error(), secret, op)
				}
			}
		})
	}
}

// Foreign has somebody answer all calls in the service's place, as a proxy does that wants its user to log in: nothing of
// that may be taken for an object, an empty listing, or for a put.
func Foreign(t *testing.T, open func(t *testing.T, url string) backend.Backend) {
	t.Helper()
	for name, body := range map[string]string{"nothing": "", "a page": "<html><body>Log in here</body></html>"} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) }))
			t.Cleanup(server.Close)
			b := open(t, server.URL)
			t.Cleanup(func() { require.NoError(t, b.Close()) })
			for op, err := range calls(t.Context(), b) {
				if op != "delete" { // whose answer has nothing to tell it by
					require.Error(t, err, op)
				}
			}
			_, isListed := calls(t.Context(), b)["list"]
			require.True(t, isListed, "the listing looks empty")
		})
	}
}

// calls are the errors of one call each.
func calls(ctx context.Context, b backend.Backend) map[string]error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	failed := make(map[string]error)
	_, failed["stat"] = b.Stat(ctx, "name")
	_, failed["open"] = b.Open(ctx, "name", backend.OpenOptions{})
	_, failed["range"] = b.Open(ctx, "name", backend.OpenOptions{Offset: 3, Length: 4})
	_, failed["put"] = b.Put(ctx, "name", strings.NewReader("body"), 4, backend.PutOptions{})
	failed["delete"] = b.Delete(ctx, "name")
	for _, err := range b.List(ctx, "", "") {
		failed["list"] = err
	}
	return failed
}
