package remote_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/clustertest"
	"github.com/shardstream/shardstream/cluster/remote"
	"github.com/shardstream/shardstream/core/backend"
	"github.com/shardstream/shardstream/core/backend/backendtest"
)

func open(t *testing.T, c backend.Config) backend.Backend {
	t.Helper()
	c.Scheme = backend.Remote
	b, err := remote.Open(t.Context(), c)
	require.NoError(t, err)
	return b
}

func at(cluster *clustertest.Cluster, path string) backend.Config {
	return backend.Config{Address: backend.Address{Host: strings.TrimPrefix(cluster.Endpoint(), "http://"), Path: path}}
}

func TestConformance(t *testing.T) {
	cluster := clustertest.Start(t, clustertest.Options{Targets: 2, Disks: 1})
	_, err := cluster.Client.CreateBucket(t.Context(), "data")
	require.NoError(t, err)
	backendtest.Run(t, backendtest.Target{
		Open: func(t *testing.T, prefix string) backend.Backend {
			t.Helper()
			return open(t, at(cluster, "data/"+prefix))
		},
		NoBucket: func(t *testing.T) backend.Backend {
			t.Helper()
			return open(t, at(cluster, "nothing/x"))
		},
		Names: 300, Large: 8 << 20,
	})
}

func TestWhatThereIsOfAnotherCluster(t *testing.T) {
	cluster := clustertest.Start(t, clustertest.Options{Targets: 1, Disks: 1})
	_, err := cluster.Client.CreateBucket(t.Context(), "data")
	require.NoError(t, err)
	data := backendtest.Bytes(1, 100_000)
	object, err := cluster.Client.PutObject(t.Context(), "data", "a/b", bytes.NewReader(data), int64(len(data)), api.PutOptions{ContentType: "x/y"})
	require.NoError(t, err)

	b := open(t, at(cluster, "data"))
	defer func() { require.NoError(t, b.Close()) }()
	e, err := b.Stat(t.Context(), "a/b")
	require.NoError(t, err)
	require.Equal(t, object.ETag, e.Tag)
	require.Equal(t, "x/y", e.ContentType)
	require.NotNil(t, e.Sums.XXH3)
	require.Equal(t, object.XXH3, api.FormatXXH3(*e.Sums.XXH3))
	body, err := backend.WithRetries(b, backend.Policy{}).Open(t.Context(), "a/b", backend.OpenOptions{Tag: e.Tag})
	require.NoError(t, err)
	got, err := io.ReadAll(body)
	require.NoError(t, err)
	require.Equal(t, data, got)
	require.NoError(t, body.Close())
}

// The gateway of another cluster may be allowed while its targets are not: a map must not lead a node elsewhere.
func TestTheGuardSeesTargetsToo(t *testing.T) {
	cluster := clustertest.Start(t, clustertest.Options{Targets: 1, Disks: 1})
	_, err := cluster.Client.CreateBucket(t.Context(), "data")
	require.NoError(t, err)
	m, err := cluster.Client.Map(t.Context())
	require.NoError(t, err)
	for i := range m.Nodes {
		m.Nodes[i].Addr = strings.Replace(m.Nodes[i].Addr, "127.0.0.1", "127.0.0.9", 1)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		require.Equal(t, "/v1/cluster/map", r.URL.Path)
		w.Header().Set("Content-Type", "application/json")
		require.NoError(t, json.NewEncoder(w).Encode(m))
	}))
	defer server.Close()
	allow, err := backend.ParseAllow([]string{"127.0.0.1"})
	require.NoError(t, err)
	b := open(t, backend.Config{
		Address: backend.Address{Host: strings.TrimPrefix(server.URL, "http://"), Path: "data"}, Dial: backend.NewGuard(allow).DialContext,
	})
	_, err = b.Stat(t.Context(), "a")
	require.Equal(t, backend.Forbidden, backend.KindOf(err), "%v", err)
	require.ErrorContains(t, err, "127.0.0.9")
}

func TestTokensAreOfTheOtherCluster(t *testing.T) {
	t.Setenv("SHARDSTREAM_TOKEN", "ours")
	var seen []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Header.Get("Authorization"))
		w.WriteHeader(http.StatusForbidden)
	}))
	defer server.Close()
	address := backend.Address{Host: strings.TrimPrefix(server.URL, "http://"), Path: "data"}
	_, err := open(t, backend.Config{Address: address}).Stat(t.Context(), "a")
	require.Equal(t, backend.Denied, backend.KindOf(err), "%v", err)
	_, err = open(t, backend.Config{Address: address, Credentials: map[string]string{"token": "theirs"}}).Stat(t.Context(), "a")
	require.Error(t, err)
	require.NotContains(t, err.Error(), "theirs")
	require.Equal(t, []string{"", "Bearer theirs"}, seen)
}

func TestNoBucketInTheURL(t *testing.T) {
	_, err := remote.Open(context.Background(), backend.Config{Address: backend.Address{Scheme: backend.Remote, Host: "h:1"}})
	require.Equal(t, backend.Unsupported, backend.KindOf(err))
}
