package loader

import (
	"cmp"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/sampler"
)

// Order is the shuffle that a stream has: the one that was asked for, or that the gateway chose where none was. A checkpoint
// is a position in it.
type Order struct {
	Shuffle string `json:"shuffle,omitempty"` // empty where there are sources
	Slices  int    `json:"slices,omitempty"`  // of a window that is not the default
	Window  int    `json:"window,omitempty"`
	// Sources are those of a mixture.
	Sources []Order `json:"sources,omitempty"`
}

// orderOf is the order of a stream as the gateway opened it; one that says nothing of it did as it was asked.
func (it *iteration) orderOf(info *api.StreamInfo) Order {
	if info.Mixture != nil {
		o := Order{Sources: make([]Order, len(info.Mixture.Parts))}
		for i, p := range info.Mixture.Parts {
			o.Sources[i] = Order{Shuffle: p.Shuffle, Slices: p.Slices, Window: p.Window}
		}
		return o
	}
	if info.Shuffle == "" {
		cfg := &it.l.cfg
		return Order{Shuffle: cmp.Or(cfg.Shuffle, sampler.Global.String()), Slices: cfg.Slices, Window: cfg.Window}
	}
	return Order{Shuffle: info.Shuffle, Slices: info.Slices, Window: info.Window}
}
