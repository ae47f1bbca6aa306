package telemetry

import "github.com/prometheus/client_golang/prometheus"

// outputsCollector reports the kept outputs of transformations, all of one moment.
type outputsCollector struct {
	stats                                           func() (hits, misses, evictions, entries, bytes, served int64)
	hits, misses, evictions, entries, bytes, served *prometheus.Desc
}

// WatchOutputs exports the kept outputs of transformations; stats is asked at each scrape.
func (m *Metrics) WatchOutputs(stats func() (hits, misses, evictions, entries, bytes, served int64)) error {
	return m.registry.Register(&outputsCollector{
		stats:     stats,
		hits:      desc("shardstream_etl_cache_hits_total", "Transformed reads that were answered with a kept output."),
		misses:    desc("shardstream_etl_cache_misses_total", "Transformed reads with cache=true whose output was made."),
		evictions: desc("shardstream_etl_cache_evictions_total", "Kept outputs that made room for others."),
		entries:   desc("shardstream_etl_cache_entries", "Outputs that are kept."),
		bytes:     desc("shardstream_etl_cache_bytes", "Bytes of disk that kept outputs take."),
		served:    desc("shardstream_etl_cache_served_bytes_total", "Bytes of kept outputs that were read to be sent."),
	})
}

func (c *outputsCollector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

func (c *outputsCollector) Collect(ch chan<- prometheus.Metric) {
	hits, misses, evictions, entries, bytes, served := c.stats()
	for d, n := range map[*prometheus.Desc]int64{c.hits: hits, c.misses: misses, c.evictions: evictions, c.served: served} {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n))
	}
	ch <- gaugeMetric(c.entries, float64(entries))
	ch <- gaugeMetric(c.bytes, float64(bytes))
}
