package store

import (
	"errors"
	"fmt"
)

// Stat describes an object.
func (s *Store) Stat(bucket, name string) (Info, error) {
	if info, ok := s.cache.info(objectKey{bucket, name}); ok { // of a disk that is in use
		return info, nil
	}
	c, err := s.stat(bucket, name)
	if err != nil {
		return Info{}, err
	}
	return c.info, nil
}

// Locate describes an object and names its data file, which is gone once the object is overwritten; a stub may have none.
func (s *Store) Locate(bucket, name string) (Info, []string, error) {
	c, err := s.stat(bucket, name)
	if err != nil {
		return Info{}, nil, err
	}
	if c.bare() {
		return c.info, nil, nil
	}
	return c.info, []string{c.disk.path(c.file)}, nil
}

func (s *Store) stat(bucket, name string) (*copyOf, error) {
	if err := checkNames(bucket, name); err != nil {
		return nil, err
	}
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	k := s.stripe(bucket, name)
	k.RLock() // a commit that is not yet on disk must not be seen
	defer k.RUnlock()
	return s.newest(bucket, name)
}

// copyOf is a copy of an object: a record on a disk.
type copyOf struct {
	*record
	disk *disk
}

// copies finds all copies of an object, newest first. There is one, but for the moment in which a Put
// moves the object to another disk, or after a crash then. Where a disk has failed and no other has the
// object, that is an error: it may be there.
func (s *Store) copies(bucket, name string) ([]copyOf, error) {
	out, err := s.copiesAt(metaKey(bucket, name))
	if err != nil {
		return nil, fmt.Errorf("object %s/%s: %w", bucket, name, err)
	}
	return out, nil
}

// copiesAt is copies by key, of slices too.
func (s *Store) copiesAt(key []byte) ([]copyOf, error) {
	var out []copyOf
	var failed error
	for _, k := range s.all() {
		r, err := k.record(key)
		switch {
		case errors.Is(err, ErrDiskFailed):
			failed = err
		case err != nil:
			return nil, err
		case r != nil:
			out = append(out, copyOf{record: r, disk: k})
		}
	}
	if len(out) == 0 && failed != nil {
		return nil, failed
	}
	sortCopies(out)
	return out, nil
}

func (s *Store) newest(bucket, name string) (*copyOf, error) {
	copies, err := s.copies(bucket, name)
	if err != nil {
		return nil, err
	}
	if len(copies) == 0 || copies[0].info.Kind == Tombstone {
		return nil, fmt.Errorf("object %s/%s: %w", bucket, name, ErrNotFound)
	}
	return &copies[0], nil
}
