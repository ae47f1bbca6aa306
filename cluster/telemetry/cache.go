package telemetry

import "github.com/prometheus/client_golang/prometheus"

// CacheStats are figures of a target's cache of buckets with backends: counts since it has started, and what there is now.
type CacheStats struct {
	Hits, Misses, HitBytes, BackendBytes, UploadedBytes int64
	Fetches, Failures, UnderWay                         int64
	Evictions                                           map[string]int64 // by why
	EvictedBytes, WastedBytes, CachedBytes              int64
}

type cacheCollector struct {
	stats                                                  func() CacheStats
	hits, misses, hitBytes, backendBytes, uploaded         *prometheus.Desc
	fetches, failures, underWay, evictions, evicted, waste *prometheus.Desc
	cached                                                 *prometheus.Desc
}

// WatchCache exports what a target's cache does; stats is asked at each scrape.
func (m *Metrics) WatchCache(stats func() CacheStats) error {
	const about = "shardstream_cache_"
	return m.registry.Register(&cacheCollector{
		stats:        stats,
		hits:         desc(about+"hits_total", "Reads of buckets with backends whose object was here."),
		misses:       desc(about+"misses_total", "Reads of buckets with backends that needed the backend."),
		hitBytes:     desc(about+"hit_bytes_total", "Bytes of the objects that were here when they were read."),
		backendBytes: desc(about+"backend_bytes_total", "Bytes that were read from backends."),
		uploaded:     desc(about+"uploaded_bytes_total", "Bytes that were written to backends."),
		fetches:      desc(about+"fetches_total", "Objects that were fetched, or tried to."),
		failures:     desc(about+"fetch_failures_total", "Fetches that failed."),
		underWay:     desc(about+"fetches", "Fetches that are under way, or wait for their turn."),
		evictions:    desc(about+"evictions_total", "Cached objects that were evicted, by why.", "reason"),
		evicted:      desc(about+"evicted_bytes_total", "Bytes of cached objects that were evicted."),
		waste:        desc(about+"wasted_bytes_total", "Bytes that were fetched and evicted before anybody had read them."),
		cached:       desc(about+"bytes", "Bytes of cached objects that are here."),
	})
}

func (c *cacheCollector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

func (c *cacheCollector) Collect(ch chan<- prometheus.Metric) {
	s := c.stats()
	for d, n := range map[*prometheus.Desc]int64{
		c.hits: s.Hits, c.misses: s.Misses, c.hitBytes: s.HitBytes, c.backendBytes: s.BackendBytes, c.uploaded: s.UploadedBytes,
		c.fetches: s.Fetches, c.failures: s.Failures, c.evicted: s.EvictedBytes, c.waste: s.WastedBytes,
	} {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n))
	}
	for why, n := range s.Evictions {
		ch <- prometheus.MustNewConstMetric(c.evictions, prometheus.CounterValue, float64(n), why)
	}
	ch <- gaugeMetric(c.underWay, float64(s.UnderWay))
	ch <- gaugeMetric(c.cached, float64(s.CachedBytes))
}
