package backends

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/clustertest"
	"github.com/shardstream/shardstream/core/backend"
	"github.com/shardstream/shardstream/tests/backends/servers"
	"github.com/shardstream/shardstream/tests/backends/serverstest"
)

// patience bounds what a test waits for: a cluster that hangs fails it.
const patience = time.Minute

// kinds are all kinds of backends.
var kinds = []string{backend.S3, backend.GCS, backend.Azure, backend.HDFS, backend.HTTP, backend.Remote}

// stage is a cluster in front of all servers, which the tests of one function share.
type stage struct {
	*clustertest.Cluster
	servers map[string]*serverstest.Server
}

func newStage(t *testing.T) *stage {
	t.Helper()
	if testing.Short() {
		t.Skip("runs a cluster; -short is for what needs none")
	}
	s := &stage{Cluster: clustertest.Start(t, clustertest.Options{Targets: 2}), servers: map[string]*serverstest.Server{}}
	t.Cleanup(func() { requireNoSecrets(t, "the nodes' logs", s.Log()) })
	return s
}

// each runs a test in front of each kind of server.
func (s *stage) each(t *testing.T, kinds []string, test func(t *testing.T, kind string)) {
	t.Helper()
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) { test(t, kind) })
	}
}

// secrets are what no log and no answer may have in it.
var secrets = []string{servers.S3SecretKey, servers.AzureKey}

func requireNoSecrets(t *testing.T, where, text string) {
	t.Helper()
	for _, secret := range secrets {
		if strings.Contains(text, secret) {
			t.Errorf("%s: there is a secret in it", where)
		}
	}
}

// cold is a bucket of the cluster whose objects are in a bucket of a server.
type cold struct {
	*stage
	*serverstest.Bucket
	t      *testing.T
	client *api.Client
	bucket string // of the cluster
}

var buckets atomic.Int64

// cold makes a new bucket on a server and one of the cluster in front of it.
func (s *stage) cold(t *testing.T, kind string, change func(*api.Backend)) *cold {
	t.Helper()
	server := serverstest.Get(t, kind)
	return s.front(t, server.Bucket(t), change)
}

// front makes a bucket of the cluster in front of one of a server.
func (s *stage) front(t *testing.T, origin *serverstest.Bucket, change func(*api.Backend)) *cold {
	t.Helper()
	c := &cold{
		stage: s, Bucket: origin, t: t, client: s.Client, bucket: fmt.Sprintf("%s-%d", origin.Server.Kind, buckets.Add(1)),
	}
	of := origin.Server.Backend(origin.Name, "")
	if of.Secret != "" {
		_, err := s.Client.PutSecret(t.Context(), of.Secret, origin.Server.Secret())
		require.NoError(t, err)
	}
	if change != nil {
		change(of)
	}
	_, err := s.Client.CreateBucketWith(t.Context(), c.bucket, api.BucketChange{Backend: of})
	require.NoError(t, err)
	t.Cleanup(func() {
		if !t.Failed() {
			require.NoError(t, s.Client.DeleteBucket(context.Background(), c.bucket, true))
		}
	})
	origin.Server.Heal()
	return c
}

// get reads an object, or a part of it, through the cluster.
func (c *cold) get(name string, o api.GetOptions) ([]byte, error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	object, err := c.client.GetObject(ctx, c.bucket, name, o)
	if err != nil {
		return nil, err
	}
	defer object.Close()
	return io.ReadAll(object)
}

// requireGet requires the bytes of an object that is read through the cluster.
func (c *cold) requireGet(t *testing.T, name string, want []byte) {
	t.Helper()
	got, err := c.get(name, api.GetOptions{})
	require.NoError(t, err)
	requireBytes(t, want, got)
}

// requireBytes compares without printing megabytes.
func requireBytes(t *testing.T, want, got []byte) {
	t.Helper()
	require.Equal(t, len(want), len(got), "bytes")
	require.True(t, bytes.Equal(want, got), "other bytes")
}

// put writes an object through the cluster.
func (c *cold) put(name string, data []byte) error {
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	_, err := c.client.PutObject(ctx, c.bucket, name, bytes.NewReader(data), int64(len(data)), api.PutOptions{})
	return err
}

// list is a listing of all that has a prefix.
func (c *cold) list(t *testing.T, o api.ListOptions) []api.Object {
	t.Helper()
	var all []api.Object
	for object, err := range c.client.Objects(t.Context(), c.bucket, o) {
		require.NoError(t, err)
		all = append(all, object)
	}
	return all
}

// isCached says whether an object's bytes are in the cluster.
func (c *cold) isCached(t *testing.T, name string) bool {
	t.Helper()
	for _, object := range c.list(t, api.ListOptions{Prefix: name}) {
		if object.Name == name {
			return object.Cached != nil && *object.Cached
		}
	}
	return false
}

// awaitCached waits until an object's bytes are in the cluster, or not any more.
func (c *cold) awaitCached(t *testing.T, name string, cached bool) {
	t.Helper()
	c.Await(fmt.Sprintf("%s is cached: %v", name, cached), func() bool { return c.isCached(t, name) == cached })
}

// job runs a job to its end.
func (c *cold) job(t *testing.T, spec api.JobSpec) api.Job {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	job, err := c.client.StartJob(ctx, spec)
	require.NoError(t, err)
	job, err = c.client.WaitJob(ctx, job.ID, nil)
	require.NoError(t, err)
	return job
}

func (c *cold) evict(t *testing.T, prefix string) api.Job {
	t.Helper()
	return c.job(t, api.JobSpec{Kind: api.JobEvict, Evict: &api.CacheSpec{Bucket: c.bucket, Prefix: prefix}})
}

// reads is how many requests for an object's data have reached the server; -1 where requests can't be told apart.
func (c *cold) reads(name string) int {
	if c.Server.HTTP == nil {
		return -1
	}
	return c.Server.Reads(name)
}

// requireAnswer requires an error of the cluster.
func requireAnswer(t *testing.T, err error, status int, code string) {
	t.Helper()
	var answer *api.Error
	require.ErrorAs(t, err, &answer)
	require.Equal(t, status, answer.Status, "%v", err)
	require.Equal(t, code, answer.Code, "%v", err)
	requireNoSecrets(t, "an answer", err.Error())
}

// tarOf is an archive of samples with two members each: NNNN.txt and NNNN.bin.
func tarOf(t *testing.T, samples, size int) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for i := range samples {
		for _, member := range []struct {
			ext  string
			data []byte
		}{{"txt", fmt.Appendf(nil, "sample %d", i)}, {"bin", bytesOf(uint64(i), size)}} {
			header := &tar.Header{Name: fmt.Sprintf("%04d.%s", i, member.ext), Mode: 0o600, Size: int64(len(member.data))}
			require.NoError(t, w.WriteHeader(header))
			_, err := w.Write(member.data)
			require.NoError(t, err)
		}
	}
	require.NoError(t, w.Close())
	return out.Bytes()
}
