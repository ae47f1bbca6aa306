package gateway

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/membership"
)

// TestAJobEndsThoughEtcdIsAway: the end of a job is written down however long etcd does not answer, and nothing is left
// of the job then that would keep it from being coordinated.
func TestAJobEndsThoughEtcdIsAway(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	config := membership.EtcdConfig{Dir: t.TempDir(), Name: "gateway-1", Logger: log}
	etcd, err := membership.StartEtcd(t.Context(), config)
	require.NoError(t, err)
	defer func() { etcd.Close() }()
	members, err := membership.Join(t.Context(), membership.Config{
		Endpoints: etcd.Endpoints(), Self: api.Node{ID: "gateway-1", Role: api.RoleGateway, Addr: "127.0.0.1:1"}, Logger: log,
	})
	require.NoError(t, err)
	defer func() { require.NoError(t, members.Close()) }()
	c := &Coordinator{gateway: &Gateway{id: "gateway-1", members: members, log: log}, running: map[string]*jobRun{}}
	spec := api.JobSpec{Kind: api.JobTransform, Transform: &api.TransformSpec{ETL: "e", Source: "ss://a/", Destination: "ss://b/"}}
	job, err := c.folder().Create(t.Context(), spec, 1)
	require.NoError(t, err)
	job, err = c.claim(t.Context(), job.ID)
	require.NoError(t, err)

	etcd.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, ended := &jobRun{coordinator: c, job: job}, make(chan struct{})
	go func() {
		defer close(ended)
		r.end(ctx, nil)
	}()
	select {
	case <-ended:
		require.Fail(t, "it was given up while etcd was away")
	case <-time.After(7 * time.Second): // longer than a call to etcd may take
	}
	etcd, err = membership.StartEtcd(t.Context(), config)
	require.NoError(t, err)
	<-ended
	require.NoError(t, ctx.Err())
	now, err := c.folder().Get(t.Context(), job.ID)
	require.NoError(t, err)
	require.Equal(t, api.JobDone, now.State)
	require.Equal(t, job.ID, r.job.ID)
}
