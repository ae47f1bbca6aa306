package target

import (
	"sync/atomic"

	"github.com/shardstream/shardstream/cluster/membership"
	"github.com/shardstream/shardstream/cluster/stream"
)

// share says which shards this target sends to streams under one view of the cluster. A stream reads exact versions, so
// it needs neither a lease nor the newest map: whoever sends a sample sends the same bytes, and what comes twice is
// dropped where it arrives. What is to be had in one way only is the right moment to stop: as long as a shard's
// primary may lack it, all who have it send it.
type share struct {
	view *membership.View
	of   *stream.Share
}

// shares keeps the share of the view that the target goes by.
type shares struct {
	target *Target
	last   atomic.Pointer[share]
}

// now is the share under the present view; the same one as long as that is.
func (s *shares) now() *stream.Share {
	view := s.target.members.View()
	if last := s.last.Load(); last != nil && last.view == view {
		return last.of
	}
	made := &share{view: view}
	made.of = &stream.Share{Map: view.Map().Version, Role: func(bucket, name string) stream.Role { return roleIn(view, s.target.id, bucket, name) }}
	s.last.Store(made)
	return made.of
}

// roleIn is what a target is to a shard.
func roleIn(view *membership.View, self, bucket, name string) stream.Role {
	b, known := view.Bucket(bucket)
	if !known {
		return stream.Unknown
	}
	return stream.RoleOf(view.Placer.Plan(bucket, name, b.Copies(), b.Was...), self)
}
