package gateway_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
)

// What is in the cluster alone outlives another policy, whatever its backend has of that name: while who holds it is away,
// another target that is to have it by now does not take the backend's for it.
func TestOwnObjectsOutliveAnotherPolicy(t *testing.T) {
	cluster, memory := withBackend(t, 2)
	policies, keys := []string{api.WriteReadOnly, api.WriteThrough}, make([]string, 40)
	for _, policy := range policies {
		cacheBucket(t, cluster, policy, api.Backend{Write: api.WriteCacheOnly})
		for i := range keys {
			keys[i] = fmt.Sprintf("%02d", i)
			memory.Set(keys[i], []byte("the backend's"))
			put(t, cluster, policy, keys[i], "the cluster's own")
		}
	}
	holder := cluster.Targets[0]
	moved := map[string][]string{}
	for _, policy := range policies {
		for _, key := range keys {
			if cluster.Owner(policy, key) == holder {
				moved[policy] = append(moved[policy], key)
			}
		}
	}
	holder.Stop()
	other := cluster.AddTarget()
	impatient := cluster.NewClient(api.Options{RetryFor: -1})
	for _, policy := range policies {
		_, err := cluster.Client.ChangeBucket(t.Context(), policy, api.BucketChange{Backend: &api.Backend{Write: policy}})
		require.NoError(t, err)
		asked := 0
		for _, key := range moved[policy] {
			if cluster.Owner(policy, key) != other {
				continue
			}
			asked++
			_, err := impatient.GetObject(t.Context(), policy, key, api.GetOptions{})
			var answer *api.Error
			if assert.ErrorAs(t, err, &answer, "%s %s", policy, key) {
				assert.Equal(t, api.CodeUnavailable, answer.Code, answer.Message)
			}
		}
		assert.NotZero(t, asked, "keys that moved")
	}
	holder.Start()
	through := api.WriteThrough
	_, err := cluster.Client.ChangeBucket(t.Context(), through, api.BucketChange{Backend: &api.Backend{Write: through, Delete: api.DeleteThrough}})
	require.NoError(t, err)
	i := slices.IndexFunc(moved[through], func(key string) bool { return cluster.Owner(through, key) == other })
	require.GreaterOrEqual(t, i, 0)
	deleted := moved[through][i] // of which the new primary knows nothing yet
	require.NoError(t, cluster.Client.DeleteObject(t.Context(), through, deleted))
	_, err = cluster.Client.GetObject(t.Context(), through, deleted, api.GetOptions{})
	require.ErrorContains(t, err, deleted)
	require.Nil(t, memory.Data(deleted))
	for _, policy := range policies {
		for _, key := range keys {
			if policy == through && key == deleted {
				continue
			}
			assert.Equal(t, "the cluster's own", read(t, cluster, policy, key), "%s %s", policy, key)
		}
	}
}
