package store

import (
	"cmp"
	"errors"
	"math"
	"slices"

	"github.com/zeebo/xxh3"
)

// choose picks the disk for a new object: by weighted rendezvous, so that each disk gets its share and a
// new one draws from all; the first that is in use and has room for it. An object is looked up on all disks, so that it
// may lie on any.
func (s *Store) choose(bucket, name string, size int64, p purpose) (*disk, error) {
	var full, failed error
	for _, k := range rank(s.all(), bucket, name) {
		if err := k.writable(); err != nil {
			failed = err
			continue
		}
		err := k.hasRoom(max(size, 0)+8*blocks(max(size, 0)), p)
		if err == nil {
			return k, nil
		}
		var noSpace *NoSpaceError
		if errors.As(err, &noSpace) {
			full = cmp.Or(full, err)
		} else {
			failed = err
		}
	}
	return nil, cmp.Or(full, failed)
}

// rank orders the disks by their claim on an object. A disk wins with a probability in proportion to its
// weight, whatever the others are (the logarithm method of weighted rendezvous hashing).
func rank(disks []*disk, bucket, name string) []*disk {
	type claim struct {
		disk  *disk
		score float64
	}
	object := xxh3.HashString(bucket + "/" + name)
	claims := make([]claim, len(disks))
	for i, k := range disks {
		h := xxh3.HashStringSeed(k.ID, object)
		u := (float64(h>>11) + 0.5) / (1 << 53) // in (0, 1)
		claims[i] = claim{k, -math.Log(u) / k.Weight}
	}
	slices.SortFunc(claims, func(a, b claim) int {
		return cmp.Or(cmp.Compare(a.score, b.score), cmp.Compare(a.disk.ID, b.disk.ID))
	})
	out := make([]*disk, len(disks))
	for i, c := range claims {
		out[i] = c.disk
	}
	return out
}
