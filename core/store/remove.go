package store

import (
	"context"
	"fmt"
	"slices"
)

// Delete removes an object. When it returns without an error, it is gone for good; readers that have it open
// keep it.
func (s *Store) Delete(ctx context.Context, bucket, name string, c Condition) error {
	if err := s.enterFor(ctx, "delete", bucket, name); err != nil {
		return err
	}
	defer s.leave()
	k := s.stripe(bucket, name)
	k.Lock()
	gone, err := s.deleteLocked(bucket, name, c, k)
	k.Unlock()
	s.unlink(gone)
	return err
}

func (s *Store) deleteLocked(bucket, name string, c Condition, k *stripe) ([]copyOf, error) {
	copies, err := s.copies(bucket, name)
	if err != nil {
		return nil, err
	}
	if err := check(c, bucket, name, copies); err != nil {
		return nil, err
	}
	if len(copies) == 0 || copies[0].info.Kind == Tombstone {
		return nil, fmt.Errorf("object %s/%s: %w", bucket, name, ErrNotFound)
	}
	if s.mayReturn(copies) {
		return s.buryLocked(bucket, name, s.nextVersion(), k) // what can't be removed now must not come back to life
	}
	return s.removeLocked(bucket, name, k, func(copies []copyOf) ([]copyOf, error) { return copies, nil })
}

// mayReturn says that a copy can't be removed now, of these or on a disk that is out of use.
func (s *Store) mayReturn(copies []copyOf) bool {
	readOnly := func(c copyOf) bool { return c.disk.cond.Load().state == DiskReadOnly }
	return s.anyOut() || slices.ContainsFunc(copies, readOnly)
}

// remove removes those copies of an object that pick picks, oldest first: a crash in between must not
// bring an older one back to light.
func (s *Store) remove(bucket, name string, pick func([]copyOf) ([]copyOf, error)) error {
	k := s.stripe(bucket, name)
	k.Lock()
	gone, err := s.removeLocked(bucket, name, k, pick)
	k.Unlock()
	s.unlink(gone)
	return err
}

func (s *Store) removeLocked(bucket, name string, k *stripe, pick func([]copyOf) ([]copyOf, error)) ([]copyOf, error) {
	copies, err := s.copies(bucket, name)
	if err != nil {
		return nil, err
	}
	if copies, err = pick(copies); err != nil || len(copies) == 0 {
		return nil, err
	}
	s.cache.drop(objectKey{bucket, name})
	if copies, err = removeRecords(metaKey(bucket, name), copies); err != nil {
		return copies, fmt.Errorf("delete %s/%s: %w", bucket, name, err)
	}
	k.last = max(k.last, s.nextVersion())
	return copies, nil
}

// removeRecords removes the records of copies, and returns those whose files are to be removed: all, but after an error.
func removeRecords(key []byte, copies []copyOf) ([]copyOf, error) {
	for i := len(copies) - 1; i >= 0; i-- {
		c := copies[i]
		c.disk.begin(c.file)
		if err := c.disk.dropRecords(key); err != nil {
			c.disk.done(c.file)
			return copies[i+1:], err
		}
		atRemoved.Hit()
	}
	return copies, nil
}

// DropBucket removes all that there is of the bucket: objects, tombstones and slices. What is put meanwhile may stay.
// Stopped early, it has removed some of them.
func (s *Store) DropBucket(ctx context.Context, bucket string) error {
	if err := CheckBucket(bucket); err != nil {
		return err
	}
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	lower := metaKey(bucket, "")
	if err := s.dropRange(ctx, bucket, lower, after(lower)); err != nil {
		return err
	}
	lower, upper := bucketSlices(bucket)
	return s.dropRange(ctx, bucket, lower, upper)
}

// dropRange removes what there is between two keys of a bucket.
func (s *Store) dropRange(ctx context.Context, bucket string, lower, upper []byte) error {
	for more := true; more; {
		if err := cancelled(ctx, "drop bucket "+bucket); err != nil {
			return err
		}
		var infos []Info
		var err error
		infos, more, err = s.page(lower, upper, defaultPage, func(*Info) bool { return true })
		if err == nil && len(infos) > 0 {
			err = s.dropPage(infos)
			lower = next(recordKey(&infos[len(infos)-1]))
		}
		if err != nil {
			return fmt.Errorf("drop bucket %s: %w", bucket, err)
		}
	}
	return nil
}

// dropPage removes objects or slices with one synced write for each disk.
func (s *Store) dropPage(infos []Info) error {
	unlock := s.lockStripes(infos)
	gone, err := s.dropPageLocked(infos)
	version := s.nextVersion()
	for _, i := range infos {
		k := s.stripe(i.Bucket, i.Name)
		k.last = max(k.last, version)
	}
	unlock()
	s.unlink(gone)
	return err
}

// dropPageLocked returns the copies whose files are to be removed.
func (s *Store) dropPageLocked(infos []Info) (gone []copyOf, err error) {
	byDisk := map[*disk][]copyOf{}
	for _, i := range infos {
		if i.Kind != Slice {
			s.cache.drop(objectKey{i.Bucket, i.Name})
		}
		key := recordKey(&i)
		copies, err := s.copiesAt(key)
		if err != nil {
			return gone, err
		}
		if len(copies) > 1 { // these must go in their order
			copies, err = removeRecords(key, copies)
			gone = append(gone, copies...)
			if err != nil {
				return gone, err
			}
			continue
		}
		for _, c := range copies { // none: deleted meanwhile
			byDisk[c.disk] = append(byDisk[c.disk], c)
		}
	}
	for k, copies := range byDisk {
		keys := make([][]byte, len(copies))
		for n, c := range copies {
			k.begin(c.file)
			keys[n] = recordKey(&c.info)
		}
		if err := k.dropRecords(keys...); err != nil {
			for _, c := range copies {
				k.done(c.file)
			}
			return gone, err
		}
		atDropped.Hit()
		gone = append(gone, copies...)
	}
	return gone, nil
}
