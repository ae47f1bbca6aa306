package stream

import (
	"encoding/json"
	"slices"
	"sync"

	"github.com/shardstream/shardstream/core/wire"
	"github.com/shardstream/shardstream/sampler"
)

// keepOrders bounds the orders that are kept for streams to come.
const keepOrders = 8

// orderCache shares plans of epochs between streams. Under window and shards, making one goes over all
// slices of the snapshot: every rank of a job would wait for the same work.
type orderCache struct {
	mu     sync.Mutex
	recent []*plannedOrder // least recently used first
}

// plannedOrder is an order that is made once, by the first who asks for it.
type plannedOrder struct {
	snap *sampler.Snapshot
	key  string // what of the request the plan follows from
	make func() (sampler.Plan, error)
}

// plan is the plan of a request's epoch.
func (c *orderCache) plan(snap *sampler.Snapshot, req *wire.ReadRequest) (sampler.Plan, error) {
	if req.Mixture == nil && (req.Shuffle == sampler.Global.String() || req.Shuffle == sampler.None.String()) {
		return orderOf(snap, req)
	}
	of := orderOnly(req)
	key, err := json.Marshal(&of)
	if err != nil {
		return nil, err
	}
	return c.planned(snap, string(key), &of).make()
}

// orderOnly is what of a request its order follows from.
func orderOnly(req *wire.ReadRequest) wire.ReadRequest {
	return wire.ReadRequest{Shuffle: req.Shuffle, Seed: req.Seed, Slices: req.Slices, Window: req.Window, Epoch: req.Epoch, Mixture: req.Mixture}
}

func (c *orderCache) planned(snap *sampler.Snapshot, key string, of *wire.ReadRequest) *plannedOrder {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.IndexFunc(c.recent, func(p *plannedOrder) bool { return p.snap == snap && p.key == key })
	if i >= 0 {
		p := c.recent[i]
		c.recent = append(slices.Delete(c.recent, i, i+1), p)
		return p
	}
	p := &plannedOrder{snap: snap, key: key, make: sync.OnceValues(func() (sampler.Plan, error) { return orderOf(snap, of) })}
	c.recent = append(c.recent, p)
	if len(c.recent) > keepOrders {
		c.recent = slices.Delete(c.recent, 0, 1)
	}
	return p
}
