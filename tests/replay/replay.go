// Package replay counts what a cache would fetch for the epochs of a stream, shard by shard, under rules that know less or more
// than a cluster can: what is measured is compared with them.
package replay

import (
	"math"

	"github.com/shardstream/shardstream/sampler"
)

// Cache is one that has room for a number of shards, which are all of one size.
type Cache struct {
	Room   int
	Epochs int
	Order  func(epoch uint64) (*sampler.Order, error)
}

// use is a visit to a shard, at positions counted through all epochs.
type use struct {
	shard    int
	from, to int64
	epoch    int
}

// uses are those of the epochs that are counted and two more, which an optimal rule looks at.
func (c *Cache) uses() ([]use, error) {
	var all []use
	var before int64
	for epoch := range c.Epochs + 2 {
		order, err := c.Order(uint64(epoch))
		if err != nil {
			return nil, err
		}
		for v := range sampler.Visits(order, 0) {
			all = append(all, use{v.Shard, before + v.From, before + v.To, epoch})
		}
		before += order.Samples()
	}
	return all, nil
}

// Optimum is how many shards each epoch fetches by Belady's rule, with the whole future known: none does with fewer.
func (c *Cache) Optimum() ([]int, error) {
	all, err := c.uses()
	if err != nil {
		return nil, err
	}
	next := map[int][]int{}
	for i, u := range all {
		next[u.shard] = append(next[u.shard], i)
	}
	return c.replay(all, func(i, shard int) float64 {
		for len(next[shard]) > 0 && next[shard][0] <= i {
			next[shard] = next[shard][1:]
		}
		if len(next[shard]) == 0 {
			return math.Inf(1)
		}
		return float64(next[shard][0])
	}), nil
}

// LRU is how many shards each epoch fetches if what was used least recently is evicted.
func (c *Cache) LRU() ([]int, error) {
	all, err := c.uses()
	if err != nil {
		return nil, err
	}
	last, upTo := map[int]int{}, 0
	return c.replay(all, func(i, shard int) float64 {
		for ; upTo < i; upTo++ {
			last[all[upTo].shard] = upTo
		}
		return -float64(last[shard])
	}), nil
}

// replay evicts, of the shards that are not being read, the one of the greatest rank.
func (c *Cache) replay(all []use, rank func(i, shard int) float64) []int {
	cached, until := map[int]bool{}, map[int]int64{}
	fetches := make([]int, c.Epochs+2)
	for i, u := range all {
		until[u.shard] = u.to
		if cached[u.shard] {
			continue
		}
		fetches[u.epoch]++
		for len(cached) >= c.Room {
			victim, greatest := -1, math.Inf(-1)
			for shard := range cached {
				if r := rank(i, shard); until[shard] <= u.from && r > greatest {
					victim, greatest = shard, r
				}
			}
			if victim < 0 {
				break // a window that is larger than the cache
			}
			delete(cached, victim)
		}
		cached[u.shard] = true
	}
	return fetches[:c.Epochs]
}

// Steady is the mean of the epochs behind the first, in which everything is fetched for the first time.
func Steady(perEpoch []int) float64 {
	sum := 0
	for _, n := range perEpoch[1:] {
		sum += n
	}
	return float64(sum) / float64(len(perEpoch)-1)
}
