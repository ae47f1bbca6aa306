package jobs_test

import (
	"context"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/jobs"
	"github.com/shardstream/shardstream/cluster/membership"
)

// folder is that of a gateway of a cluster without any other node.
func folder(t *testing.T) jobs.Folder {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	e, err := membership.StartEtcd(t.Context(), membership.EtcdConfig{Dir: t.TempDir(), Name: "gateway-1", Logger: log})
	require.NoError(t, err)
	t.Cleanup(e.Close)
	m, err := membership.Join(t.Context(), membership.Config{
		Endpoints: e.Endpoints(), Self: api.Node{ID: "gateway-1", Role: api.RoleGateway, Addr: "127.0.0.1:1"}, Logger: log,
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return jobs.Of(m)
}

func update(t *testing.T, f jobs.Folder, id string, change func(*api.Job)) {
	t.Helper()
	_, err := f.Update(t.Context(), id, func(j *api.Job) error { change(j); return nil })
	require.NoError(t, err)
}

// TestProgressIsFenced: what a gateway that lost a job writes about it is refused; a write of its own whose answer it
// never got does not stop the gateway that has it.
func TestProgressIsFenced(t *testing.T) {
	f := folder(t)
	job, err := f.Create(t.Context(), spec(nil), 1)
	require.NoError(t, err)
	update(t, f, job.ID, func(j *api.Job) { j.Runner, j.State = "one", api.JobRunning })
	one, err := f.Progress(t.Context(), job.ID)
	require.NoError(t, err)
	one.Parts["target-1"] = jobs.Part{Cursor: "a", Stored: 1}
	require.NoError(t, f.PutProgress(t.Context(), job.ID, "one", one))

	lost, err := f.Progress(t.Context(), job.ID)
	require.NoError(t, err)
	lost.Parts["target-1"] = jobs.Part{Cursor: "b", Stored: 2}
	require.NoError(t, f.PutProgress(t.Context(), job.ID, "one", lost)) // one does not learn of it
	one.Parts["target-1"] = jobs.Part{Cursor: "c", Stored: 3, Failed: 1, BytesIn: 9}
	require.NoError(t, f.PutProgress(t.Context(), job.ID, "one", one))
	now, err := f.Get(t.Context(), job.ID)
	require.NoError(t, err)
	require.Equal(t, api.JobCounts{Total: -1, Done: 3, Failed: 1, BytesIn: 9}, now.Counts)

	update(t, f, job.ID, func(j *api.Job) { j.Runner = "two" })
	two, err := f.Progress(t.Context(), job.ID)
	require.NoError(t, err)
	require.Equal(t, one.Parts, two.Parts, "the next one goes on where the last one was")
	require.NoError(t, f.PutProgress(t.Context(), job.ID, "two", two))
	require.ErrorIs(t, f.PutProgress(t.Context(), job.ID, "one", one), jobs.ErrTaken)
}

func TestOnlyTheLastJobsAreKept(t *testing.T) {
	f := folder(t)
	running, err := f.Create(t.Context(), spec(nil), 1)
	require.NoError(t, err)
	var ids []string
	for range jobs.Kept + 5 {
		job, err := f.Create(t.Context(), spec(nil), 1)
		require.NoError(t, err)
		ids = append(ids, job.ID)
		require.NoError(t, f.PutFailures(t.Context(), job.ID, []api.JobFailure{{Object: job.ID}}))
		update(t, f, job.ID, func(j *api.Job) { j.State = api.JobDone })
	}
	list, err := f.List(t.Context())
	require.NoError(t, err)
	require.Len(t, list, 1+jobs.Kept)
	require.Equal(t, running.ID, list[0].ID, "one that has not ended is never let go")
	_, err = f.Failures(t.Context(), ids[0])
	requireCode(t, err, api.CodeNoJob)
	failures, err := f.Failures(t.Context(), ids[len(ids)-1])
	require.NoError(t, err)
	require.Equal(t, []api.JobFailure{{Object: ids[len(ids)-1]}}, failures)
}

func TestWatch(t *testing.T) {
	f := folder(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen := make(chan []api.Job)
	done := make(chan error, 1)
	go func() { // ends with the context
		done <- f.Watch(ctx, func(list []api.Job) {
			select {
			case seen <- list:
			case <-ctx.Done():
			}
		})
	}()
	require.Empty(t, <-seen)
	job, err := f.Create(t.Context(), spec(nil), 7)
	require.NoError(t, err)
	require.Equal(t, []api.Job{job}, <-seen)
	update(t, f, job.ID, func(j *api.Job) { j.Aborting = true })
	require.True(t, (<-seen)[0].Aborting)
	cancel()
	require.NoError(t, <-done)
}
