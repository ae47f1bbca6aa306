package node

import (
	"os"
	"strconv"
	"strings"

	"github.com/shirou/gopsutil/v4/mem"
)

const (
	// minStreamMemory lets a handful of streams be open and one batch of some MB be transformed.
	minStreamMemory = 64 << 20
	// otherStreamMemory is taken where the system does not tell how much memory there is.
	otherStreamMemory = 1 << 30
)

// streamMemory is the budget of a target's streams.
func (c *Config) streamMemory() int64 {
	if c.StreamMemory != 0 {
		return c.StreamMemory
	}
	all := int64(4 * otherStreamMemory)
	if m, err := mem.VirtualMemory(); err == nil {
		all = int64(min(m.Total, 1<<62))
	}
	// A container has what its control group allows it.
	if content, err := os.ReadFile("/sys/fs/cgroup/memory.max"); err == nil {
		if limit, err := strconv.ParseInt(strings.TrimSpace(string(content)), 10, 64); err == nil { // else "max"
			all = min(all, limit)
		}
	}
	return max(all/4, minStreamMemory)
}
