package cache

import (
	"sync"

	"github.com/shardstream/shardstream/cluster/api"
)

// pinned are a bucket's patterns of names that are not evicted.
type pinned []*api.Pattern

// maxParsed bounds the patterns that are remembered as they were parsed.
const maxParsed = 1 << 12

var parsed = struct {
	mu sync.Mutex
	by map[string]*api.Pattern
}{by: map[string]*api.Pattern{}}

func pins(b *api.Bucket) pinned {
	if b.Backend == nil {
		return nil
	}
	list := make(pinned, 0, len(b.Backend.Pinned))
	parsed.mu.Lock()
	defer parsed.mu.Unlock()
	for _, text := range b.Backend.Pinned {
		address := api.Address(b.Name, text)
		p, ok := parsed.by[address]
		if !ok {
			var err error
			if p, err = api.ParsePattern(address); err != nil {
				continue // the gateway takes none that does not parse
			}
			if len(parsed.by) >= maxParsed {
				clear(parsed.by)
			}
			parsed.by[address] = p
		}
		list = append(list, p)
	}
	return list
}

func (l pinned) match(key string) bool {
	for _, p := range l {
		if p.Covers(key) {
			return true
		}
	}
	return false
}
