package sampler

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
)

// Limits of a snapshot. They keep all arithmetic on positions within int64.
const (
	MaxSamples = 1 << 50
	MaxShards  = 1<<31 - 1
	MaxName    = 4096 // bytes
)

// Shard is one archive of a data set, at one version.
type Shard struct {
	Name    string // "bucket/key"
	Version uint64
	Samples int64
}

// Snapshot is an immutable list of shards. Its order counts: samples are numbered through the
// shards as they stand. A shard that is listed twice is sampled twice.
type Snapshot struct {
	shards []Shard
	starts []int64 // starts[i] is the number of shard i's first sample; one more entry holds the total
	near   guide
	id     [sha256.Size]byte
}

// NewSnapshot makes a snapshot of a copy of shards. It refuses an empty or overlong name, a negative
// sample count, and more samples or shards than the limits allow.
func NewSnapshot(shards []Shard) (*Snapshot, error) {
	return newSnapshot(slices.Clone(shards))
}

// newSnapshot takes shards over.
func newSnapshot(shards []Shard) (*Snapshot, error) {
	if len(shards) > MaxShards {
		return nil, fmt.Errorf("sampler: %d shards in one snapshot, at most %d are possible", len(shards), MaxShards)
	}
	s := &Snapshot{shards: shards, starts: make([]int64, len(shards)+1)}
	var total int64
	for i, sh := range shards {
		switch {
		case sh.Name == "" || len(sh.Name) > MaxName:
			return nil, fmt.Errorf("sampler: name of shard %d has %d bytes, 1 to %d are allowed", i, len(sh.Name), MaxName)
		case sh.Samples < 0:
			return nil, fmt.Errorf("sampler: shard %q has a negative sample count, %d", sh.Name, sh.Samples)
		case sh.Samples > MaxSamples-total:
			return nil, fmt.Errorf("sampler: more than %d samples up to shard %q", int64(MaxSamples), sh.Name)
		}
		s.starts[i] = total
		total += sh.Samples
	}
	s.starts[len(shards)] = total
	s.near = newGuide(s.starts)
	s.id = s.sum()
	return s, nil
}

// ID names the snapshot by its content: the hex SHA-256 of its canonical encoding.
func (s *Snapshot) ID() string { return hex.EncodeToString(s.id[:]) }

// Samples is the number of samples of all shards.
func (s *Snapshot) Samples() int64 { return s.starts[len(s.shards)] }

// NumShards is the number of shards, those without samples included.
func (s *Snapshot) NumShards() int { return len(s.shards) }

// Shard returns shard i.
func (s *Snapshot) Shard(i int) Shard { return s.shards[i] }

// First is the number of shard i's first sample.
func (s *Snapshot) First(i int) int64 { return s.starts[i] }

// Locate finds the shard that holds a sample, and the sample's index in it. It panics where sample
// is outside [0, Samples()).
func (s *Snapshot) Locate(sample int64) (shard int, index int64) {
	inRange("sample", sample, s.Samples())
	lo, hi := s.near.around(sample)
	shard = lastAtMost(s.starts, lo, hi, sample)
	return shard, sample - s.starts[shard]
}

// A guide narrows the search for a sample's shard to those that meet its stretch of samples. There
// are at most as many stretches as shards, so on shards of about one size a step or two is left.
type guide struct {
	shift  uint    // a stretch is 1<<shift samples
	shards []int32 // the shard in which a stretch begins; one more entry is the last shard
}

func newGuide(starts []int64) guide {
	shards, total := len(starts)-1, starts[len(starts)-1]
	if total == 0 {
		return guide{}
	}
	var g guide
	for (total-1)>>g.shift >= int64(shards) {
		g.shift++
	}
	g.shards = make([]int32, (total-1)>>g.shift+2)
	shard := 0
	for i := range g.shards {
		for shard+1 < shards && starts[shard+1] <= int64(i)<<g.shift {
			shard++
		}
		g.shards[i] = int32(shard)
	}
	return g
}

// around is the range of shards that the sample's shard is in.
func (g *guide) around(sample int64) (lo, hi int) {
	stretch := sample >> g.shift
	return int(g.shards[stretch]), int(g.shards[stretch+1]) + 1
}

// lastAtMost is the last i of [lo, hi) with starts[i] <= x, in a rising list with starts[lo] <= x.
// Being the last, it passes over empty stretches.
func lastAtMost(starts []int64, lo, hi int, x int64) int {
	for hi-lo > 1 {
		if mid := int(uint(lo+hi) >> 1); starts[mid] <= x {
			lo = mid
		} else {
			hi = mid
		}
	}
	return lo
}

// inRange panics, as an index out of range does, where a caller did not check.
func inRange(what string, x, n int64) {
	if uint64(x) >= uint64(n) {
		panic(fmt.Sprintf("sampler: %s %d out of range [0, %d)", what, x, n))
	}
}
