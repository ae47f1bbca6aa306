package node_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/clustertest"
)

// Of three gateways any one may be missing; one that is left alone says so, and is of use again with another.
func TestGatewaysFail(t *testing.T) {
	cluster := clustertest.Start(t, clustertest.Options{Gateways: 3, Targets: 2, Disks: 1})
	cluster.AwaitEtcd(3)
	client := cluster.NewClient(api.Options{Endpoint: cluster.Endpoints()})
	_, err := client.CreateBucket(t.Context(), "b")
	require.NoError(t, err)
	put(t, cluster, "before", "x")
	create := func(name string) func() bool {
		return func() bool {
			_, err := client.CreateBucket(t.Context(), name)
			var answer *api.Error
			if err != nil {
				require.ErrorAs(t, err, &answer)
			}
			return err == nil || answer.Code == api.CodeExists
		}
	}

	cluster.Gateways[0].Stop() // it began the cluster
	cluster.Await("buckets are made without it", create("second"))
	_, err = client.PutObject(t.Context(), "second", "o", strings.NewReader("y"), 1, api.PutOptions{})
	require.NoError(t, err)
	assert.Equal(t, "x", get(t, client, "before"))

	cluster.Gateways[1].Stop()
	last := "http://" + cluster.Gateways[2].Addr()
	cluster.Await("the last one knows that it is alone", func() bool { return status(t, last+"/v1/cluster/map") == http.StatusServiceUnavailable })
	assert.Equal(t, http.StatusServiceUnavailable, status(t, last+"/v1/buckets"))
	assert.Equal(t, http.StatusOK, status(t, last+"/v1/health"))
	assert.Equal(t, http.StatusOK, status(t, last+"/metrics"))
	assert.Equal(t, http.StatusTemporaryRedirect, status(t, last+api.ObjectPath("b", "before")), "one copy: nobody else can answer for it")

	cluster.Gateways[0].Start()
	cluster.Await("a majority is back", create("third"))
	cluster.Await("its map, too", func() bool { return status(t, last+"/v1/cluster/map") == http.StatusOK })
	assert.Equal(t, "x", get(t, client, "before"))
}

func status(t testing.TB, at string) int {
	t.Helper()
	request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, at, http.NoBody)
	require.NoError(t, err)
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer client.CloseIdleConnections()
	response, err := client.Do(request)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	return response.StatusCode
}
