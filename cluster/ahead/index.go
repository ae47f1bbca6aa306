package ahead

import (
	"hash/maphash"
	"slices"
	"strings"

	"github.com/shardstream/shardstream/sampler"
)

// object names an object of a bucket.
type object struct{ bucket, key string }

// index finds the shards of a snapshot that this target is to fetch by their names: 12 bytes for each.
type index struct {
	snap *sampler.Snapshot
	of   int64 // version of the map
	seed maphash.Seed

	hashes []uint64 // rising
	shards []int32  // likewise
	mine   []uint64 // a bit for each shard of the snapshot
}

// newIndex looks at every shard of a snapshot once.
func newIndex(snap *sampler.Snapshot, share Share, cold func(bucket string) bool) *index {
	ix := &index{snap: snap, of: share.Map, seed: maphash.MakeSeed(), mine: make([]uint64, (snap.NumShards()+63)/64)}
	type entry struct {
		hash  uint64
		shard int32
	}
	var entries []entry
	last, isCold := "", false
	for i := range snap.NumShards() {
		name := snap.Shard(i).Name
		bucket, key, _ := strings.Cut(name, "/")
		if bucket != last {
			last, isCold = bucket, cold(bucket)
		}
		if isCold && share.Mine(bucket, key) {
			entries = append(entries, entry{maphash.String(ix.seed, name), int32(i)})
			ix.mine[i/64] |= 1 << (i % 64)
		}
	}
	slices.SortFunc(entries, func(a, b entry) int {
		switch {
		case a.hash < b.hash:
			return -1
		case a.hash > b.hash:
			return 1
		}
		return int(a.shard - b.shard)
	})
	ix.hashes, ix.shards = make([]uint64, len(entries)), make([]int32, len(entries))
	for i, e := range entries {
		ix.hashes[i], ix.shards[i] = e.hash, e.shard
	}
	return ix
}

func (ix *index) has(shard int) bool { return ix.mine[shard/64]>>(shard%64)&1 != 0 }

// find is the number of a shard; false where it is none of the snapshot that this target fetches.
func (ix *index) find(name string) (shard int, ok bool) {
	hash := maphash.String(ix.seed, name)
	i, _ := slices.BinarySearch(ix.hashes, hash)
	for ; i < len(ix.hashes) && ix.hashes[i] == hash; i++ {
		if shard := int(ix.shards[i]); ix.snap.Shard(shard).Name == name {
			return shard, true
		}
	}
	return 0, false
}
