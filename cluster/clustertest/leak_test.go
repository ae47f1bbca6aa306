package clustertest_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/clustertest"
)

// A node ends with its context and takes all it started with it.
func TestNothingIsLeftRunning(t *testing.T) {
	// Another cluster first: what libraries start once for the whole process stays.
	clustertest.Start(t, clustertest.Options{Targets: 1, Disks: 1}).Stop()
	before := goleak.IgnoreCurrent()
	cluster := clustertest.Start(t, clustertest.Options{Gateways: 2})
	_, err := cluster.Client.CreateBucket(t.Context(), "b")
	require.NoError(t, err)
	_, err = cluster.Client.PutObject(t.Context(), "b", "x", strings.NewReader("x"), 1, api.PutOptions{})
	require.NoError(t, err)
	_, err = cluster.Client.ListObjects(t.Context(), "b", api.ListOptions{})
	require.NoError(t, err)
	cluster.Client.Close()
	cluster.Stop()
	goleak.VerifyNone(t, before,
		// fasthttp's housekeepers notice the end of their server within ten seconds, or never need to.
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"))
}
