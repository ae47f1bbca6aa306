package archive

// nameTable is a hash table of small integers whose keys live elsewhere: the caller hashes and
// compares. It takes 4 bytes a slot and no allocation on use.
type nameTable struct {
	slots []uint32 // index + 1; 0 is empty; a power of two, at most 3/4 full
	used  int
}

// find returns the index for which equal holds among those with this hash, or -1.
func (t *nameTable) find(hash uint64, equal func(int) bool) int {
	if len(t.slots) == 0 {
		return -1
	}
	mask := uint64(len(t.slots) - 1)
	for at := hash & mask; t.slots[at] != 0; at = (at + 1) & mask {
		if i := int(t.slots[at] - 1); equal(i) {
			return i
		}
	}
	return -1
}

// full says whether rebuild must come before the next add.
func (t *nameTable) full() bool { return 4*(t.used+1) > 3*len(t.slots) }

// add puts in an index that find did not find.
func (t *nameTable) add(hash uint64, index int) {
	mask := uint64(len(t.slots) - 1)
	at := hash & mask
	for t.slots[at] != 0 {
		at = (at + 1) & mask
	}
	t.slots[at] = uint32(index) + 1 // bounded by maxMembers
	t.used++
}

// rebuild fills a table with room for as much again with the indexes 0..n-1.
func (t *nameTable) rebuild(n int, hash func(int) uint64) {
	size := 64
	for 3*size < 8*n {
		size *= 2
	}
	t.slots, t.used = make([]uint32, size), 0
	for i := range n {
		t.add(hash(i), i)
	}
}
