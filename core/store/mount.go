package store

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// prepare makes a disk that was just opened, and that nobody uses yet, what reconcile makes of all of them at the start.
func (s *Store) prepare(k *disk) error {
	if err := k.rebuild(s); err != nil {
		return fmt.Errorf("disk %s: rebuild metadata: %w", k.ID, err)
	}
	used := map[fileID]struct{}{}
	sure := true
	err := k.eachRecord(func(_ []byte, r *record, err error) error {
		if err != nil {
			sure = false
			return nil
		}
		if !r.bare() {
			used[r.file] = struct{}{}
		}
		s.see(r.info.Version)
		return nil
	})
	if err == nil && sure {
		err = k.sweep(used, s)
	}
	return err
}

// settle removes what a disk that was out of use has of objects that were overwritten or deleted meanwhile, and what
// others have that is older than the disk's.
func (s *Store) settle(k *disk) error {
	if k.cond.Load().state == DiskReadOnly {
		return nil
	}
	return k.eachRecord(func(key []byte, r *record, err error) error {
		if err != nil {
			return nil // reported by Fsck
		}
		key = bytes.Clone(key)
		lock := s.stripe(r.info.Bucket, r.info.Name)
		lock.Lock()
		gone, err := s.settleLocked(key)
		lock.Unlock()
		s.unlink(gone)
		return err
	})
}

// settleLocked keeps the newest of what the disks have under a key.
func (s *Store) settleLocked(key []byte) ([]copyOf, error) {
	var copies []copyOf
	for _, k := range s.all() {
		r, err := k.record(key)
		if err != nil && !errors.Is(err, ErrDiskFailed) {
			return nil, err
		}
		if err == nil && r != nil && k.cond.Load().state != DiskReadOnly {
			copies = append(copies, copyOf{record: r, disk: k})
		}
	}
	sortCopies(copies)
	var gone []copyOf
	for i := len(copies) - 1; i > 0; i-- {
		c := copies[i]
		s.cache.drop(objectKey{c.info.Bucket, c.info.Name})
		c.disk.begin(c.file)
		if err := c.disk.dropRecords(key); err != nil {
			c.disk.done(c.file)
			return gone, err
		}
		gone = append(gone, c)
	}
	return gone, nil
}

// eachRecord visits all records of a disk, whatever they are of, in the order of keys.
func (k *disk) eachRecord(visit func(key []byte, r *record, err error) error) (err error) {
	if err := k.use(); err != nil {
		return err
	}
	defer k.leave()
	it, err := k.meta.db.NewIter(&pebble.IterOptions{})
	if err != nil {
		return fmt.Errorf("disk %s: metadata: %w", k.ID, err)
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for it.First(); it.Valid(); it.Next() {
		if k.isOut() {
			return k.outError()
		}
		if bytes.Equal(it.Key(), readyKey) {
			continue
		}
		r, err := decodeRecord(it.Value())
		if r != nil {
			r.info.Disk = k.ID
		}
		if err := visit(it.Key(), r, err); err != nil {
			return err
		}
	}
	return it.Error()
}

// vacant refuses a disk that comes with objects, as one that was removed by force: they may have been overwritten or
// deleted since, and nobody remembers that for a disk that is gone.
func (k *disk) vacant() error {
	return k.eachRecord(func(_ []byte, r *record, err error) error {
		if err == nil && r.info.Kind == Tombstone {
			return nil
		}
		return fmt.Errorf("disk %s at %s holds objects already, which may have been deleted or overwritten since it was "+
			"last in use: give an empty directory: %w", k.ID, k.Path, ErrDiskInUse)
	})
}

// AddDisk begins to use one more disk, which is formatted where it is empty; ErrDiskInUse where it comes with objects.
// New objects get their share of it.
func (s *Store) AddDisk(d Disk) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	if err := checkDisk(&d); err != nil {
		return err
	}
	for _, k := range s.all() {
		if k.ID == d.ID || k.Path == d.Path {
			return fmt.Errorf("disk %s at %s: %w", k.ID, k.Path, ErrDiskExists)
		}
	}
	defer s.wakeKeeper()
	return s.mount(nil, d, false)
}

// DisableDisk puts a disk out of use until EnableDisk. Calls under way on it are given up.
func (s *Store) DisableDisk(id string) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	k, err := s.disk(id)
	if err != nil {
		return err
	}
	if c := k.cond.Load(); c.state == DiskDisabled {
		return nil
	} else if c.state == DiskFailed {
		k.cond.CompareAndSwap(c, &condition{state: DiskDisabled, reason: "disabled by hand after: " + c.reason, since: s.o.Now()})
		s.wakeKeeper()
		return nil
	}
	k.takeOut(DiskDisabled, "disabled by hand", nil)
	return nil
}

// EnableDisk uses a disk again that was disabled or has failed, with what is on it: what was overwritten or deleted
// meanwhile is gone. With anew, an empty directory in its place is formatted: the disk was replaced.
func (s *Store) EnableDisk(id string, anew bool) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	k, err := s.disk(id)
	if err != nil {
		return err
	}
	switch k.cond.Load().state {
	case DiskDisabled, DiskFailed:
	case DiskLeaving:
		k.become(DiskOK, "")
		s.wakeKeeper()
		return nil
	default:
		return nil
	}
	d := k.Disk
	d.Known, d.State = !anew, ""
	if err := s.mount(k, d, false); err != nil {
		return err
	}
	s.disks.losses.Add(1) // what it has may be older than what the cluster knows
	s.wakeKeeper()
	return nil
}

func (s *Store) wakeKeeper() {
	select {
	case s.disks.wake <- struct{}{}:
	default:
	}
}
