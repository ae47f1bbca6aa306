package gcs_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/core/backend"
	"github.com/shardstream/shardstream/core/backend/backendtest"
	"github.com/shardstream/shardstream/core/backend/gcs"
	"github.com/shardstream/shardstream/tests/backends/serverstest"
)

func TestMain(m *testing.M) { os.Exit(serverstest.Main(m)) }

// open opens a bucket of the test's server.
func open(t *testing.T, bucket, prefix string, secret map[string]string) backend.Backend {
	t.Helper()
	return serverstest.Get(t, backend.GCS).Open(t, gcs.Open, bucket, prefix, secret)
}

func TestConformance(t *testing.T) {
	bucket := serverstest.Get(t, backend.GCS).Bucket(t).Name
	backendtest.Run(t, backendtest.Target{
		Open:     func(t *testing.T, prefix string) backend.Backend { return open(t, bucket, prefix, nil) },
		NoBucket: func(t *testing.T) backend.Backend { return open(t, "missing", "", nil) },
		MD5:      true,
		CRC32C:   true,
	})
}

func TestErrors(t *testing.T) {
	body := func(reason, message string) string {
		return `{"error": {"code": 0, "message": "` + message + `", "errors": [{"reason": "` + reason + `", "message": "` + message + `"}]}}`
	}
	open := func(t *testing.T, url string) backend.Backend {
		b, err := gcs.Open(t.Context(), backend.Config{
			Address: backend.Address{Scheme: backend.GCS, Host: "bucket"}, Endpoint: url,
			Credentials: map[string]string{"access_token": "SECRETTOKEN"},
		})
		require.NoError(t, err)
		return b
	}
	backendtest.Answers(t, open, []string{"SECRETTOKEN"}, map[string]backendtest.Answer{
		"too many":    {Status: 429, Header: map[string]string{"Retry-After": "7"}, Body: body("rateLimitExceeded", "slow"), Kind: backend.Busy, After: 7 * time.Second, Text: "slow"},
		"unavailable": {Status: 503, Body: body("backendError", "try"), Kind: backend.Busy},
		"internal":    {Status: 500, Body: "<html>", Kind: backend.Passing},
		"gateway":     {Status: 502, Kind: backend.Passing},
		"expired":     {Status: 401, Body: body("authError", "Invalid Credentials"), Kind: backend.Denied, Text: "Invalid Credentials"},
		"forbidden":   {Status: 403, Body: body("forbidden", "no access"), Kind: backend.Denied},
		"redirected":  {Status: 302, Header: map[string]string{"Location": "http://127.0.0.1:1/"}, Kind: backend.Failed},
		"no bucket":   {Status: 404, Body: body("notFound", "The specified bucket does not exist."), Kind: backend.NoBucket},
		"cut":         {Cut: true, Kind: backend.Passing},
	})
	backendtest.Foreign(t, open)
}

func TestCredentials(t *testing.T) {
	config := func(secret map[string]string) backend.Config {
		return backend.Config{Address: backend.Address{Scheme: backend.GCS, Host: "bucket"}, Endpoint: "http://127.0.0.1:1", Credentials: secret}
	}
	_, err := gcs.Open(t.Context(), config(map[string]string{"token": "x"}))
	require.ErrorContains(t, err, `has a field "token"`)
	for name, test := range map[string]struct{ json, text string }{
		"no JSON":          {"SECRET", "is not JSON"},
		"external account": {`{"type": "external_account", "credential_source": {"url": "http://169.254.169.254/SECRET"}}`, "can be service_account or authorized_user"},
		"incomplete":       {`{"type": "service_account", "private_key": "SECRET"}`, "credentials"},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := gcs.Open(t.Context(), config(map[string]string{"credentials_json": test.json}))
			require.NoError(t, err)
			_, err = b.Stat(t.Context(), "x")
			require.Equal(t, backend.Denied, backend.KindOf(err), "%v", err)
			require.ErrorContains(t, err, test.text)
			require.NotContains(t, err.Error(), "SECRET")
		})
	}
}

// An endpoint that is not Google's gets no token of the node's environment: whoever may make a bucket could name their own.
func TestTokensStayWithGoogle(t *testing.T) {
	file := filepath.Join(t.TempDir(), "credentials.json")
	asked := make(chan string, 10)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.URL.Path + " " + r.Header.Get("Authorization")
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"access_token": "TOKEN", "token_type": "Bearer", "expires_in": 3600}`))
	}))
	t.Cleanup(server.Close)
	text := `{"type": "authorized_user", "client_id": "a", "client_secret": "b", "refresh_token": "c"}`
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", file)
	b, err := gcs.Open(t.Context(), backend.Config{Address: backend.Address{Scheme: backend.GCS, Host: "bucket"}, Endpoint: server.URL})
	require.NoError(t, err)
	_, err = b.Stat(t.Context(), "x")
	require.NoError(t, err)
	require.Equal(t, "/storage/v1/b/bucket/o/x ", <-asked)
}

// What a guard of addresses refuses stays what it is.
func TestForbidden(t *testing.T) {
	b, err := gcs.Open(t.Context(), backend.Config{
		Address: backend.Address{Scheme: backend.GCS, Host: "bucket"}, Endpoint: "http://127.0.0.1:1/account",
		Credentials: map[string]string{"anonymous": "true"},
		Dial: func(context.Context, string, string) (net.Conn, error) {
			return nil, &backend.Error{Kind: backend.Forbidden, Err: errors.New("set backend_allow")}
		},
	})
	require.NoError(t, err)
	_, err = b.Open(t.Context(), "x", backend.OpenOptions{})
	require.Equal(t, backend.Forbidden, backend.KindOf(err), "%v", err)
	require.ErrorContains(t, err, "set backend_allow")
}
