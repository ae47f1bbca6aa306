package telemetry

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// Heal are a target's instruments of the copies that it makes elsewhere and removes here.
type Heal struct {
	metrics                       *Metrics
	moved, bytes, deleted, failed prometheus.Counter
}

// NewHeal adds the instruments to a node's metrics.
func NewHeal(m *Metrics) (*Heal, error) {
	h := &Heal{
		metrics: m,
		moved:   counter("shardstream_heal_copies_total", "Copies and slices of objects that this target made on others."),
		bytes:   counter("shardstream_heal_bytes_total", "Bytes of copies and slices that this target made on others."),
		deleted: counter("shardstream_heal_deleted_total", "Copies and tombstones that this target removed as they belong elsewhere."),
		failed:  counter("shardstream_heal_failures_total", "Copies that could not be made when it was tried."),
	}
	var errs []error
	for _, c := range []prometheus.Collector{h.moved, h.bytes, h.deleted, h.failed} {
		errs = append(errs, m.Register(c))
	}
	return h, errors.Join(errs...)
}

// Add counts.
func (h *Heal) Add(moved, bytes, deleted, failed int64) {
	h.moved.Add(float64(moved))
	h.bytes.Add(float64(bytes))
	h.deleted.Add(float64(deleted))
	h.failed.Add(float64(failed))
}

// Watch exports how much is left to be looked at, and whether anything is done about it; it is asked at each scrape.
func (h *Heal) Watch(progress func() (left int64, running bool)) error {
	return errors.Join(
		h.metrics.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "shardstream_heal_objects_left", Help: "Objects on this target that are still to be looked at, or to be moved.",
		}, func() float64 { left, _ := progress(); return float64(left) })),
		h.metrics.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "shardstream_heal_running", Help: "1 while this target moves copies, else 0.",
		}, func() float64 {
			if _, running := progress(); running {
				return 1
			}
			return 0
		})),
	)
}
