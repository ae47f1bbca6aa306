package azure_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/core/backend"
	"github.com/shardstream/shardstream/core/backend/azure"
	"github.com/shardstream/shardstream/core/backend/backendtest"
	"github.com/shardstream/shardstream/tests/backends/serverstest"
)

func TestMain(m *testing.M) { os.Exit(serverstest.Main(m)) }

// open opens a bucket of the test's server.
func open(t *testing.T, bucket, prefix string, secret map[string]string) backend.Backend {
	t.Helper()
	return serverstest.Get(t, backend.Azure).Open(t, azure.Open, bucket, prefix, secret)
}

func TestConformance(t *testing.T) {
	bucket := serverstest.Get(t, backend.Azure).Bucket(t).Name
	backendtest.Run(t, backendtest.Target{
		Open:     func(t *testing.T, prefix string) backend.Backend { return open(t, bucket, prefix, nil) },
		NoBucket: func(t *testing.T) backend.Backend { return open(t, "missing", "", nil) },
		Denied: func(t *testing.T) backend.Backend {
			return open(t, bucket, "", map[string]string{"account": "devstoreaccount1", "key": "d3Jvbmc="})
		},
		MD5: true,
	})
}

func TestErrors(t *testing.T) {
	open := func(t *testing.T, url string) backend.Backend {
		b, err := azure.Open(t.Context(), backend.Config{
			Address: backend.Address{Scheme: backend.Azure, Host: "bucket"}, Endpoint: url + "/account",
			Credentials: map[string]string{"sas": "?sv=2024&sig=SECRETSIGNATURE"},
		})
		require.NoError(t, err)
		return b
	}
	code := func(code string) map[string]string { return map[string]string{"X-Ms-Error-Code": code} }
	backendtest.Answers(t, open, []string{"SECRETSIGNATURE"}, map[string]backendtest.Answer{
		"busy": {
			Status: 503, Header: map[string]string{"X-Ms-Error-Code": "ServerBusy", "Retry-After": "7"},
			Kind: backend.Busy, After: 7 * time.Second, Text: "ServerBusy",
		},
		"too many":     {Status: 429, Kind: backend.Busy},
		"timed out":    {Status: 500, Header: code("OperationTimedOut"), Kind: backend.Passing},
		"gateway":      {Status: 502, Body: "<html>", Kind: backend.Passing},
		"expired":      {Status: 403, Header: code("AuthenticationFailed"), Kind: backend.Denied},
		"no container": {Status: 404, Header: code("ContainerNotFound"), Kind: backend.NoBucket},
		"deleting":     {Status: 409, Header: code("ContainerBeingDeleted"), Kind: backend.NoBucket},
		"archived":     {Status: 409, Header: code("BlobArchived"), Kind: backend.Failed, Text: "BlobArchived"},
		"redirected":   {Status: 307, Header: map[string]string{"Location": "http://127.0.0.1:1/"}, Kind: backend.Failed},
		"cut":          {Cut: true, Kind: backend.Passing},
	})
	backendtest.Foreign(t, open)
}

func TestCredentials(t *testing.T) {
	for _, name := range []string{"AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN"} {
		t.Setenv(name, "")
	}
	for name, test := range map[string]struct {
		endpoint string
		secret   map[string]string
		text     string
	}{
		"unknown field": {"", map[string]string{"acount": "x"}, `has a field "acount"`},
		"no account":    {"", nil, "which storage account?"},
		"key alone":     {"https://x.blob.core.windows.net", map[string]string{"key": "U0VDUkVU"}, "takes the account's name"},
		"no such name":  {"", map[string]string{"account": "SECRET.example.org/#"}, "letters, digits"},
		"no key":        {"", map[string]string{"account": "x", "key": "SECRET!"}, "not base64"},
		"no string":     {"", map[string]string{"connection_string": "SECRET"}, "connection string"},
		"no endpoint":   {"x?SECRET", map[string]string{"anonymous": "true"}, "not the URL"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := azure.Open(t.Context(), backend.Config{
				Address: backend.Address{Scheme: backend.Azure, Host: "bucket"}, Endpoint: test.endpoint, Credentials: test.secret,
			})
			require.ErrorContains(t, err, test.text)
			require.NotContains(t, err.Error(), "SECRET")
		})
	}
}

// A connection string works as the fields do, and credentials of the environment stay with Azure's own addresses.
func TestSignsIn(t *testing.T) {
	asked := make(chan *http.Request, 10)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Etag", `"1"`)
		asked <- r
	}))
	t.Cleanup(server.Close)
	stat := func(endpoint string, secret map[string]string) *http.Request {
		b, err := azure.Open(t.Context(), backend.Config{
			Address: backend.Address{Scheme: backend.Azure, Host: "bucket"}, Endpoint: endpoint, Credentials: secret,
		})
		require.NoError(t, err)
		_, err = b.Stat(t.Context(), "x")
		require.NoError(t, err)
		return <-asked
	}
	text := "DefaultEndpointsProtocol=http;AccountName=account;AccountKey=S0VZ;BlobEndpoint=" + server.URL + "/account;"
	r := stat("", map[string]string{"connection_string": text})
	require.Equal(t, "/account/bucket/x", r.URL.Path)
	require.Contains(t, r.Header.Get("Authorization"), "SharedKey account:")
	r = stat(server.URL+"/other", map[string]string{"connection_string": "AccountName=account;SharedAccessSignature=sig=S"})
	require.Equal(t, "/other/bucket/x", r.URL.Path)
	require.Equal(t, "S", r.URL.Query().Get("sig"))

	t.Setenv("AZURE_STORAGE_ACCOUNT", "account")
	t.Setenv("AZURE_STORAGE_SAS_TOKEN", "sig=SECRET")
	t.Setenv("AZURE_STORAGE_KEY", "S0VZ")
	r = stat(server.URL+"/account", nil)
	require.Empty(t, r.Header.Get("Authorization"))
	require.Empty(t, r.URL.RawQuery)
}

// An account with a hierarchical namespace says of each name whether it is a file, and lists folder by folder.
func TestFolders(t *testing.T) {
	server := serverstest.Get(t, backend.Azure)
	bucket := server.Bucket(t).Name
	c := server.Config(t, bucket, "")
	at, err := url.Parse(c.Endpoint)
	require.NoError(t, err)
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: at.Scheme, Host: at.Host})
	proxy.ModifyResponse = func(r *http.Response) error {
		query := r.Request.URL.Query()
		if query.Get("comp") != "list" || query.Has("delimiter") {
			return nil
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return err
		}
		body = bytes.ReplaceAll(body, []byte("<Properties>"), []byte("<Properties><ResourceType>file</ResourceType>"))
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		r.Header.Set("Content-Length", strconv.Itoa(len(body)))
		return nil
	}
	front := httptest.NewServer(proxy)
	t.Cleanup(front.Close)
	c.Endpoint = front.URL + at.Path
	backendtest.Run(t, backendtest.Target{
		Open: func(t *testing.T, prefix string) backend.Backend {
			c := c
			c.Path = prefix
			b, err := azure.Open(t.Context(), c)
			require.NoError(t, err)
			return b
		},
		MD5: true, Names: 200, Large: 1 << 20,
	})
}

// What a guard of addresses refuses stays what it is.
func TestForbidden(t *testing.T) {
	b, err := azure.Open(t.Context(), backend.Config{
		Address: backend.Address{Scheme: backend.Azure, Host: "bucket"}, Endpoint: "http://127.0.0.1:1/account",
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
