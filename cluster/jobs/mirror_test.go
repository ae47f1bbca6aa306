package jobs_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/clustertest"
)

// stamp marks what it makes with the time at which it did.
const stamp = `
import time

def transform(data):
    time.sleep(0.03)
    return data + b" " + str(time.time_ns()).encode()
`

// TestJobWhileTheSetOfTargetsChanges: one target dies and another joins while a job works on mirrored buckets. Each
// object is counted once, and what was made before stays as it is.
func TestJobWhileTheSetOfTargetsChanges(t *testing.T) {
	f := &fixture{Cluster: clustertest.Start(t, clustertest.Options{Targets: 3, Disks: 1}), t: t}
	two := 2
	for _, bucket := range []string{"in", "out"} {
		_, err := f.Client.CreateBucketWith(t.Context(), bucket, api.BucketChange{Mirror: &two})
		require.NoError(t, err)
	}
	f.deploy("stamp", stamp, api.LevelObject)
	const n = 120
	for i := range n {
		f.put("in", fmt.Sprintf("%03d.txt", i), fmt.Sprintf("text %d", i))
	}
	job := f.begin(api.TransformSpec{ETL: "stamp", Source: "ss://in/", Destination: "ss://out/"})
	f.stored(job.ID, n/6)
	before := map[string]string{}
	for object, err := range f.Client.Objects(t.Context(), "out", api.ListOptions{}) {
		require.NoError(t, err)
		before[object.Name] = object.ETag
	}
	require.NotEmpty(t, before)

	f.Targets[1].Stop()
	f.Await("the target is given up", func() bool {
		m, err := f.Client.RefreshMap(context.Background())
		return err == nil && m.Map.Nodes[2].Away
	})
	f.AddTarget()
	job = f.wait(job.ID)
	require.Equal(t, api.JobDone, job.State, "%v", job.Error)
	require.EqualValues(t, n, job.Counts.Done)
	require.EqualValues(t, n, job.Counts.Total)
	require.Zero(t, job.Counts.Failed+job.Counts.Skipped)

	require.Len(t, f.keys("out"), n)
	for i := range n {
		require.True(t, strings.HasPrefix(f.get("out", fmt.Sprintf("%03d.txt", i)), fmt.Sprintf("text %d ", i)))
	}
	for name, etag := range before {
		object, err := f.Client.StatObject(t.Context(), "out", name)
		require.NoError(t, err)
		require.Equal(t, etag, object.ETag, "%s was made again", name)
	}
}

// stored waits until a job has stored so many outputs.
func (f *fixture) stored(id string, n int64) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), time.Minute)
	defer cancel()
	for {
		job, err := f.Client.Job(ctx, id)
		require.NoError(f.t, err)
		require.Nil(f.t, job.Ended, "the job is over before anything could happen to it")
		if job.Counts.Done >= n {
			return
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			f.t.Fatalf("%d of %d outputs after a minute", job.Counts.Done, n)
		}
	}
}
