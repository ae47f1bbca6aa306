package gateway_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
)

func TestAJobIntoAReadOnlyBucketIsRefused(t *testing.T) {
	cluster, _ := withBackend(t, 1)
	cacheBucket(t, cluster, "out", api.Backend{})
	createBucket(t, cluster, "in")
	put(t, cluster, "in", "x", "x")
	_, err := cluster.Client.StoreETL(t.Context(), api.ETL{Name: "same", Source: "def transform(data):\n    return data\n", Level: api.LevelObject})
	require.NoError(t, err)
	spec := api.JobSpec{Kind: api.JobTransform, Transform: &api.TransformSpec{Source: "ss://in/x", Destination: "ss://out/", ETL: "same"}}
	_, err = cluster.Client.PlanJob(t.Context(), spec)
	failsWith(t, api.CodeReadOnly, err, "ss://out/")
	_, err = cluster.Client.StartJob(t.Context(), spec)
	failsWith(t, api.CodeReadOnly, err, "s3://memory", "bucket set out --write cache-only")
	list, err := cluster.Client.Jobs(t.Context())
	require.NoError(t, err)
	assert.Empty(t, list)
	for _, policy := range []string{api.WriteThrough, api.WriteCacheOnly} {
		_, err = cluster.Client.PatchBucket(t.Context(), "out", api.BucketPatch{Backend: map[string]any{"write": policy}})
		require.NoError(t, err)
		_, err = cluster.Client.PlanJob(t.Context(), spec)
		require.NoError(t, err, policy)
	}
}
