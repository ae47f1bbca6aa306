package stream

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/shardstream/shardstream/sampler"
)

// numberSet is a set of shard numbers that only grows: a bit each, in chunks that are made when the first
// of their numbers is added. It is safe for concurrent use.
type numberSet struct{ chunks []atomic.Pointer[chunk] }

const chunkBits = 4096

type chunk [chunkBits / 64]atomic.Uint64

func newNumberSet(numbers int) *numberSet {
	return &numberSet{chunks: make([]atomic.Pointer[chunk], (numbers+chunkBits-1)/chunkBits)}
}

func (s *numberSet) has(number int) bool {
	c := s.chunks[number/chunkBits].Load()
	return c != nil && c[number%chunkBits/64].Load()>>(number%64)&1 != 0
}

func (s *numberSet) add(number int) {
	at := &s.chunks[number/chunkBits]
	c := at.Load()
	if c == nil {
		at.CompareAndSwap(nil, new(chunk))
		c = at.Load()
	}
	c[number%chunkBits/64].Or(1 << (number % 64))
}

// absenceAge bounds how long a stream goes by what another found absent before it was opened: a shard
// may have come meanwhile, from another target.
const absenceAge = 5 * time.Second

// absenceCache remembers which shards of a snapshot are not on this node. Thousands of ranks open their
// streams together; of a large snapshot, looking for each shard once for all of them takes long enough.
type absenceCache struct {
	mu   sync.Mutex
	sets map[*sampler.Snapshot]absence
}

type absence struct {
	set  *numberSet
	born time.Time
}

// of returns the set for a stream that opens now.
func (c *absenceCache) of(snap *sampler.Snapshot) *numberSet {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	for key, a := range c.sets { // the streams hold those that they use
		if now.Sub(a.born) > absenceAge {
			delete(c.sets, key)
		}
	}
	if a, ok := c.sets[snap]; ok {
		return a.set
	}
	if c.sets == nil {
		c.sets = make(map[*sampler.Snapshot]absence)
	}
	a := absence{set: newNumberSet(snap.NumShards()), born: now}
	c.sets[snap] = a
	return a.set
}
