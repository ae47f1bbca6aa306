package node

import (
	"path/filepath"

	"github.com/shirou/gopsutil/v4/disk"

	"github.com/shardstream/shardstream/etl/outputs"
)

// DefaultETLCache is what kept outputs of transformations may take of a target's first disk.
const DefaultETLCache = 10 << 30

// openOutputs opens the cache of outputs; nil where none are to be kept.
func (c *Config) openOutputs() (*outputs.Cache, error) {
	quota := c.ETLCache
	if quota < 0 {
		return nil, nil //nolint:nilnil // no cache
	}
	dir := filepath.Join(c.work, "outputs")
	if quota == 0 {
		quota = DefaultETLCache
		if usage, err := disk.Usage(c.work); err == nil {
			quota = min(quota, int64(usage.Total/10))
		}
	}
	return outputs.Open(outputs.Options{Dir: dir, Quota: quota, Logger: c.Logger})
}
