package gateway_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/shardstream/shardstream/cluster/api"
)

func TestChangesOfDifferentPropertiesAllHold(t *testing.T) {
	cluster, _ := withBackend(t, 1)
	for range 10 {
		cacheBucket(t, cluster, "b", api.Backend{Quota: 1, Region: "eu"})
		var all errgroup.Group
		for name, value := range map[string]any{
			"quota": 1 << 30, "read_ahead": 5, "pinned": []string{"val-*"}, "write": api.WriteCacheOnly, "delete": api.DeleteCached, "insecure": true,
		} {
			all.Go(func() error {
				_, err := cluster.Client.PatchBucket(t.Context(), "b", api.BucketPatch{Backend: map[string]any{name: value}})
				return err
			})
		}
		require.NoError(t, all.Wait())
		buckets, err := cluster.Client.Buckets(t.Context())
		require.NoError(t, err)
		require.Len(t, buckets, 1)
		assert.Equal(t, api.Backend{
			URL: "s3://memory", Region: "eu", Check: api.CheckTTL, TTLS: 60, Quota: 1 << 30, ReadAhead: 5, Pinned: []string{"val-*"},
			Write: api.WriteCacheOnly, Delete: api.DeleteCached, Insecure: true,
		}, *buckets[0].Backend)
		require.NoError(t, cluster.Client.DeleteBucket(t.Context(), "b", false))
	}
}

func TestMergePatchOfABackend(t *testing.T) {
	cluster, _ := withBackend(t, 1)
	cacheBucket(t, cluster, "b", api.Backend{Quota: 7, Region: "eu", Pinned: []string{"a"}})
	patch := func(bucket string, backend map[string]any) (api.Bucket, error) {
		return cluster.Client.PatchBucket(t.Context(), bucket, api.BucketPatch{Backend: backend})
	}
	b, err := patch("b", map[string]any{"check": api.CheckNever, "ttl_s": nil, "pinned": nil, "url": nil})
	require.NoError(t, err)
	assert.Equal(t, api.Backend{
		URL: "s3://memory", Region: "eu", Quota: 7, Check: api.CheckNever, Write: api.WriteReadOnly, Delete: api.DeleteRefused,
	}, *b.Backend, "null is a default")
	b, err = patch("b", map[string]any{"Quota": 8})
	require.NoError(t, err)
	assert.EqualValues(t, 8, b.Backend.Quota, "names are read as JSON reads them")
	_, err = patch("b", map[string]any{"quota": 7})
	require.NoError(t, err)
	createBucket(t, cluster, "plain")
	for says, c := range map[string]struct {
		bucket  string
		backend map[string]any
	}{
		"has no backend":     {"plain", map[string]any{"quota": 5}},
		"can't be exchanged": {"b", map[string]any{"url": "s3://other"}},
		"colour":             {"b", map[string]any{"colour": "red"}},
		"quota can't be":     {"b", map[string]any{"quota": "much"}},
		"write-through":      {"b", map[string]any{"delete": api.DeleteThrough}},
	} {
		_, err := patch(c.bucket, c.backend)
		failsWith(t, api.CodeBadRequest, err, says)
	}
	b, err = cluster.Client.Bucket(t.Context(), "b")
	require.NoError(t, err)
	assert.EqualValues(t, 7, b.Backend.Quota)

	// Another content type gives the backend as it is to be.
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPatch, cluster.Endpoint()+"/v1/buckets/b", strings.NewReader(`{"backend": {"read_ahead": 5}}`))
	require.NoError(t, err)
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusOK, response.StatusCode)
	buckets, err := cluster.Client.Buckets(t.Context())
	require.NoError(t, err)
	assert.Zero(t, buckets[0].Backend.Quota)
	assert.EqualValues(t, 5, buckets[0].Backend.ReadAhead)
}
