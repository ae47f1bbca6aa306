package telemetry

import (
	"errors"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// Stream counts one sample stream from OpenStream until Close.
type Stream struct {
	metrics *Metrics
	once    sync.Once
}

// OpenStream counts a stream as active until its Close.
func (m *Metrics) OpenStream() *Stream {
	m.streamsOpened.Inc()
	m.streamsActive.Inc()
	return &Stream{metrics: m}
}

// Sent counts samples that left with their payload bytes. Call it once a batch, not once a sample.
func (s *Stream) Sent(samples, bytes int64) {
	s.metrics.streamSamples.Add(float64(samples))
	s.metrics.streamBytes.Add(float64(bytes))
	s.metrics.streamed.Add(bytes)
}

// Streamed is how many bytes of payloads all streams have sent.
func (m *Metrics) Streamed() int64 { return m.streamed.Load() }

// Failed counts an error by its code (of cluster/api): one sample's, or the one that ended the stream.
func (s *Stream) Failed(code string) { s.metrics.streamErrors.WithLabelValues(code).Inc() }

// Close ends the stream; a second call does nothing.
func (s *Stream) Close() { s.once.Do(s.metrics.streamsActive.Dec) }

// StreamMemory is what bounds the memory of a node's streams.
type StreamMemory interface {
	Used() int64
	Total() int64
	Evictions() int64
}

// WatchStreams exports the memory of streams; it is asked at each scrape.
func (m *Metrics) WatchStreams(b StreamMemory) error {
	gauge := func(name, help string, value func() int64) error {
		return m.registry.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(value()) }))
	}
	return errors.Join(
		gauge("shardstream_stream_memory_used_bytes", "Memory that open streams and their transformed batches take.", b.Used),
		gauge("shardstream_stream_memory_limit_bytes", "Memory that streams may take.", b.Total),
		m.registry.Register(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "shardstream_streams_evicted_total",
			Help: "Streams ended since their clients took nothing while others waited for memory.",
		}, func() float64 { return float64(b.Evictions()) })),
	)
}
