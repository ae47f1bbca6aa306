package telemetry

import (
	"io"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/common/expfmt"

	"github.com/shardstream/shardstream/cluster/api"
)

// RouteOther is the route label of requests that no route took. Paths never become labels, or one
// scanner could fill the memory of a node with time series.
const RouteOther = "other"

// Identity names the node in its metrics.
type Identity struct {
	Node    string // "target-1"
	Role    string // api.RoleGateway or api.RoleTarget
	Version string // of the software
}

// Metrics is one node's registry and its instruments. All methods are safe for concurrent use.
type Metrics struct {
	registry *prometheus.Registry
	exporter http.Handler

	requests *prometheus.CounterVec   // route, method, code
	received *prometheus.CounterVec   // route, method
	sent     *prometheus.CounterVec   // route, method
	seconds  *prometheus.HistogramVec // route, method
	inFlight prometheus.Gauge

	streamsActive prometheus.Gauge
	streamsOpened prometheus.Counter
	streamSamples prometheus.Counter
	streamBytes   prometheus.Counter
	streamErrors  *prometheus.CounterVec // code
	streamed      atomic.Int64           // what streamBytes counts, to be read

	corrupt *prometheus.CounterVec // disk
}

// latencyBuckets reach from a metadata read (0.5 ms) to a stream that lasts minutes.
var latencyBuckets = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300}

// New makes the registry of one node, with the collectors of its process and its host.
func New(id Identity) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		requests: counterVec("shardstream_http_requests_total",
			"Requests answered, by route, method and status code.", "route", "method", "code"),
		received: counterVec("shardstream_http_request_bytes_total",
			"Bytes of request bodies received.", "route", "method"),
		sent: counterVec("shardstream_http_response_bytes_total",
			"Bytes of response bodies sent.", "route", "method"),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "shardstream_http_request_duration_seconds",
			Help:    "Time from a request's arrival to the end of its answer.",
			Buckets: latencyBuckets,
		}, []string{"route", "method"}),
		inFlight: gauge("shardstream_http_requests_in_flight", "Requests now being answered."),

		streamsActive: gauge("shardstream_streams_active", "Sample streams now open."),
		streamsOpened: counter("shardstream_streams_opened_total", "Sample streams opened."),
		streamSamples: counter("shardstream_stream_samples_total", "Samples sent on streams."),
		streamBytes:   counter("shardstream_stream_bytes_total", "Bytes of sample payloads sent on streams."),
		streamErrors: counterVec("shardstream_stream_errors_total",
			"Errors sent on streams or that ended one, by error code.", "code"),

		corrupt: counterVec("shardstream_store_corrupt_reads_total",
			"Reads that met a block whose checksum was wrong.", "disk"),
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "shardstream_node_info",
		Help:        "The node and its software; always 1.",
		ConstLabels: prometheus.Labels{"node": id.Node, "role": id.Role, "version": id.Version},
	})
	info.Set(1)
	m.registry.MustRegister(
		m.requests, m.received, m.sent, m.seconds, m.inFlight,
		m.streamsActive, m.streamsOpened, m.streamSamples, m.streamBytes, m.streamErrors,
		m.corrupt, info,
		collectors.NewGoCollector(), newProcessCollector(), newHostCollector(),
	)
	m.exporter = promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		ErrorHandling:       promhttp.ContinueOnError,
		MaxRequestsInFlight: 4,
		Timeout:             10 * time.Second,
	})
	return m
}

// Register adds a collector of another part of the node, such as a cache or a worker pool.
func (m *Metrics) Register(c prometheus.Collector) error { return m.registry.Register(c) }

// Handler serves /metrics.
func (m *Metrics) Handler() http.Handler { return m.exporter }

// ContentType is the type of what WriteText writes.
func (m *Metrics) ContentType() string { return string(expfmt.NewFormat(expfmt.TypeTextPlain)) }

// WriteText writes all metrics in Prometheus' text format, for servers that are not net/http.
func (m *Metrics) WriteText(w io.Writer) error {
	families, err := m.registry.Gather()
	encoder := expfmt.NewEncoder(w, expfmt.NewFormat(expfmt.TypeTextPlain))
	for _, family := range families {
		if encodeErr := encoder.Encode(family); encodeErr != nil {
			return encodeErr
		}
	}
	return err
}

// Observe counts one answered request: route is its pattern (never its path; "" becomes
// RouteOther), in and out are the bytes of the bodies.
func (m *Metrics) Observe(route, method string, code int, in, out int64, d time.Duration) {
	if route == "" {
		route = RouteOther
	}
	method = methodLabel(method)
	m.requests.WithLabelValues(route, method, codeLabel(code)).Inc()
	if in > 0 {
		m.received.WithLabelValues(route, method).Add(float64(in))
	}
	if out > 0 {
		m.sent.WithLabelValues(route, method).Add(float64(out))
	}
	m.seconds.WithLabelValues(route, method).Observe(d.Seconds())
}

// CorruptRead counts a read that a checksum refused.
func (m *Metrics) CorruptRead(disk string) { m.corrupt.WithLabelValues(disk).Inc() }

// WatchDisks exports the disks that usage returns; it is asked at each scrape and must not block.
func (m *Metrics) WatchDisks(usage func() []api.Disk) error {
	return m.registry.Register(&diskCollector{usage: usage})
}

// methodLabel keeps methods that a client made up out of the labels.
func methodLabel(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPut, http.MethodPost, http.MethodDelete, http.MethodPatch, http.MethodOptions:
		return method
	}
	return "OTHER"
}

// codeLabel spares the hot path an allocation for the usual codes.
func codeLabel(code int) string {
	switch code {
	case 0, http.StatusOK: // 0: the handler wrote nothing, which net/http answers with 200
		return "200"
	case http.StatusPartialContent:
		return "206"
	case http.StatusTemporaryRedirect:
		return "307"
	}
	return strconv.Itoa(code)
}

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
}

func counterVec(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
}

func gauge(name, help string) prometheus.Gauge {
	return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
}
