package faults

import (
	"bytes"
	"io"
	"net/http"
	"os/exec"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
)

// TestMetricsOfRunningNodes holds what every node exports against Prometheus' conventions, and
// against what was done.
func TestMetricsOfRunningNodes(t *testing.T) {
	c := start(t, t.TempDir(), "--targets", "1")
	c.mustRun("bucket", "create", "counted")
	_, err := c.client.PutObject(t.Context(), "counted", "object", bytes.NewReader(randomBytes(1, 5000)), 5000, api.PutOptions{})
	require.NoError(t, err)
	c.read("counted", "object")

	for _, node := range c.status().Nodes {
		text := get(t, "http://"+node.Addr+"/metrics")
		problems, err := promlint.New(bytes.NewReader(text)).Lint()
		require.NoError(t, err)
		require.Empty(t, problems, node.ID)
		promtool(t, text)
		for _, name := range []string{
			"shardstream_node_info{", "shardstream_http_requests_total{", "shardstream_http_request_duration_seconds_bucket{",
			"shardstream_streams_active ", "process_resident_memory_bytes ", "process_cpu_seconds_total ", "shardstream_host_memory_size_bytes ",
		} {
			require.Contains(t, string(text), "\n"+name, node.ID)
		}
		require.NotContains(t, string(text), "\netcd_", "the embedded etcd keeps its own registry")
		if node.Role == api.RoleTarget {
			require.Regexp(t, `shardstream_http_request_bytes_total\{method="PUT",route="[^"]*objects[^"]*"\} 5000`, string(text))
			require.Regexp(t, `shardstream_disk_size_bytes\{disk="disk-1"\} [1-9]`, string(text))
		}
		require.Contains(t, string(get(t, "http://"+node.Addr+"/v1/health")), "ok")
	}
}

func get(t *testing.T, url string) []byte {
	t.Helper()
	answer, err := http.Get(url)
	require.NoError(t, err)
	defer answer.Body.Close()
	require.Equal(t, http.StatusOK, answer.StatusCode, url)
	body, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	return body
}

// promtool checks with Prometheus' own tool where it is installed; promlint holds the same rules.
func promtool(t *testing.T, text []byte) {
	t.Helper()
	tool, err := exec.LookPath("promtool")
	if err != nil {
		t.Log("promtool is not installed: checked with its library only")
		return
	}
	check := exec.Command(tool, "check", "metrics")
	check.Stdin = bytes.NewReader(text)
	out, err := check.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Empty(t, string(out))
}
