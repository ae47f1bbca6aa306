package faults

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/local"
)

// TestOfflineJobSurvives runs jobs over 2,000 objects and kills what they depend on: a target, the gateway that
// coordinates, then all at once. Every output is complete and right, none is written twice, and nobody who reads
// meanwhile sees anything else.
func TestOfflineJobSurvives(t *testing.T) {
	o := startOffline(t)
	t.Run("a target", func(t *testing.T) {
		o := &offline{cluster: o.in(t), bodies: o.bodies, keys: o.keys}
		job := o.begin("target")
		w := o.watch("target")
		o.kill("target-2")
		o.await(job.ID, jobObjects/2)
		o.kill("target-3")
		o.finish(job.ID, "target", w)
	})
	t.Run("the coordinator", func(t *testing.T) {
		o := &offline{cluster: o.in(t), bodies: o.bodies, keys: o.keys}
		o.awaitOK()
		before := o.stored()
		job := o.begin("coordinator")
		w := o.watch("coordinator")
		o.kill(job.Runner)
		o.eventually("nobody goes on with the job", func() bool {
			now, err := o.client.Job(t.Context(), job.ID)
			return err == nil && now.Counts.Done > jobObjects/3
		})
		if now, err := o.client.Job(t.Context(), job.ID); err == nil && !now.Finished() {
			t.Logf("%s coordinated, then %s", job.Runner, now.Runner)
			o.kill(now.Runner)
		}
		o.finish(job.ID, "coordinator", w)
		o.awaitOK()
		require.EqualValues(t, jobObjects, o.stored()-before, "each output was stored once")
	})
	t.Run("a coordinator that stalls", func(t *testing.T) {
		o := &offline{cluster: o.in(t), bodies: o.bodies, keys: o.keys}
		o.awaitOK()
		job := o.beginOn("gateway-2", "stalled") // the other one holds etcd
		bucket, _, err := api.ParseAddress(job.Transform.Destination)
		require.NoError(t, err)
		before := o.stored()
		w := o.watch(bucket)
		stalled := o.pid("gateway-2")
		require.NoError(t, syscall.Kill(stalled, syscall.SIGSTOP))
		defer func() { _ = syscall.Kill(stalled, syscall.SIGCONT) }()
		o.eventually("nobody goes on with the job", func() bool {
			now, err := o.client.Job(t.Context(), job.ID)
			return err == nil && now.Runner == "gateway-1" && now.Counts.Done > jobObjects/3
		})
		require.NoError(t, syscall.Kill(stalled, syscall.SIGCONT)) // what it still believes must not matter
		o.finish(job.ID, bucket, w)
		require.LessOrEqual(t, o.stored()-before, float64(jobObjects))
		ended, err := o.client.Job(t.Context(), job.ID)
		require.NoError(t, err)
		require.Equal(t, "gateway-1", ended.Runner)
		o.mustRun("bucket", "rm", bucket, "--force")
	})
	t.Run("everything", func(t *testing.T) {
		o := &offline{cluster: o.in(t), bodies: o.bodies, keys: o.keys}
		o.awaitOK()
		job := o.begin("everything")
		w := o.watch("everything")
		require.NoError(t, syscall.Kill(o.pid("supervisor"), syscall.SIGKILL))
		o.eventually("the supervisor does not end", func() bool {
			pid, err := local.Running(o.dir)
			return err == nil && pid == 0
		})
		o.mustRun("up", "--detach", "--dir", o.dir)
		o.finish(job.ID, "everything", w)
	})
	require.EqualValues(t, 4*jobObjects, o.sound())
}

// TestAbortedJobLeavesWholeOutputs aborts a job and starts it again with only-new: what is there is not made again.
func TestAbortedJobLeavesWholeOutputs(t *testing.T) {
	o := startOffline(t)
	job := o.begin("aborted")
	w := o.watch("aborted")
	out := o.mustRun("job", "abort", job.ID)
	require.Contains(t, string(out), api.JobAborted)
	first := w.list(t)
	require.NotEmpty(t, first)
	require.Less(t, len(first), jobObjects)
	ended, err := o.client.Job(t.Context(), job.ID)
	require.NoError(t, err)
	require.Equal(t, api.JobAborted, ended.State)

	spec := *job.Transform
	spec.OnlyNew = true
	again, err := o.client.StartJob(t.Context(), api.JobSpec{Kind: api.JobTransform, Transform: &spec})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	again, err = o.client.WaitJob(ctx, again.ID, nil)
	require.NoError(t, err)
	require.Equal(t, api.JobDone, again.State)
	require.EqualValues(t, len(first), again.Counts.Skipped)
	require.EqualValues(t, jobObjects-len(first), again.Counts.Done)
	w.stop()
	require.Len(t, w.list(t), jobObjects)
}

// TestJobOnAFullDisk: a destination without room ends the job with what is wrong, and what was stored stays whole.
func TestJobOnAFullDisk(t *testing.T) {
	dir := t.TempDir()
	smallDisk(t, dir)
	c := start(t, dir, "--targets", "1", "--disks", "1")
	c.mustRun("bucket", "create", "in")
	c.mustRun("bucket", "create", "out")
	body := randomBytes(1, 100_000)
	for i := range 10 {
		_, err := c.client.PutObject(t.Context(), "in", fmt.Sprintf("%02d", i), bytes.NewReader(body), int64(len(body)), api.PutOptions{})
		require.NoError(t, err)
	}
	_, err := c.client.PutETL(t.Context(), api.ETL{Name: "grow", Source: "def transform(data):\n    return data * 60\n", Level: api.LevelObject})
	require.NoError(t, err)
	code, _, errs := c.run("etl", "run", "grow", "ss://in/", "ss://out/")
	require.Equal(t, 1, code)
	require.Contains(t, string(errs), api.CodeNoSpace)
	jobs, err := c.client.Jobs(t.Context())
	require.NoError(t, err)
	require.Len(t, jobs, 1)
	require.Equal(t, api.JobFailed, jobs[0].State)
	require.Equal(t, api.CodeNoSpace, jobs[0].Error.Code)
	for object, err := range c.client.Objects(t.Context(), "out", api.ListOptions{}) {
		require.NoError(t, err)
		_, got := c.read("out", object.Name)
		require.True(t, bytes.Equal(bytes.Repeat(body, 60), got), object.Name)
	}
	c.sound()
	var refused *api.Error
	_, err = c.client.Job(t.Context(), "019ac5d3b7e-ffff")
	require.True(t, errors.As(err, &refused))
	require.Equal(t, http.StatusNotFound, refused.Status)
	require.Equal(t, api.CodeNoJob, refused.Code)
}
