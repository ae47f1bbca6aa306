package telemetry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/telemetry"
)

// used returns metrics in which every instrument has been used once.
func used(t *testing.T) *telemetry.Metrics {
	t.Helper()
	m := telemetry.New(telemetry.Identity{Node: "target-1", Role: api.RoleTarget, Version: "test"})
	m.Observe("/v1/objects/{bucket}/{key...}", http.MethodGet, http.StatusPartialContent, 10, 100, time.Millisecond)
	m.Observe("", "BREW", http.StatusNotFound, 0, 0, time.Second)
	s := m.OpenStream()
	s.Sent(3, 300)
	s.Failed(api.CodeCorrupt)
	m.OpenStream().Close()
	m.CorruptRead("disk-1")
	require.NoError(t, m.WatchDisks(func() []api.Disk {
		return []api.Disk{{ID: "disk-1", Path: t.TempDir(), State: api.StateOK, Used: 7, Capacity: 9}, {ID: "disk-2", State: api.StateDown}}
	}))
	return m
}

func scrape(t *testing.T, m *telemetry.Metrics) string {
	t.Helper()
	answer := httptest.NewRecorder()
	m.Handler().ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	require.Equal(t, http.StatusOK, answer.Code)
	return answer.Body.String()
}

func TestMetricsHoldWhatWasCounted(t *testing.T) {
	text := scrape(t, used(t))
	for _, line := range []string{
		`shardstream_http_requests_total{code="206",method="GET",route="/v1/objects/{bucket}/{key...}"} 1`,
		`shardstream_http_requests_total{code="404",method="OTHER",route="other"} 1`,
		`shardstream_http_request_bytes_total{method="GET",route="/v1/objects/{bucket}/{key...}"} 10`,
		`shardstream_http_response_bytes_total{method="GET",route="/v1/objects/{bucket}/{key...}"} 100`,
		`shardstream_http_request_duration_seconds_count{method="GET",route="/v1/objects/{bucket}/{key...}"} 1`,
		`shardstream_streams_active 1`,
		`shardstream_streams_opened_total 2`,
		`shardstream_stream_samples_total 3`,
		`shardstream_stream_bytes_total 300`,
		`shardstream_stream_errors_total{code="corrupt"} 1`,
		`shardstream_store_corrupt_reads_total{disk="disk-1"} 1`,
		`shardstream_disk_used_bytes{disk="disk-1"} 7`,
		`shardstream_disk_size_bytes{disk="disk-1"} 9`,
		`shardstream_disk_up{disk="disk-2"} 0`,
		`shardstream_node_info{node="target-1",role="target",version="test"} 1`,
		`process_cpu_seconds_total `,
		`process_resident_memory_bytes `,
		`shardstream_host_memory_available_bytes `,
	} {
		require.Contains(t, text, line)
	}
}

func TestTextAndHandlerAgree(t *testing.T) {
	m := used(t)
	var text bytes.Buffer
	require.NoError(t, m.WriteText(&text))
	require.Contains(t, m.ContentType(), "text/plain")
	require.Equal(t, families(scrape(t, m)), families(text.String()))
}

// families are the names in an exposition, in order.
func families(text string) (names []string) {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			names = append(names, rest)
		}
	}
	return names
}

func TestMetricNamesAreClean(t *testing.T) {
	problems, err := promlint.New(strings.NewReader(scrape(t, used(t)))).Lint()
	require.NoError(t, err)
	require.Empty(t, problems)
}

func TestPromtoolFindsNothing(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not installed; TestMetricNamesAreClean runs the same rules from its library")
	}
	check := exec.Command(promtool, "check", "metrics")
	check.Stdin = strings.NewReader(scrape(t, used(t)))
	out, err := check.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Empty(t, string(out))
}

func TestNothingIsInTheDefaultRegistry(t *testing.T) {
	used(t)
	found, err := prometheus.DefaultGatherer.Gather()
	require.NoError(t, err)
	for _, family := range found {
		require.NotContains(t, family.GetName(), "shardstream_")
	}
}

func TestMiddleware(t *testing.T) {
	m := telemetry.New(telemetry.Identity{Node: "gateway-1", Role: api.RoleGateway})
	var logged bytes.Buffer
	log, err := telemetry.NewLogger(&logged, telemetry.Log{Format: "json", Level: "warn"})
	require.NoError(t, err)

	mux := http.NewServeMux()
	mux.HandleFunc("PUT /v1/objects/{bucket}/{key...}", func(w http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(w, r.Body) // through ReadFrom
		require.NoError(t, err)
	})
	mux.HandleFunc("GET /v1/fail", func(w http.ResponseWriter, r *http.Request) {
		require.Equal(t, "asked-1", telemetry.RequestIDOf(r.Context()))
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	mux.HandleFunc("GET /v1/upgrade", func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		require.NoError(t, err)
		_, _ = io.WriteString(conn, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
		require.NoError(t, conn.Close())
	})
	var running sync.WaitGroup // the server does not wait for handlers that took their connection over
	counted := m.Middleware(log, mux)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		running.Add(1)
		defer running.Done()
		counted.ServeHTTP(w, r)
	}))
	defer server.Close()

	send := func(method, path, id, body string) *http.Response {
		request, err := http.NewRequest(method, server.URL+path, strings.NewReader(body))
		require.NoError(t, err)
		if id != "" {
			request.Header.Set(api.HeaderRequestID, id)
		}
		answer, err := server.Client().Do(request)
		require.NoError(t, err)
		defer answer.Body.Close()
		_, err = io.Copy(io.Discard, answer.Body)
		require.NoError(t, err)
		return answer
	}
	require.Len(t, send(http.MethodPut, "/v1/objects/b/some/key", "", "hello").Header.Get(api.HeaderRequestID), 16)
	require.Equal(t, "asked-1", send(http.MethodGet, "/v1/fail", "asked-1", "").Header.Get(api.HeaderRequestID))
	require.NotContains(t, send(http.MethodGet, "/nowhere/else", `no good "id"`, "").Header.Get(api.HeaderRequestID), "good")
	send(http.MethodGet, "/v1/upgrade", "", "")
	server.Close()
	running.Wait() // so that all is counted

	text := scrape(t, m)
	for _, line := range []string{
		`shardstream_http_requests_total{code="200",method="PUT",route="/v1/objects/{bucket}/{key...}"} 1`,
		`shardstream_http_request_bytes_total{method="PUT",route="/v1/objects/{bucket}/{key...}"} 5`,
		`shardstream_http_response_bytes_total{method="PUT",route="/v1/objects/{bucket}/{key...}"} 5`,
		`shardstream_http_requests_total{code="503",method="GET",route="/v1/fail"} 1`,
		`shardstream_http_requests_total{code="404",method="GET",route="other"} 1`,
		`shardstream_http_requests_total{code="101",method="GET",route="/v1/upgrade"} 1`,
		`shardstream_http_requests_in_flight 0`,
	} {
		require.Contains(t, text, line)
	}
	var line map[string]any
	require.NoError(t, json.Unmarshal(logged.Bytes(), &line), "one line, of the failed request: %s", logged.String())
	require.Equal(t, "asked-1", line["request_id"])
	require.EqualValues(t, 503, line["status"])
}

func TestLogger(t *testing.T) {
	var out bytes.Buffer
	log, err := telemetry.NewLogger(&out, telemetry.Log{Level: "debug"})
	require.NoError(t, err)
	log.With(slog.String("node", "target-1")).DebugContext(telemetry.WithRequestID(context.Background(), "abc"), "said")
	require.Contains(t, out.String(), "node=target-1 request_id=abc")

	_, err = telemetry.NewLogger(&out, telemetry.Log{Level: "loud"})
	require.ErrorContains(t, err, "loud")
	_, err = telemetry.NewLogger(&out, telemetry.Log{Format: "xml"})
	require.ErrorContains(t, err, "xml")
}

func TestRequestID(t *testing.T) {
	require.Equal(t, "a.B-9_", telemetry.RequestID("a.B-9_"))
	for _, bad := range []string{"", "a b", "a\nb", strings.Repeat("x", 65), "é"} {
		require.Len(t, telemetry.RequestID(bad), 16, bad)
	}
	require.NotEqual(t, telemetry.RequestID(""), telemetry.RequestID(""))
}
