package archive

import (
	"sync"

	"github.com/zeebo/xxh3"
)

// Member is one file of an archive.
type Member struct {
	Name   string
	Offset int64  // of its first byte in the archive
	Size   int64  // in bytes
	Sum    uint64 // xxh3 of its bytes; 0 in an index that is not Checked
}

// Index says where the members and samples of one archive are. Members of samples come first, in
// the archive's order; members that belong to no sample follow. It never changes once made.
type Index struct {
	names    string   // all member names, one after the other
	ends     []uint32 // ends[m] is where member m's name ends in names
	keyLen   []uint16 // length of the key at the start of member m's name; noKey: none
	offsets  []int64
	sizes    []int64
	sums     []uint64 // nil where they are not known
	starts   []uint32 // starts[s] is the first member of sample s; one more entry ends the last
	maxBytes int64

	unchecked bool // members' checksums are not known

	lookup sync.Once
	table  nameTable // by name; made at the first Lookup
}

// noKey marks a member that belongs to no sample. Names are shorter.
const noKey = 1<<16 - 1

// NumMembers is the number of regular files in the archive.
func (x *Index) NumMembers() int { return len(x.ends) }

// Member describes member i; it panics if there is none, as a slice does.
func (x *Index) Member(i int) Member {
	m := Member{Name: x.name(i), Offset: x.offsets[i], Size: x.sizes[i]}
	if !x.unchecked {
		m.Sum = x.sums[i]
	}
	return m
}

// Checked says that the checksums of members are known. They are not in an index that was made without reading them.
func (x *Index) Checked() bool { return !x.unchecked }

// Lookup finds a member by its exact name.
func (x *Index) Lookup(name string) (Member, bool) {
	x.lookup.Do(func() {
		if x.table.slots == nil {
			x.table.rebuild(len(x.ends), func(i int) uint64 { return xxh3.HashString(x.name(i)) })
		}
	})
	i := x.table.find(xxh3.HashString(name), func(i int) bool { return x.name(i) == name })
	if i < 0 {
		return Member{}, false
	}
	return x.Member(i), true
}

// NumSamples is the number of samples in the archive.
func (x *Index) NumSamples() int { return max(len(x.starts)-1, 0) }

// Sample says which members form sample i: count of them, from first on.
func (x *Index) Sample(i int) (first, count int) {
	return int(x.starts[i]), int(x.starts[i+1] - x.starts[i])
}

// Key is the key of sample i: directory and base name up to its first dot.
func (x *Index) Key(i int) string {
	m := int(x.starts[i])
	return x.name(m)[:x.keyLen[m]]
}

// Field is what follows the first dot in the base name of member m, "" where m belongs to no sample.
func (x *Index) Field(m int) string {
	if x.keyLen[m] == noKey {
		return ""
	}
	return x.name(m)[x.keyLen[m]+1:]
}

// SampleSize is the number of payload bytes in sample i.
func (x *Index) SampleSize(i int) int64 {
	var n int64
	for m := x.starts[i]; m < x.starts[i+1]; m++ {
		n += x.sizes[m]
	}
	return n
}

// MaxSample is the SampleSize of the largest sample.
func (x *Index) MaxSample() int64 { return x.maxBytes }

// MemoryBytes is about how much memory the index takes; caches are bounded by it.
func (x *Index) MemoryBytes() int64 {
	const perMember = 4 + 2 + 8 + 8 + 8 + 8 // the flat arrays, and the table's share
	return int64(len(x.names)) + int64(len(x.ends))*perMember + int64(len(x.starts))*4 + 256
}

func (x *Index) name(m int) string {
	var from uint32
	if m > 0 {
		from = x.ends[m-1]
	}
	return x.names[from:x.ends[m]]
}
