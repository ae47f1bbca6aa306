package remote_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/clustertest"
)

// front makes a bucket of a cluster in front of one of another, which need not be there yet.
func front(t *testing.T, at *clustertest.Cluster, bucket string, of *clustertest.Cluster, there string) {
	t.Helper()
	_, err := at.Client.CreateBucketUntried(t.Context(), bucket, api.BucketChange{Backend: &api.Backend{
		URL: "ss://" + strings.TrimPrefix(of.Endpoint(), "http://") + "/" + there, Write: api.WriteThrough, Delete: api.DeleteThrough,
	}})
	require.NoError(t, err)
}

func readAll(ctx context.Context, c *api.Client, bucket, key string) (string, error) {
	object, err := c.GetObject(ctx, bucket, key, api.GetOptions{})
	if err != nil {
		return "", err
	}
	data, err := io.ReadAll(object)
	return string(data), errors.Join(err, object.Close())
}

func TestBucketsThatAreInFrontOfEachOther(t *testing.T) {
	first := clustertest.Start(t, clustertest.Options{Targets: 1, Disks: 1})
	second := clustertest.Start(t, clustertest.Options{Targets: 1, Disks: 1})
	front(t, first, "a", second, "b")
	front(t, second, "b", first, "a")
	front(t, first, "c", second, "b")                               // leads into the circle, and is not of it
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // less than it takes a request to be given up
	defer cancel()
	refused := func(what string, err error) {
		t.Helper()
		var answer *api.Error
		require.ErrorAs(t, err, &answer, what)
		assert.Equal(t, http.StatusLoopDetected, answer.Status, "%s: %v", what, err)
		assert.Equal(t, api.CodeLoop, answer.Code, what)
		assert.Contains(t, answer.Message, "/b -> ", what)
	}
	for bucket, cluster := range map[string]*clustertest.Cluster{"a": first, "b": second, "c": first} {
		_, err := readAll(ctx, cluster.Client, bucket, "x")
		refused("GET in "+bucket, err)
		_, err = cluster.Client.StatObject(ctx, bucket, "x")
		refused("HEAD in "+bucket, err)
		_, err = cluster.Client.ListObjects(ctx, bucket, api.ListOptions{})
		refused("list of "+bucket, err)
		_, err = cluster.Client.PutObject(ctx, bucket, "x", strings.NewReader("x"), 1, api.PutOptions{})
		refused("PUT in "+bucket, err)
		refused("DELETE in "+bucket, cluster.Client.DeleteObject(ctx, bucket, "x"))
	}
	// Fetches of both sides at once: neither waits for the other.
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			_, err := readAll(ctx, first.Client, "a", "y")
			assert.ErrorContains(t, err, "/b -> ")
		})
		all.Go(func() {
			_, err := readAll(ctx, second.Client, "b", "y")
			assert.ErrorContains(t, err, "/b -> ")
		})
	}
	all.Wait()
}

func TestBucketsInARow(t *testing.T) {
	first := clustertest.Start(t, clustertest.Options{Targets: 1, Disks: 1})
	second := clustertest.Start(t, clustertest.Options{Targets: 1, Disks: 1})
	_, err := first.Client.CreateBucket(t.Context(), "a")
	require.NoError(t, err)
	front(t, second, "b", first, "a")
	front(t, first, "c", second, "b") // through both clusters twice, but through no bucket
	front(t, second, "d", first, "c")
	_, err = second.Client.PutObject(t.Context(), "d", "x", strings.NewReader("text"), 4, api.PutOptions{})
	require.NoError(t, err)
	for bucket, cluster := range map[string]*clustertest.Cluster{"a": first, "b": second, "c": first, "d": second} {
		text, err := readAll(t.Context(), cluster.Client, bucket, "x")
		require.NoError(t, err, bucket)
		require.Equal(t, "text", text)
		list, err := cluster.Client.ListObjects(t.Context(), bucket, api.ListOptions{})
		require.NoError(t, err, bucket)
		require.Len(t, list.Objects, 1)
	}
}
