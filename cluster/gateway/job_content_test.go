package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/clustertest"
	"github.com/shardstream/shardstream/core/backend"
	"github.com/shardstream/shardstream/core/backend/backendtest"
)

func waitJob(t *testing.T, client *api.Client, spec api.JobSpec) api.Job {
	t.Helper()
	job, err := client.StartJob(t.Context(), spec)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	job, err = client.WaitJob(ctx, job.ID, nil)
	require.NoError(t, err)
	return job
}

func prefetchOf(s api.CacheSpec) api.JobSpec { return api.JobSpec{Kind: api.JobPrefetch, Prefetch: &s} }
func evictOf(s api.CacheSpec) api.JobSpec    { return api.JobSpec{Kind: api.JobEvict, Evict: &s} }

func TestPrefetchAndEvict(t *testing.T) {
	cluster, memory := withBackend(t, 3)
	for i := range 40 {
		memory.Set(fmt.Sprintf("train-%02d", i), []byte(strings.Repeat("x", 1000+i)))
	}
	memory.Set("val-0", []byte("v"))
	cacheBucket(t, cluster, "b", api.Backend{Write: api.WriteCacheOnly, Pinned: []string{"val-*"}})
	put(t, cluster, "b", "own", "own")

	job := waitJob(t, cluster.Client, prefetchOf(api.CacheSpec{Bucket: "b", Pattern: "train-{00..09}"}))
	assert.Equal(t, api.JobDone, job.State, "%v", job.Error)
	assert.Equal(t, api.JobCounts{Total: 10, TotalBytes: 10_045, Done: 10, BytesIn: 10_045, BytesOut: 10_045}, job.Counts)
	cached, err := cluster.Client.Cached(t.Context(), "b")
	require.NoError(t, err)
	assert.Equal(t, api.Cached{Objects: 10, Bytes: 10_045, Own: 1}, cached)

	job = waitJob(t, cluster.Client, prefetchOf(api.CacheSpec{Bucket: "b"}))
	assert.Equal(t, []int64{42, 31, 11, 0}, []int64{job.Counts.Total, job.Counts.Done, job.Counts.Skipped, job.Counts.Failed})
	for i := range 40 {
		assert.Equal(t, 1, memory.Calls("open", fmt.Sprintf("train-%02d", i)), "each is fetched once")
	}
	job = waitJob(t, cluster.Client, prefetchOf(api.CacheSpec{Bucket: "b", Names: []string{"train-01", "nothing", "train-00", "train-01"}}))
	assert.Equal(t, []int64{3, 0, 2, 1}, []int64{job.Counts.Total, job.Counts.Done, job.Counts.Skipped, job.Counts.Failed})
	failures, err := cluster.Client.JobFailures(t.Context(), job.ID)
	require.NoError(t, err)
	require.Len(t, failures, 1)
	assert.Equal(t, "ss://b/nothing", failures[0].Object)
	assert.Equal(t, api.CodeNotFound, failures[0].Error.Code)

	job = waitJob(t, cluster.Client, evictOf(api.CacheSpec{Bucket: "b", Prefix: "train-0"}))
	assert.Equal(t, []int64{10, 10, 0}, []int64{job.Counts.Total, job.Counts.Done, job.Counts.Skipped})
	job = waitJob(t, cluster.Client, evictOf(api.CacheSpec{Bucket: "b"}))
	assert.Equal(t, []int64{32, 30, 2}, []int64{job.Counts.Total, job.Counts.Done, job.Counts.Skipped}, "pinned ones and the cluster's own stay")
	assert.Equal(t, []string{"own*", "val-0*"}, names(t, cluster, "b", api.ListOptions{Cached: true}))
	assert.Len(t, names(t, cluster, "b", api.ListOptions{}), 42)

	read(t, cluster, "b", "train-33")
	done, err := cluster.Client.Evict(t.Context(), "b", "train-")
	require.NoError(t, err)
	assert.Equal(t, api.Evicted{Objects: 1, Bytes: 1033}, done)
}

func TestJobsAboutACacheThatCanNotBe(t *testing.T) {
	cluster, memory := withBackend(t, 1)
	memory.Set("x", []byte("x"))
	cacheBucket(t, cluster, "b", api.Backend{})
	createBucket(t, cluster, "plain")
	for name, c := range map[string]struct {
		spec api.JobSpec
		code string
	}{
		"no member":      {api.JobSpec{Kind: api.JobPrefetch}, api.CodeBadRequest},
		"another's":      {api.JobSpec{Kind: api.JobPrefetch, Evict: &api.CacheSpec{Bucket: "b"}}, api.CodeBadRequest},
		"two ways":       {prefetchOf(api.CacheSpec{Bucket: "b", Prefix: "x", Pattern: "y"}), api.CodeBadRequest},
		"broken pattern": {prefetchOf(api.CacheSpec{Bucket: "b", Pattern: "{x"}), api.CodeBadRequest},
		"address":        {prefetchOf(api.CacheSpec{Bucket: "b", Pattern: "ss://b/*"}), api.CodeBadRequest},
		"bad name":       {evictOf(api.CacheSpec{Bucket: "b", Names: []string{"../x"}}), api.CodeBadName},
		"no bucket":      {prefetchOf(api.CacheSpec{Bucket: "nowhere"}), api.CodeNoBucket},
		"no backend":     {prefetchOf(api.CacheSpec{Bucket: "plain"}), api.CodeBadRequest},
	} {
		_, err := cluster.Client.StartJob(t.Context(), c.spec)
		var answer *api.Error
		require.ErrorAs(t, err, &answer, name)
		assert.Equal(t, c.code, answer.Code, "%s: %s", name, answer.Message)
	}
	job := waitJob(t, cluster.Client, prefetchOf(api.CacheSpec{Bucket: "b", Pattern: "y*"}))
	require.NotNil(t, job.Error)
	assert.Equal(t, api.CodeNoMatch, job.Error.Code)
	plan, err := cluster.Client.PlanJob(t.Context(), prefetchOf(api.CacheSpec{Bucket: "b"}))
	require.NoError(t, err)
	assert.Equal(t, api.JobPlan{Objects: 1, Bytes: 1, First: []api.JobStep{{Source: "ss://b/x", Size: 1}}}, plan)
	assert.Zero(t, memory.Calls("open", "x"))
	assert.Zero(t, waitJob(t, cluster.Client, evictOf(api.CacheSpec{Bucket: "b"})).Counts.Total)
}

// Objects that can't be fetched are told with what their backend says, and the others are fetched.
func TestPrefetchTellsWhatFailed(t *testing.T) {
	cluster, memory := withBackend(t, 2)
	for i := range 8 {
		memory.Set(fmt.Sprint(i), []byte("x"))
	}
	memory.Fault = func(op, name string, _ int64) error {
		if op == "open" && name == "3" {
			return memory.Failure(op, name, backend.Denied)
		}
		return nil
	}
	cacheBucket(t, cluster, "b", api.Backend{Quota: 1 << 20})
	job := waitJob(t, cluster.Client, prefetchOf(api.CacheSpec{Bucket: "b"}))
	assert.Equal(t, []int64{8, 7, 1}, []int64{job.Counts.Total, job.Counts.Done, job.Counts.Failed})
	failures, err := cluster.Client.JobFailures(t.Context(), job.ID)
	require.NoError(t, err)
	assert.Equal(t, api.CodeDenied, failures[0].Error.Code)
	assert.Contains(t, failures[0].Error.Message, "s3://memory/3")
}

// A job that is fetching ends when it is asked to; one whose gateway and targets stop is finished by the next.
func TestPrefetchIsAbortedAndTakenOver(t *testing.T) {
	memory := backendtest.NewMemory("s3://memory")
	cluster := clustertest.Start(t, clustertest.Options{
		Gateways: 2, Targets: 2, Disks: 1, Schemes: backend.Set{backend.S3: memory.Opener()},
	})
	for i := range 60 {
		memory.Set(fmt.Sprintf("%02d", i), []byte("x"))
	}
	var begun atomic.Int64
	gate := make(chan struct{})
	memory.Fault = func(op, _ string, _ int64) error {
		if op == "read" && begun.Add(1) > 20 {
			<-gate
		}
		return nil
	}
	cacheBucket(t, cluster, "b", api.Backend{})
	job, err := cluster.Client.StartJob(t.Context(), prefetchOf(api.CacheSpec{Bucket: "b"}))
	require.NoError(t, err)
	var runner string
	cluster.Await("the job gets on", func() bool {
		now, err := cluster.Client.Job(t.Context(), job.ID)
		runner = now.Runner
		return err == nil && now.Counts.Done >= 10
	})
	aborted, err := cluster.Client.AbortJob(t.Context(), job.ID)
	require.NoError(t, err)
	aborted, err = cluster.Client.WaitJob(t.Context(), aborted.ID, nil)
	require.NoError(t, err)
	assert.Equal(t, api.JobAborted, aborted.State)
	assert.Less(t, aborted.Counts.Done, int64(60))

	second, err := cluster.Client.StartJob(t.Context(), prefetchOf(api.CacheSpec{Bucket: "b"}))
	require.NoError(t, err)
	cluster.Await("somebody coordinates the job", func() bool {
		now, err := cluster.Client.Job(t.Context(), second.ID)
		runner = now.Runner
		return err == nil && runner != "" && now.Counts.Total == 60
	})
	at := slices.IndexFunc(cluster.Gateways, func(n *clustertest.Node) bool { return n.ID == runner })
	if at == 0 { // it has etcd: the job waits for it
		cluster.Gateways[0].Stop()
		cluster.Gateways[0].Start()
	} else {
		cluster.Gateways[1].Stop()
	}
	close(gate)
	done, err := cluster.Client.WaitJob(t.Context(), second.ID, nil)
	require.NoError(t, err)
	assert.Equal(t, api.JobDone, done.State, "%v", done.Error)
	assert.Equal(t, int64(60), done.Counts.Done+done.Counts.Skipped)
	assert.Len(t, names(t, cluster, "b", api.ListOptions{Cached: true}), 60)
}

func TestSecrets(t *testing.T) {
	cluster, _ := withBackend(t, 1)
	ctx, client := t.Context(), cluster.Client
	made, err := client.PutSecret(ctx, "aws", map[string]string{"secret_access_key": "hunter2", "access_key_id": "me"})
	require.NoError(t, err)
	assert.Equal(t, []string{"access_key_id", "secret_access_key"}, made.Fields)
	_, err = client.PutSecret(ctx, "other", map[string]string{"token": "t"})
	require.NoError(t, err)
	list, err := client.Secrets(ctx)
	require.NoError(t, err)
	require.Len(t, list, 2)
	assert.Equal(t, "aws", list[0].Name)
	for _, path := range []string{"/v1/secrets", "/v1/secrets/aws", "/v1/cluster", "/metrics"} {
		_, body := raw(t, cluster.Gateways[0].Addr(), http.MethodGet, path)
		assert.NotContains(t, string(body), "hunter2", path)
	}
	_, err = client.CreateBucketUntried(ctx, "b", api.BucketChange{Backend: &api.Backend{URL: "s3://memory", Secret: "aws"}})
	require.NoError(t, err)
	failsWith(t, api.CodeRefused, client.DeleteSecret(ctx, "aws"), "bucket b")
	_, err = client.PutSecret(ctx, "aws", map[string]string{"access_key_id": "another"})
	require.NoError(t, err, "but it may be changed")
	_, err = client.ChangeBucket(ctx, "b", api.BucketChange{Backend: &api.Backend{}})
	require.NoError(t, err)
	require.NoError(t, client.DeleteSecret(ctx, "aws"))
	failsWith(t, api.CodeNoSecret, client.DeleteSecret(ctx, "aws"), "secret ls")

	for name, data := range map[string]map[string]string{
		"none":   {},
		"empty":  {"a": ""},
		"field":  {"a b": "hunter2"},
		"large":  {"a": strings.Repeat("hunter2", 40_000)},
		"binary": {"a": "hunter2\x00"},
	} {
		_, err := client.PutSecret(ctx, "bad", data)
		failsWith(t, api.CodeBadRequest, err)
		assert.NotContains(t, err.Error(), "hunter2", name)
	}
	_, err = client.PutSecret(ctx, "Not a name", map[string]string{"a": "b"})
	failsWith(t, api.CodeBadName, err)
	for _, body := range []string{`{"data": {"a": 20391}}`, `{"data": {"a": "hunter2}`, `["hunter2"]`} {
		request, err := http.NewRequestWithContext(ctx, http.MethodPut, cluster.Endpoint()+"/v1/secrets/bad", strings.NewReader(body))
		require.NoError(t, err)
		response, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		answer, err := io.ReadAll(response.Body)
		require.NoError(t, errors.Join(err, response.Body.Close()))
		assert.Equal(t, http.StatusBadRequest, response.StatusCode)
		assert.NotContains(t, string(answer), "hunter2")
		assert.NotContains(t, string(answer), "20391")
	}
}
