package api_test

import (
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
)

func TestAnotherGatewayIsAsked(t *testing.T) {
	var cutOff atomic.Bool
	var asked [2]atomic.Int64
	gateways := make([]string, 2)
	for i := range gateways {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			asked[i].Add(1)
			if i == 0 && cutOff.Load() {
				w.WriteHeader(http.StatusServiceUnavailable)
				_, _ = w.Write(api.MarshalError(api.Errorf(503, api.CodeUnavailable, "cut off")))
				return
			}
			_, _ = w.Write([]byte(`{"name": "b"}`))
		}))
		defer server.Close()
		gateways[i] = server.URL
	}
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	client, err := api.NewClient(api.Options{Endpoint: gone.URL + ", " + gateways[0] + "," + gateways[1]})
	require.NoError(t, err)
	defer client.Close()
	_, err = client.CreateBucket(t.Context(), "b") // which is not repeated once it may have been done
	require.NoError(t, err, "nothing was sent to the one that is gone")
	assert.Equal(t, int64(1), asked[0].Load())
	assert.Equal(t, gateways[0], client.Endpoint())
	cutOff.Store(true)
	_, err = client.Bucket(t.Context(), "b")
	require.NoError(t, err)
	assert.Equal(t, gateways[1], client.Endpoint())
	before := asked[0].Load()
	_, err = client.Bucket(t.Context(), "b")
	require.NoError(t, err)
	assert.Equal(t, before, asked[0].Load(), "it stays with the one that answers")

	_, err = api.NewClient(api.Options{Endpoint: gateways[0] + ",nonsense"})
	assert.ErrorContains(t, err, "nonsense")
}
