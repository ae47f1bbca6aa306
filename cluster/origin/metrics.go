package origin

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/shardstream/shardstream/core/backend"
)

// metrics count what is asked of backends, by their schemes: neither buckets nor names become labels.
type metrics struct {
	seconds *prometheus.HistogramVec // scheme, op
	errors  *prometheus.CounterVec   // scheme, op, kind
	bytes   *prometheus.CounterVec   // scheme, op
	retries *prometheus.CounterVec   // scheme, op
}

// buckets reach from a stat of a near server to a large body.
var buckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300}

func newMetrics() *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	return &metrics{
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "shardstream_backend_request_duration_seconds",
			Help:    "Time of calls to backends with all their attempts: open up to its answer, read to the end of the body.",
			Buckets: buckets,
		}, []string{"scheme", "op"}),
		errors: counter("shardstream_backend_errors_total",
			"Calls to backends that failed in the end, by the kind of error.", "scheme", "op", "kind"),
		bytes: counter("shardstream_backend_bytes_total",
			"Bytes of objects read from and put to backends.", "scheme", "op"),
		retries: counter("shardstream_backend_retries_total",
			"Requests to backends beyond the first of a call.", "scheme", "op"),
	}
}

// Describe implements prometheus.Collector.
func (p *Pool) Describe(to chan<- *prometheus.Desc) {
	for _, c := range p.metrics.all() {
		c.Describe(to)
	}
}

// Collect implements prometheus.Collector.
func (p *Pool) Collect(to chan<- prometheus.Metric) {
	for _, c := range p.metrics.all() {
		c.Collect(to)
	}
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.seconds, m.errors, m.bytes, m.retries}
}

// of is what hears of the calls of one backend.
func (m *metrics) of(scheme string) backend.Observer { return &observer{m, scheme} }

type observer struct {
	*metrics
	scheme string
}

func (o *observer) Observe(seen backend.Observation) {
	o.seconds.WithLabelValues(o.scheme, seen.Op).Observe(seen.Took.Seconds())
	if seen.Err != nil {
		kind := strings.ReplaceAll(backend.KindOf(seen.Err).String(), " ", "_")
		o.errors.WithLabelValues(o.scheme, seen.Op, kind).Inc()
	}
	if seen.Bytes > 0 {
		o.bytes.WithLabelValues(o.scheme, seen.Op).Add(float64(seen.Bytes))
	}
	if seen.Retries > 0 {
		o.retries.WithLabelValues(o.scheme, seen.Op).Add(float64(seen.Retries))
	}
}
