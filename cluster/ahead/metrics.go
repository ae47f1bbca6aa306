package ahead

import "github.com/prometheus/client_golang/prometheus"

// meters count what reading ahead does.
type meters struct {
	depth  prometheus.Gauge
	bytes  prometheus.Counter
	hits   prometheus.Counter
	waits  prometheus.Counter
	wasted prometheus.Counter
}

func newMeters() meters {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "shardstream_read_ahead_" + name, Help: help})
	}
	return meters{
		depth: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "shardstream_read_ahead_depth_bytes", Help: "Bytes of shards fetched ahead, or being fetched, that no stream has come to yet.",
		}),
		bytes:  counter("bytes_total", "Bytes of shards fetched ahead of use."),
		hits:   counter("hits_total", "Shards that were here when a stream came to them since they had been fetched ahead."),
		waits:  counter("waits_total", "Shards that a stream had to wait for."),
		wasted: counter("wasted_bytes_total", "Bytes of shards fetched ahead and evicted before any stream came to them."),
	}
}

// Register exports the counts.
func (m *Manager) Register(register func(prometheus.Collector) error) error {
	for _, c := range []prometheus.Collector{m.meters.depth, m.meters.bytes, m.meters.hits, m.meters.waits, m.meters.wasted} {
		if err := register(c); err != nil {
			return err
		}
	}
	return nil
}
