package node

import (
	"time"

	"github.com/shardstream/shardstream/cluster/api"
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
	pool := origin.New(origin.Config{
		Schemes: set, Secrets: secrets.Of(members), Allow: allow, Policy: patience(c.Role),
		Cluster: func() string { return members.View().Map().Cluster },
	})
	return pool, metrics.Register(pool)
}

// patience is that of the policy's defaults for a target, whose jobs would rather wait than fail. Behind a gateway is
// somebody who waits for a listing, and should hear why there is none before the client gives up.
func patience(role string) backend.Policy {
	if role == api.RoleGateway {
		return backend.Policy{Patience: 20 * time.Second, Timeout: 10 * time.Second, Stall: 20 * time.Second}
	}
	return backend.Policy{}
}
