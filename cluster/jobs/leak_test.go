package jobs_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/clustertest"
)

// TestNothingOfAJobIsLeft: nodes that stop in the middle of a job take all that they started for it with them.
func TestNothingOfAJobIsLeft(t *testing.T) {
	// Another cluster first: what libraries start once for the whole process stays.
	clustertest.Start(t, clustertest.Options{Targets: 1, Disks: 1}).Stop()
	before := goleak.IgnoreCurrent()
	f := start(t, clustertest.Options{Gateways: 2})
	for i := range 100 {
		f.put("in", fmt.Sprintf("%03d", i), "text")
	}
	f.deploy("slow", "import time\ndef transform(data):\n    time.sleep(0.1)\n    return data\n", api.LevelObject)
	job := f.begin(api.TransformSpec{ETL: "slow", Source: "ss://in/", Destination: "ss://out/"})
	f.Await("the job begins", func() bool { return len(f.keys("out")) > 0 })
	now, err := f.Client.Job(t.Context(), job.ID)
	require.NoError(t, err)
	require.False(t, now.Finished())
	f.Client.Close()
	f.Stop()
	goleak.VerifyNone(t, before,
		// fasthttp's housekeepers notice the end of their server within ten seconds, or never need to.
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"))
}
