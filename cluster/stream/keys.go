package stream

import (
	"context"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/sampler"
)

// Keys finds the keys of samples in the shards that this node has.
func (s *Server) Keys(ctx context.Context, q *api.KeyQuery) (*api.KeyAnswer, error) {
	answer := &api.KeyAnswer{Shards: make([]api.ShardKeys, len(q.Shards))}
	for i, want := range q.Shards {
		// The order of what is asked is nobody's plan: each shard is a data set of its own here.
		snap, err := sampler.NewSnapshot([]sampler.Shard{{Name: want.Name, Version: want.Version, Samples: want.Samples}})
		if err != nil {
			return nil, api.Errorf(400, api.CodeBadRequest, "%v", err)
		}
		answer.Shards[i] = s.keysOf(ctx, snap, q.Objects, want.Indexes)
	}
	return answer, nil
}

func (s *Server) keysOf(ctx context.Context, snap *sampler.Snapshot, objects bool, indexes []int64) (keys api.ShardKeys) {
	open := s.newShards(snap, objects, true)
	open.lean = true
	defer open.close()
	sh := open.get(ctx, 0)
	if sh == nil {
		return api.ShardKeys{Absent: true}
	}
	if sh.err != nil {
		_, message := failureOf(sh.err)
		return api.ShardKeys{Error: message}
	}
	for _, i := range indexes {
		if i < 0 || i >= snap.Samples() {
			return api.ShardKeys{Error: "there is no such sample"}
		}
		keys.Keys = append(keys.Keys, []byte(sh.index.Key(int(i))))
	}
	return keys
}
