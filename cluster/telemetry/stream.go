package telemetry

import "sync"

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
}

// Failed counts an error by its code (of cluster/api): one sample's, or the one that ended the stream.
func (s *Stream) Failed(code string) { s.metrics.streamErrors.WithLabelValues(code).Inc() }

// Close ends the stream; a second call does nothing.
func (s *Stream) Close() { s.once.Do(s.metrics.streamsActive.Dec) }
