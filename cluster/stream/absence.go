package stream

import (
	"strings"
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

// absenceAge bounds how long streams go by what they found absent: a shard that is to be here may come meanwhile, from
// another target or out of its slices.
const absenceAge = 5 * time.Second

// knowledge is what the streams of a snapshot have found out of its shards, under one version of the map. Thousands of
// ranks read together; of a large snapshot, placing and looking for each shard once for all of them takes long enough.
type knowledge struct {
	share  *Share
	others *numberSet // shards that are not for this node to send,
	mine   *numberSet // those of which it is the primary,
	held   *numberSet // and those that it sends where it has them
	absent *numberSet // shards that were not here; a set of its own every absenceAge
	until  time.Time
}

func newKnowledge(share *Share, snap *sampler.Snapshot) *knowledge {
	n := snap.NumShards()
	return &knowledge{share: share, others: newNumberSet(n), mine: newNumberSet(n), held: newNumberSet(n), absent: newNumberSet(n)}
}

// role says what this node is to a shard.
func (k *knowledge) role(snap *sampler.Snapshot, number int) Role {
	switch {
	case k.mine.has(number):
		return Primary
	case k.others.has(number):
		return Other
	case k.held.has(number):
		return Holder
	}
	bucket, name, _ := strings.Cut(snap.Shard(number).Name, "/")
	role := k.share.Role(bucket, name)
	switch role {
	case Primary:
		k.mine.add(number)
	case Other:
		k.others.add(number)
	case Holder:
		k.held.add(number)
	}
	return role
}

// knowledgeCache keeps what is known of snapshots.
type knowledgeCache struct {
	mu   sync.Mutex
	sets map[*sampler.Snapshot]*knowledge
}

// of returns what is known of a snapshot under a share of now.
func (c *knowledgeCache) of(snap *sampler.Snapshot, share *Share, now time.Time) *knowledge {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.sets[snap]
	for key, k := range c.sets { // the streams hold those that they use
		if now.After(k.until) {
			delete(c.sets, key)
		}
	}
	if k, ok := c.sets[snap]; ok && k.share.Map == share.Map {
		return k
	}
	if c.sets == nil {
		c.sets = make(map[*sampler.Snapshot]*knowledge)
	}
	k := newKnowledge(share, snap)
	if k.until = now.Add(absenceAge); before != nil && before.share.Map == share.Map {
		k.others, k.mine, k.held = before.others, before.mine, before.held
	}
	c.sets[snap] = k
	return k
}
