package etl

import (
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/etl/enginetest"
)

// TestKills: a container, then its node, are killed while they serve. The request in hand fails with a reason, the next
// ones are answered, and of what the killed node had started nothing is left.
func TestKills(t *testing.T) {
	c := start(t, "--targets", "1")
	c.mustRun("bucket", "create", "b", "--endpoint", c.endpoint)
	c.put("b", "k", []byte("hello"))
	c.deploy(api.ETL{Name: "kills", Kind: "container", Image: enginetest.Image(t), Memory: 128 << 20, Workers: 4, TimeoutS: 60})
	ask := func(args string) (int, string) {
		status, body, _, err := c.get("/v1/objects/b/k?etl=kills&etl_args=" + args)
		if err != nil {
			return 0, err.Error()
		}
		return status, body
	}
	works := func() bool {
		status, body := ask("{}")
		return status == 200 && body == "HELLO"
	}
	require.True(t, works())
	hang := func(kill func()) (int, string) {
		var wait sync.WaitGroup
		var status int
		var body string
		begun := time.Now()
		wait.Go(func() { status, body = ask(`{"mode":"hang"}`) })
		// It hangs once it was given to the container, which answers others all the while.
		require.Eventually(t, func() bool { return works() && time.Since(begun) > 200*time.Millisecond }, 20*time.Second, 20*time.Millisecond)
		kill()
		wait.Wait()
		return status, body
	}

	names := enginetest.Containers(t, "shardstream-kills-")
	require.Len(t, names, 1)
	status, body := hang(func() { enginetest.Kill(t, names[0]) })
	require.Equal(t, 422, status, body)
	require.Contains(t, body, "killed")
	require.Contains(t, body, "ss://b/k")
	require.True(t, works(), "the container is replaced")

	names = enginetest.Containers(t, "shardstream-kills-")
	require.Len(t, names, 1)
	_, _ = hang(func() { require.NoError(t, syscall.Kill(c.pid("target-1"), syscall.SIGKILL)) })
	require.Eventually(t, works, 60*time.Second, 100*time.Millisecond, "the node is back")
	require.Eventually(t, func() bool {
		now := enginetest.Containers(t, "shardstream-kills-")
		return len(now) == 1 && now[0] != names[0]
	}, 60*time.Second, 100*time.Millisecond, "the orphan of the killed node is gone")

	c.mustRun("down", "--dir", c.dir)
	require.Empty(t, enginetest.Containers(t, "shardstream-kills-"), "a node that stops takes its containers along")
}

// TestBrokenContainersHarmNobodyElse: what is wrong with one ETL is said where it is asked for, and only there.
func TestBrokenContainersHarmNobodyElse(t *testing.T) {
	c := start(t, "--targets", "1")
	c.mustRun("bucket", "create", "b", "--endpoint", c.endpoint)
	c.put("b", "k", []byte("hello"))
	image := enginetest.Image(t)
	c.deploy(api.ETL{Name: "well", Kind: "container", Image: image, Memory: 128 << 20})
	for _, e := range []struct {
		etl  api.ETL
		args string
		says string
	}{
		{api.ETL{Name: "missing", Image: enginetest.Missing}, "", "can't be pulled"},
		{api.ETL{Name: "exits", Image: image, Command: []string{"/program", "exit", "4"}}, "", "these are my last words"},
		{api.ETL{Name: "floods", Image: image, MaxOutput: 1 << 20}, "flood", "max_output"},
		{api.ETL{Name: "hangs", Image: image, TimeoutS: 1}, "hang", "no answer within 1s"},
		{api.ETL{Name: "hoards", Image: image, Memory: 32 << 20}, "oom", "memory"},
		{api.ETL{Name: "floods-out", Image: image, Command: []string{"/program", "filter"}, Transport: "stdio", MaxOutput: 1 << 20}, "flood", "max_output"},
		{api.ETL{Name: "ends-late", Image: image, Command: []string{"/program", "filter"}, Transport: "stdio"}, "late", "it went wrong at the very end"},
	} {
		t.Run(e.etl.Name, func(t *testing.T) {
			e.etl.Kind = "container"
			if e.etl.Memory == 0 {
				e.etl.Memory = 128 << 20
			}
			c := *c
			c.t = t
			c.store(e.etl)
			status, body, _, err := c.get("/v1/objects/b/k?etl=" + e.etl.Name + `&etl_args={"mode":"` + e.args + `"}`)
			if err == nil { // a flood may have got a beginning of its answer out, which is then cut off
				require.Equal(t, 422, status, body)
				require.Contains(t, body, e.says)
			} else {
				require.True(t, strings.HasPrefix(e.etl.Name, "floods"), "%v", err)
			}
			status, body, _, err = c.get("/v1/objects/b/k?etl=well")
			require.NoError(t, err)
			require.Equal(t, 200, status)
			require.Equal(t, "HELLO", body)
			require.NoError(t, c.client.DeleteETL(t.Context(), e.etl.Name))
		})
	}
}
