package telemetry

import "github.com/prometheus/client_golang/prometheus"

// Results of a job's objects.
const (
	JobObjectDone    = "done"
	JobObjectFound   = "found" // done by the same job, before something died that should have said so
	JobObjectSkipped = "skipped"
	JobObjectFailed  = "failed"
)

// Jobs are a target's instruments of the jobs that it works on. Their methods are safe for concurrent use.
type Jobs struct {
	running prometheus.Gauge
	objects *prometheus.CounterVec // kind, result
	read    *prometheus.CounterVec // kind
	written *prometheus.CounterVec // kind
}

// NewJobs adds the instruments to a node's metrics.
func NewJobs(m *Metrics) (*Jobs, error) {
	j := &Jobs{
		running: gauge("shardstream_job_parts_running", "Jobs that this target now works on."),
		objects: counterVec("shardstream_job_objects_total", "Objects that jobs dealt with here, by kind of job and result (done, found, skipped, failed).", "kind", "result"),
		read:    counterVec("shardstream_job_read_bytes_total", "Bytes of objects that jobs read here.", "kind"),
		written: counterVec("shardstream_job_written_bytes_total", "Bytes of objects that jobs made here.", "kind"),
	}
	for _, c := range []prometheus.Collector{j.running, j.objects, j.read, j.written} {
		if err := m.Register(c); err != nil {
			return nil, err
		}
	}
	return j, nil
}

// Begin counts a job that is worked on, until end is called.
func (j *Jobs) Begin() (end func()) {
	j.running.Inc()
	return j.running.Dec
}

// Object counts an object that was dealt with, and the bytes that were read and made for it.
func (j *Jobs) Object(kind, result string, in, out int64) {
	j.objects.WithLabelValues(kind, result).Inc()
	j.read.WithLabelValues(kind).Add(float64(in))
	j.written.WithLabelValues(kind).Add(float64(out))
}

// WatchJobs exports how many jobs this gateway coordinates; it is asked at each scrape.
func (m *Metrics) WatchJobs(running func() int) error {
	return m.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "shardstream_jobs_running", Help: "Jobs that this gateway now coordinates.",
	}, func() float64 { return float64(running()) }))
}
