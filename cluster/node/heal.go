package node

import (
	"path/filepath"

	"github.com/shardstream/shardstream/cluster/audit"
	"github.com/shardstream/shardstream/cluster/target"
)

// openAudit opens the log of background deletes, where the node's own files are.
func (c *Config) openAudit() (*audit.Log, error) {
	return audit.Open(filepath.Join(c.work, "audit"), c.ID)
}

// heal is how a target looks after its copies.
func (c *Config) heal() target.HealConfig {
	return target.HealConfig{
		HealAfter: c.HealAfter, DeleteGrace: c.DeleteGrace, TombstoneGrace: c.TombstoneGrace,
		Rate: max(int64(c.RebalanceRate), 0),
	}
}
