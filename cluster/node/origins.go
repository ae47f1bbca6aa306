package node

import (
	"github.com/shardstream/shardstream/cluster/membership"
	"github.com/shardstream/shardstream/cluster/origin"
	"github.com/shardstream/shardstream/cluster/remote"
	"github.com/shardstream/shardstream/cluster/secrets"
	"github.com/shardstream/shardstream/cluster/telemetry"
	"github.com/shardstream/shardstream/core/backend"
	"github.com/shardstream/shardstream/core/backend/schemes"
)

// origins makes what opens the backends of buckets.
func (c *Config) origins(members *membership.Membership, metrics *telemetry.Metrics) (*origin.Pool, error) {
	allow, err := backend.ParseAllow(c.BackendAllow)
	if err != nil {
		return nil, err
	}
	set := c.Schemes
	if set == nil {
		set = schemes.All()
		set[backend.Remote] = remote.Open
	}
	pool := origin.New(origin.Config{Schemes: set, Secrets: secrets.Of(members), Allow: allow})
	return pool, metrics.Register(pool)
}
