package node

import (
	"errors"
	"path/filepath"

	"github.com/shardstream/shardstream/cluster/audit"
	"github.com/shardstream/shardstream/cluster/target"
)

// openAudit opens the log of background deletes, on the first disk that takes it.
func (c *Config) openAudit() (*audit.Log, error) {
	var faults []error
	for _, dir := range c.DataDirs {
		log, err := audit.Open(filepath.Join(dir, "audit"), c.ID)
		if err == nil {
			return log, nil
		}
		faults = append(faults, err)
	}
	return nil, errors.Join(faults...)
}

// heal is how a target looks after its copies.
func (c *Config) heal() target.HealConfig {
	return target.HealConfig{
		HealAfter: c.HealAfter, DeleteGrace: c.DeleteGrace, TombstoneGrace: c.TombstoneGrace,
		Rate: max(int64(c.RebalanceRate), 0),
	}
}
