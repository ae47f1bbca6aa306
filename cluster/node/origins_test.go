package node_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/clustertest"
)

// Nodes connect to what a user names, but not to themselves and their neighbours, unless their settings allow it.
func TestBackendsReachNoFurtherThanAllowed(t *testing.T) {
	var asked atomic.Int64
	inside := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if strings.HasSuffix(r.URL.Path, "/") {
			_, _ = w.Write([]byte(`<a href="a.txt">a</a>`))
			return
		}
		w.Header().Set("ETag", `"1"`)
		_, _ = w.Write([]byte("inside"))
	}))
	defer inside.Close()
	named := strings.Replace(inside.URL, "127.0.0.1", "localhost", 1)
	from := func(url, endpoint string) api.BucketChange {
		return api.BucketChange{Backend: &api.Backend{URL: url, Endpoint: endpoint}}
	}

	closed := clustertest.Start(t, clustertest.Options{Targets: 1, Disks: 1, BackendAllow: []string{"10.9.0.0/16"}})
	for what, change := range map[string]api.BucketChange{
		"address": from(inside.URL+"/d/", ""), "name": from(named+"/d/", ""), "endpoint": from("s3://b", inside.URL),
		"cluster": from("ss://"+strings.TrimPrefix(closed.Endpoint(), "http://")+"/b", ""),
		"hdfs":    from("hdfs://"+strings.TrimPrefix(inside.URL, "http://")+"/d", ""),
	} {
		_, err := closed.Client.CreateBucketWith(t.Context(), "b", change)
		var answer *api.Error
		require.True(t, errors.As(err, &answer), "%s: %v", what, err)
		require.ErrorContains(t, err, "backend_allow", what)
		if what != "name" {
			require.Equal(t, http.StatusBadRequest, answer.Status, "%s: %v", what, err)
		}
	}
	require.Zero(t, asked.Load())

	open := clustertest.Start(t, clustertest.Options{Targets: 1, Disks: 1})
	_, err := open.Client.CreateBucketWith(t.Context(), "b", from(named+"/d/", ""))
	require.NoError(t, err)
	list, err := open.Client.ListObjects(t.Context(), "b", api.ListOptions{})
	require.NoError(t, err)
	require.Len(t, list.Objects, 1)
}
