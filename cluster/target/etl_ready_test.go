package target_test

import (
	"bytes"
	"context"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/clustertest"
	"github.com/shardstream/shardstream/etl/environment/environmenttest"
)

// saying is an object-level function that answers with the version of a package.
func saying(name, module string) api.ETL {
	return api.ETL{
		Name: name, Level: api.LevelObject, Requirements: []string{module}, Workers: 1,
		Source: "import " + module + "\ndef transform(data):\n    return " + module + ".VERSION.encode()\n",
	}
}

func cluster(t *testing.T, targets int) *clustertest.Cluster {
	t.Helper()
	c := clustertest.Start(t, clustertest.Options{Targets: targets, Disks: 1})
	_, err := c.Client.CreateBucket(t.Context(), "b")
	require.NoError(t, err)
	put(t, c, "b", "note.txt", []byte("hello"))
	return c
}

func transformed(t *testing.T, c *clustertest.Cluster, name string) string {
	t.Helper()
	status, _, body := get(t, c, "/v1/objects/b/note.txt?etl="+name)
	require.Equal(t, http.StatusOK, status, string(body))
	return string(body)
}

func status(t *testing.T, c *clustertest.Cluster, name string) api.ETLStatus {
	t.Helper()
	s, err := c.Client.ETLStatus(t.Context(), name)
	require.NoError(t, err)
	return s
}

// inBackground deploys and returns where the outcome will be.
func inBackground(ctx context.Context, c *clustertest.Cluster, e api.ETL) <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := c.Client.PutETL(ctx, e)
		done <- err
	}()
	return done
}

// awaitCandidates waits until every target builds.
func awaitCandidates(t *testing.T, c *clustertest.Cluster, name string, done <-chan error) {
	t.Helper()
	c.Await("all targets build "+name, func() bool {
		select {
		case err := <-done:
			t.Fatal("the deployment ended: ", err)
		default:
		}
		s, err := c.Client.ETLStatus(t.Context(), name)
		if err != nil {
			return false
		}
		for _, target := range s.Targets {
			if target.Candidate == nil || target.Candidate.State != api.ETLBuilding || target.Candidate.Detail == "" {
				return false
			}
		}
		return len(s.Targets) > 0
	})
}

func TestDeploymentIsAllOrNothing(t *testing.T) {
	index := environmenttest.New(t)
	index.Wheel("one", "1.0", "VERSION = 'first'")
	index.Gated("two", "2.0")
	c := cluster(t, 2)
	first := deploy(t, c, saying("say", "one"))
	require.Equal(t, "first", transformed(t, c, "say"))

	t.Run("what can't be built is not deployed", func(t *testing.T) {
		_, err := c.Client.PutETL(t.Context(), saying("say", "three"))
		require.Equal(t, api.CodeETLFailed, codeOf(err))
		require.ErrorContains(t, err, "target target-")
		require.ErrorContains(t, err, "there is no package that satisfies three")
		require.ErrorContains(t, err, "No matching distribution found for three", "the log")
		now, err := c.Client.ETL(t.Context(), "say")
		require.NoError(t, err)
		require.Equal(t, first.Version, now.Version)
		require.Equal(t, "first", transformed(t, c, "say"))
	})
	t.Run("nor what is given up", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		done := inBackground(ctx, c, saying("new", "two"))
		awaitCandidates(t, c, "new", done)
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
		c.Await("the targets gave it up", func() bool {
			_, err := c.Client.ETLStatus(t.Context(), "new")
			return codeOf(err) == api.CodeNoETL
		})
		_, err := c.Client.ETL(t.Context(), "new")
		require.Equal(t, api.CodeNoETL, codeOf(err))
	})
	t.Run("the version before is in force until then", func(t *testing.T) {
		done := inBackground(t.Context(), c, saying("say", "two"))
		awaitCandidates(t, c, "say", done)
		require.Equal(t, "first", transformed(t, c, "say"))
		require.Equal(t, 2, status(t, c, "say").Ready)
		index.Open("two")
		require.NoError(t, <-done)
		require.Equal(t, "2.0", transformed(t, c, "say"))
		require.Nil(t, status(t, c, "say").Targets[0].Candidate)
	})
	t.Run("what GET answers can be PUT", func(t *testing.T) {
		e, err := c.Client.ETL(t.Context(), "say")
		require.NoError(t, err)
		require.NotNil(t, e.Status)
		again := deploy(t, c, e)
		require.Nil(t, again.Status)
		require.Greater(t, again.Version, e.Version)
		again.Version, again.Created, e.Status = e.Version, e.Created, nil
		require.Equal(t, e, again)
	})
}

func TestRequestsWaitForWhatIsBeingBuilt(t *testing.T) {
	index := environmenttest.New(t)
	index.Gated("slow", "1.0")
	c := cluster(t, 1)
	_, err := c.Client.StoreETL(t.Context(), saying("say", "slow"))
	require.NoError(t, err)
	c.Await("it is being built", func() bool { return status(t, c, "say").State == api.ETLBuilding })
	answer := make(chan string, 1)
	go func() {
		code, _, body := get(t, c, "/v1/objects/b/note.txt?etl=say")
		answer <- http.StatusText(code) + " " + string(body)
	}()
	index.Open("slow")
	require.Equal(t, "OK 1.0", <-answer)
}

func TestOneThatFailsBreaksNothingElse(t *testing.T) {
	index := environmenttest.New(t)
	c := cluster(t, 2)
	_, err := c.Client.StoreETL(t.Context(), saying("bad", "late"))
	require.NoError(t, err)
	deploy(t, c, api.ETL{Name: "flip", Source: "def transform(data):\n    return data[::-1]\n", Level: api.LevelObject})
	c.Await("it has failed everywhere", func() bool {
		s := status(t, c, "bad")
		return s.State == api.ETLFailed && s.Targets[0].Health.State == s.Targets[1].Health.State
	})
	require.Equal(t, "there is no package that satisfies late", status(t, c, "bad").Targets[0].Health.Detail)
	require.Equal(t, "olleh", transformed(t, c, "flip"))
	refused(t, c, "/v1/objects/b/note.txt?etl=bad", http.StatusUnprocessableEntity, api.CodeETLFailed, "there is no package that satisfies late")
	code, _, log := get(t, c, "/v1/etls/bad/logs?target=target-2")
	require.Equal(t, http.StatusOK, code)
	require.Contains(t, string(log), "==> target-2 <==")
	require.NotContains(t, string(log), "target-1")
	require.Contains(t, string(log), "No matching distribution found for late")
	refused(t, c, "/v1/etls/bad/logs?target=target-9", http.StatusNotFound, api.CodeNotFound)

	index.Wheel("late", "1.0", "VERSION = 'there'")
	s, err := c.Client.RestartETL(t.Context(), "bad")
	require.NoError(t, err)
	require.Equal(t, 2, s.Ready)
	require.Equal(t, "there", transformed(t, c, "bad"))
}

func TestStatusCounts(t *testing.T) {
	c := cluster(t, 2)
	deploy(t, c, api.ETL{Name: "flip", Source: "def transform(data):\n    return data[::-1]\n", Level: api.LevelObject, Workers: 1})
	for range 3 {
		require.Equal(t, "olleh", transformed(t, c, "flip"))
	}
	var total api.ETLStats
	c.Await("all is counted", func() bool { // which may be after the answer
		list, err := c.Client.ETLs(t.Context())
		require.NoError(t, err)
		require.Nil(t, list[0].Status.Targets)
		total = list[0].Status.Stats
		return total.BytesOut == 15
	})
	require.EqualValues(t, 3, total.Requests)
	require.EqualValues(t, 15, total.BytesIn)
	require.Positive(t, total.Latency.P99S)
	s := status(t, c, "flip")
	require.Equal(t, total.Requests, s.Targets[0].Stats.Requests+s.Targets[1].Stats.Requests)
	require.NotEmpty(t, s.Targets[0].Health.Python)
	require.NotEmpty(t, s.Targets[0].Health.Isolation)
	require.NotEmpty(t, s.Targets[0].Health.Confined)

	owner := c.Owner("b", "note.txt")
	scrape := func() string {
		answer, err := http.Get("http://" + owner.Addr() + "/metrics")
		require.NoError(t, err)
		defer answer.Body.Close()
		var b bytes.Buffer
		_, err = b.ReadFrom(answer.Body)
		require.NoError(t, err)
		return b.String()
	}
	metrics := scrape()
	for _, want := range []string{
		`shardstream_etl_requests_total{etl="flip"} 3`, `shardstream_etl_input_bytes_total{etl="flip"} 15`,
		`shardstream_etl_output_bytes_total{etl="flip"} 15`, `shardstream_etl_workers_running{etl="flip"} 1`,
		`shardstream_etl_state{etl="flip",state="ready"} 1`, `shardstream_etl_state{etl="flip",state="failed"} 0`,
		`shardstream_etl_call_duration_seconds_count{etl="flip"} 3`, `shardstream_etl_waiting_samples{etl="flip"} 0`,
	} {
		require.Contains(t, metrics, want)
	}
	if promtool, err := exec.LookPath("promtool"); err == nil {
		check := exec.CommandContext(t.Context(), promtool, "check", "metrics")
		check.Stdin = strings.NewReader(metrics)
		out, err := check.CombinedOutput()
		require.NoError(t, err, string(out))
		require.NotContains(t, string(out), "shardstream_etl")
	}
	require.NoError(t, c.Client.DeleteETL(t.Context(), "flip"))
	require.NotContains(t, scrape(), `etl="flip"`)
}

func TestNobodyToTryIt(t *testing.T) {
	c := clustertest.Start(t, clustertest.Options{Targets: -1})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	_, err := c.Client.PutETL(ctx, saying("say", "one"))
	require.Equal(t, api.CodeUnavailable, codeOf(err))
	require.ErrorContains(t, err, "no target is up")
}
