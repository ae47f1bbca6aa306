package sampler

import (
	"fmt"
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
//
// The shards lie in pages that are named by their content: snapshots that differ in a few shards share
// all other pages, in memory and wherever they are kept.
type Snapshot struct {
	root  *Root
	pages []*Page
}

// NewSnapshot makes a snapshot of shards. It refuses an empty or overlong name, a negative sample
// count, and more samples or shards than the limits allow.
func NewSnapshot(shards []Shard) (*Snapshot, error) {
	var b Builder
	for _, sh := range shards {
		if err := b.Add(sh); err != nil {
			return nil, err
		}
	}
	return b.Snapshot()
}

// Assemble makes a snapshot of a root and its pages, in order. It refuses pages that are not the root's,
// and a division into pages that no builder would have made.
func Assemble(root *Root, pages []*Page) (*Snapshot, error) {
	if len(pages) != len(root.pages) {
		return nil, fmt.Errorf("%w: %d pages for a root of %d", ErrSnapshot, len(pages), len(root.pages))
	}
	for i, p := range pages {
		want := &root.pages[i]
		if p.id != want.ID || p.shards != want.Shards || p.samples != want.Samples || len(p.data) != want.Bytes {
			return nil, fmt.Errorf("%w: page %d, %.12s, is not as the root has it", ErrSnapshot, i, p.id)
		}
		if i+1 < len(pages) && p.takes(pages[i+1].shard(0)) {
			return nil, fmt.Errorf("%w: page %d ends early", ErrSnapshot, i)
		}
	}
	return &Snapshot{root: root, pages: pages}, nil
}

// takes says whether a page would have gone on with a shard.
func (p *Page) takes(next Shard) bool {
	if p.ended || next.Samples > maxPageSamples-p.samples {
		return false
	}
	var before Shard
	if p.shards%restart != 0 {
		before = p.shard(p.shards - 1)
	}
	entry := appendEntry(nil, []byte(before.Name), []byte(next.Name), int64(next.Version-before.Version), next.Samples-before.Samples)
	return len(p.data)+len(entry) <= MaxPageBytes
}

// ID names the snapshot by its content: the hex SHA-256 of its root's encoding.
func (s *Snapshot) ID() string { return s.root.ID() }

// Root is the list of the snapshot's pages.
func (s *Snapshot) Root() *Root { return s.root }

// Pages are the snapshot's pages in order; the slice must not be changed.
func (s *Snapshot) Pages() []*Page { return s.pages }

// Samples is the number of samples of all shards.
func (s *Snapshot) Samples() int64 { return s.root.Samples() }

// NumShards is the number of shards, those without samples included.
func (s *Snapshot) NumShards() int { return s.root.NumShards() }

// Shard returns shard i. It decodes it: a microsecond or less, and the name is a string of its own.
func (s *Snapshot) Shard(i int) Shard {
	p, i := s.page(i)
	return p.shard(i)
}

// First is the number of shard i's first sample.
func (s *Snapshot) First(i int) int64 {
	if i == s.NumShards() {
		return s.Samples()
	}
	at := s.root.shards.find(int64(i))
	return s.root.samples.list[at] + s.pages[at].first(i-int(s.root.shards.list[at]))
}

// count is the number of shard i's samples.
func (s *Snapshot) count(i int) int64 {
	p, i := s.page(i)
	return p.count(i)
}

// page finds the page of shard i, and the shard's number in it.
func (s *Snapshot) page(i int) (p *Page, in int) {
	inRange("shard", int64(i), s.root.shards.total())
	at := s.root.shards.find(int64(i))
	return s.pages[at], i - int(s.root.shards.list[at])
}

// Locate finds the shard that holds a sample, and the sample's index in it. It panics where sample
// is outside [0, Samples()).
func (s *Snapshot) Locate(sample int64) (shard int, index int64) {
	inRange("sample", sample, s.Samples())
	at := s.root.samples.find(sample)
	shard, index = s.pages[at].locate(sample - s.root.samples.list[at])
	return int(s.root.shards.list[at]) + shard, index
}

// inRange panics, as an index out of range does, where a caller did not check.
func inRange(what string, x, n int64) {
	if uint64(x) >= uint64(n) {
		panic(fmt.Sprintf("sampler: %s %d out of range [0, %d)", what, x, n))
	}
}
