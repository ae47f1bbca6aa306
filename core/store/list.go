package store

import (
	"fmt"
	"slices"
)

// defaultPage is the number of objects in a page where the caller names none.
const defaultPage = 1000

// List gives the bucket's objects whose names begin with prefix and come after startAfter, sorted by
// name, at most limit of them (0: 1000); more says whether others follow. A page is complete or an error. With a disk out
// of use it is both: what the other disks have, and ErrDiskFailed.
func (s *Store) List(bucket, prefix, startAfter string, limit int) (infos []Info, more bool, err error) {
	return s.listing(bucket, prefix, startAfter, limit, false)
}

func (s *Store) listing(bucket, prefix, startAfter string, limit int, all bool) (infos []Info, more bool, err error) {
	if err := CheckBucket(bucket); err != nil {
		return nil, false, err
	}
	if len(prefix) > maxObjectName {
		return nil, false, &NameError{Kind: "prefix", Name: prefix, Rule: "it is longer than 1024 bytes"}
	}
	if err := s.enter(); err != nil {
		return nil, false, err
	}
	defer s.leave()
	return s.list(bucket, prefix, startAfter, limit, all)
}

func (s *Store) list(bucket, prefix, startAfter string, limit int, all bool) (infos []Info, more bool, err error) {
	if limit <= 0 {
		limit = defaultPage
	}
	lower := metaKey(bucket, prefix)
	upper := after(lower)
	if startAfter != "" && startAfter >= prefix {
		lower = next(metaKey(bucket, startAfter))
	}
	if string(lower) >= string(upper) {
		return nil, false, nil
	}
	infos, more, err = s.page(lower, upper, limit, func(i *Info) bool { return all || i.Kind != Tombstone })
	if err != nil {
		err = fmt.Errorf("list bucket %s: %w", bucket, err)
	}
	return infos, more, err
}

// page describes the newest copies between two keys that want says are wanted, at most limit of them where limit is not 0.
// Its error says where it is of the disks that are in use only.
func (s *Store) page(lower, upper []byte, limit int, want func(*Info) bool) (infos []Info, more bool, err error) {
	err = s.scan(lower, upper, func(key []byte, copies []found) error {
		c := copies[0]
		if c.err != nil {
			return fmt.Errorf("disk %s: key %q: %w", c.disk.ID, key, c.err)
		}
		if !want(&c.info) {
			return nil
		}
		if limit > 0 && len(infos) == limit {
			more = true
			return errStop
		}
		if len(infos) == cap(infos) { // by more than append would: an Info is large
			infos = slices.Grow(infos, max(len(infos), 64))
		}
		infos = append(infos, c.info)
		return nil
	})
	if err != nil {
		if !butForDisks(err) {
			return nil, false, err
		}
	}
	return infos, more, err
}

// Empty says whether the bucket has no objects here.
func (s *Store) Empty(bucket string) (bool, error) {
	infos, _, err := s.List(bucket, "", "", 1)
	return len(infos) == 0 && err == nil, err
}
