package telemetry

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/shardstream/shardstream/cluster/api"
)

// ETL is one transformation of a target as a scrape sees it.
type ETL struct {
	Name  string
	State string // one of the api.ETL states
	Stats api.ETLStats
}

// WatchETLs exports the transformations that list returns; it is asked at each scrape and must not block. There are as
// many time series as definitions, and those of a definition end with it.
func (m *Metrics) WatchETLs(list func() []ETL) error {
	return m.registry.Register(&etlCollector{list: list})
}

type etlCollector struct{ list func() []ETL }

var (
	etlRequests = desc("shardstream_etl_requests_total", "Calls of a transformation: one for a batch of samples or an object.", "etl")
	etlSamples  = desc("shardstream_etl_samples_total", "Samples and objects that a transformation was given and answered.", "etl")
	etlErrors   = desc("shardstream_etl_errors_total", "Samples and objects on which a transformation failed.", "etl")
	etlRestarts = desc("shardstream_etl_restarts_total", "Processes of a transformation that died or were killed.", "etl")
	etlTimeouts = desc("shardstream_etl_timeouts_total", "Processes of a transformation that were killed for taking too long.", "etl")
	etlBytesIn  = desc("shardstream_etl_input_bytes_total", "Bytes that a transformation was given.", "etl")
	etlBytesOut = desc("shardstream_etl_output_bytes_total", "Bytes that a transformation returned.", "etl")
	etlBusy     = desc("shardstream_etl_busy_seconds_total", "Time that workers of a transformation worked, summed.", "etl")
	etlWaiting  = desc("shardstream_etl_waiting_samples", "Samples given to a transformation and not answered yet.", "etl")
	etlRunning  = desc("shardstream_etl_workers_running", "Worker processes of a transformation that are alive.", "etl")
	etlWanted   = desc("shardstream_etl_workers_wanted", "Worker processes that a transformation may have, or requests at once.", "etl")
	etlState    = desc("shardstream_etl_state", "1 for the state that a transformation is in, 0 for the others.", "etl", "state")
	etlLatency  = desc("shardstream_etl_call_duration_seconds", "Time from a call to the end of its answer.", "etl")
)

// etlStates are the states of a transformation on a target.
var etlStates = []string{api.ETLNew, api.ETLBuilding, api.ETLStarting, api.ETLReady, api.ETLFailed}

func (c *etlCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		etlRequests, etlSamples, etlErrors, etlRestarts, etlTimeouts, etlBytesIn, etlBytesOut, etlBusy,
		etlWaiting, etlRunning, etlWanted, etlState, etlLatency,
	} {
		ch <- d
	}
}

func (c *etlCollector) Collect(ch chan<- prometheus.Metric) {
	for _, e := range c.list() {
		s := &e.Stats
		for d, value := range map[*prometheus.Desc]float64{
			etlRequests: float64(s.Requests), etlSamples: float64(s.Samples), etlErrors: float64(s.Errors),
			etlRestarts: float64(s.Restarts), etlTimeouts: float64(s.Timeouts),
			etlBytesIn: float64(s.BytesIn), etlBytesOut: float64(s.BytesOut), etlBusy: s.BusyS,
		} {
			ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, value, e.Name)
		}
		ch <- gaugeMetric(etlWaiting, float64(s.Waiting), e.Name)
		ch <- gaugeMetric(etlRunning, float64(s.Running), e.Name)
		ch <- gaugeMetric(etlWanted, float64(s.Workers), e.Name)
		for _, state := range etlStates {
			in := 0.0
			if state == e.State {
				in = 1
			}
			ch <- gaugeMetric(etlState, in, e.Name, state)
		}
		ch <- latencyMetric(e.Name, &s.Latency)
	}
}

// latencyMetric makes Prometheus' cumulative buckets of the counts.
func latencyMetric(name string, l *api.ETLLatency) prometheus.Metric {
	buckets := make(map[float64]uint64, len(l.BoundsS))
	var all uint64
	for i, n := range l.Counts {
		all += uint64(max(n, 0))
		if i < len(l.BoundsS) {
			buckets[l.BoundsS[i]] = all
		}
	}
	return prometheus.MustNewConstHistogram(etlLatency, all, l.SumS, buckets, name)
}
