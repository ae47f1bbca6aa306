package stream

import (
	"encoding/json"

	"github.com/shardstream/shardstream/cluster/ahead"
	"github.com/shardstream/shardstream/sampler"
)

// follow has what the stream is going to need read ahead. What is asked for again was needed a moment ago.
func (r *Reader) follow() {
	if r.srv.Ahead == nil || r.req.Slots != nil || r.req.From >= r.req.To {
		return
	}
	order := orderOnly(&r.req)
	order.Epoch = 0
	key, err := json.Marshal(&order)
	if err != nil {
		return // it came as JSON
	}
	snap, plans := r.order.Snapshot(), &r.srv.orders
	plan := ahead.Plan{Snapshot: snap, Key: string(key), Of: func(epoch uint64) (sampler.Plan, error) {
		of := order
		of.Epoch = epoch
		return plans.plan(snap, &of)
	}}
	r.course = r.srv.Ahead.Open(plan, r.req.Epoch, r.view.Batch(r.req.From).Start)
	r.shards.course = r.course
}
