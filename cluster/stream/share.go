package stream

import "github.com/shardstream/shardstream/cluster/placement"

// Role is what a node is to a shard.
type Role uint8

const (
	// Holder nodes send a shard's samples where they have it: its primary may not have it yet, or lack it.
	Holder Role = iota
	// Primary nodes send them.
	Primary
	// Other nodes leave them to the primary. They are still there to be asked for what it did not send.
	Other
	// Unknown is as Holder, but not for long: the node has not heard of the bucket yet.
	Unknown
)

// Share says what a node is to shards, under one version of the map.
type Share struct {
	Map  int64
	Role func(bucket, name string) Role
}

// RoleOf is what a node is to an object with such a plan. As long as the primary may lack it, all who have it send it.
func RoleOf(plan placement.Plan, self string) Role {
	switch {
	case len(plan.Copies) > 0 && plan.Copies[0] == self:
		return Primary
	case plan.Steady:
		return Other
	}
	return Holder
}

// all is the share of a node without a map: it sends what it has.
var all = &Share{Role: func(string, string) Role { return Primary }}

func (s *Server) share() *Share {
	if s.Share == nil {
		return all
	}
	return s.Share()
}
