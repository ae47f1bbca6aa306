package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"
)

// DiskMove says how far the objects of a disk that leaves are moved to the others.
type DiskMove struct {
	Total  int64 // objects that the disk had when the present pass began
	Moved  int64 // in all passes
	Bytes  int64
	Failed int64  // in the present pass: damaged objects, or no room
	Detail string // of the last failure
}

// passPause is between looks at a disk that leaves while writes to it are still under way.
const passPause = 100 * time.Millisecond

// EmptyDisk moves all objects of a disk to the others, and then takes it out of the store. Each is read, written,
// synced, read again and compared with its checksums before it is forgotten here. New objects go to other disks from
// the beginning; reads go on. It fails, and the disk stays, where an object can't be moved; EnableDisk takes the disk
// back into use. Told of an end by the context, it goes on at the next call where it was.
func (s *Store) EmptyDisk(ctx context.Context, id string, report func(DiskMove)) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	k, err := s.disk(id)
	if err != nil {
		return err
	}
	if err := s.beginLeaving(k); err != nil {
		return err
	}
	var m DiskMove
	for {
		busy := k.anyBusy() // before the look: a write that ends between the two would be missed by both
		found, err := s.emptyOnce(ctx, k, &m, report)
		if err != nil {
			return err
		}
		if !found && !busy && !k.anyBusy() {
			break
		}
		if m.Failed > 0 {
			return fmt.Errorf("disk %s: %d of %d objects could not be moved, the last because: %s: %w",
				id, m.Failed, m.Total, m.Detail, ErrDiskInUse)
		}
		select {
		case <-time.After(passPause):
		case <-ctx.Done():
			return cancelled(ctx, "empty disk "+id)
		}
	}
	return s.forget(k)
}

// BeginLeaving has new objects go to other disks than this one from now on; EmptyDisk moves those that it has. It fails
// where there is no other disk for them.
func (s *Store) BeginLeaving(id string) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	k, err := s.disk(id)
	if err != nil {
		return err
	}
	return s.beginLeaving(k)
}

func (s *Store) beginLeaving(k *disk) error {
	others := func(other *disk) bool { return other != k && other.writable() == nil }
	switch {
	case k.isOut():
		return k.outError()
	case k.cond.Load().state == DiskReadOnly:
		return fmt.Errorf("disk %s is read-only: its objects can't be removed from it: %w", k.ID, ErrDiskInUse)
	case !slices.ContainsFunc(s.all(), others):
		return fmt.Errorf("disk %s: there is no other disk in use that could take its objects: %w", k.ID, ErrDiskInUse)
	case !k.become(DiskLeaving, "its objects are moved to the other disks"):
		return k.outError()
	}
	s.wakeKeeper()
	return nil
}

// ForgetDisk takes a disk that is out of use out of the store, with all that only it has.
func (s *Store) ForgetDisk(id string) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	k, err := s.disk(id)
	if err != nil {
		return err
	}
	if !k.isOut() {
		return fmt.Errorf("disk %s is %s: disable it first: %w", id, k.cond.Load().state, ErrDiskInUse)
	}
	return s.forget(k)
}

func (s *Store) forget(k *disk) error {
	s.disks.change.Lock()
	defer s.disks.change.Unlock()
	if len(s.all()) == 1 {
		return fmt.Errorf("disk %s is the last: %w", k.ID, ErrDiskInUse)
	}
	s.replace(k, nil)
	s.cache.dropDisk(k)
	k.takeOut(DiskDisabled, "removed by hand", nil)
	s.log.Info("a disk is removed", "disk", k.ID, "path", k.Path)
	s.wakeKeeper()
	return nil
}

func (k *disk) anyBusy() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.busy) > 0
}

// emptyOnce moves what the disk has now, and says whether it had anything.
func (s *Store) emptyOnce(ctx context.Context, k *disk, m *DiskMove, report func(DiskMove)) (found bool, err error) {
	m.Total, m.Failed = 0, 0
	err = k.eachRecord(func([]byte, *record, error) error { m.Total++; return nil })
	if err != nil {
		return false, err
	}
	err = k.eachRecord(func(key []byte, r *record, err error) error {
		found = true
		if err == nil {
			err = s.move(ctx, k, bytes.Clone(key), r)
		}
		if ended := cancelled(ctx, "empty disk "+k.ID); ended != nil {
			return ended
		}
		if k.isOut() {
			return k.outError()
		}
		if k.cond.Load().state != DiskLeaving {
			return fmt.Errorf("disk %s is to stay after all: %w", k.ID, ErrDiskInUse)
		}
		if err != nil {
			m.Failed++
			m.Detail = err.Error()
		} else {
			m.Moved++
			m.Bytes += r.info.Payload()
		}
		if report != nil {
			report(*m)
		}
		return nil
	})
	return found, err
}

// move moves what a disk has under a key to another.
func (s *Store) move(ctx context.Context, k *disk, key []byte, r *record) error {
	to, err := s.choose(r.info.Bucket, r.info.Name, r.info.Payload(), forCluster)
	if err != nil {
		return err
	}
	next := *r
	next.info.Disk = to.ID
	if !r.bare() {
		k.begin(r.file)
		defer k.done(r.file)
		next.file = to.newFileID()
		defer to.done(next.file)
		if err := s.duplicate(ctx, copyOf{record: r, disk: k}, copyOf{record: &next, disk: to}); err != nil {
			if now, lost := k.record(key); lost == nil && (now == nil || now.file != r.file) {
				return nil // it was overwritten or deleted meanwhile
			}
			return err
		}
	}
	lock := s.stripe(r.info.Bucket, r.info.Name)
	lock.Lock()
	gone, moved, err := s.moveLocked(key, copyOf{record: r, disk: k}, copyOf{record: &next, disk: to})
	lock.Unlock()
	if !moved && !r.bare() && !to.isOut() {
		err = errors.Join(err, to.fs.Remove(next.file.path()))
	}
	s.unlink(gone)
	return err
}

// moveLocked makes the new copy the object's, unless the old one is not any more. It returns the copies whose files
// are to be removed.
func (s *Store) moveLocked(key []byte, from, to copyOf) (gone []copyOf, moved bool, err error) {
	now, err := from.disk.record(key)
	if err != nil || now == nil || now.file != from.file || now.info.Version != from.info.Version {
		return nil, false, err // overwritten or deleted meanwhile
	}
	there, err := to.disk.record(key)
	if err != nil {
		return nil, false, err
	}
	if there != nil && there.info.Version >= from.info.Version {
		gone, err = s.settleLocked(key) // it was moved before a crash
		return gone, false, err
	}
	if err := to.disk.setRecord(key, to.record); err != nil {
		return nil, to.disk.isOut(), err // where it is out, its log may have it or not
	}
	atMoved.Hit()
	if there != nil {
		to.disk.begin(there.file)
		gone = append(gone, copyOf{record: there, disk: to.disk})
	}
	s.cache.drop(objectKey{from.info.Bucket, from.info.Name})
	from.disk.begin(from.file)
	if err := from.disk.dropRecords(key); err != nil {
		from.disk.done(from.file)
		return gone, true, err
	}
	atLeft.Hit()
	return append(gone, from), true, nil
}

// duplicate copies a data file to another disk, byte by byte, and verifies the copy from there.
func (s *Store) duplicate(ctx context.Context, from, to copyOf) (err error) {
	in, err := openHandle(&from)
	if err != nil {
		return err
	}
	defer func() { _ = in.release() }()
	size, err := in.file.Size()
	if err != nil {
		return err
	}
	out, err := to.disk.fs.OpenFile(to.file.tmp(), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	at := to.file.tmp()
	defer func() {
		if err != nil && !to.disk.isOut() {
			err = errors.Join(to.disk.full(err), to.disk.fs.Remove(at))
		}
	}()
	err = copyFile(ctx, to.disk, out, in.file, size)
	if err == nil {
		err = out.Sync()
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return err
	}
	if err := to.disk.fs.Rename(at, to.file.path()); err != nil {
		return err
	}
	at = to.file.path()
	if err := to.disk.fs.SyncDir(at[:len(dataDir)+3]); err != nil {
		return err
	}
	atCopied.Hit()
	return verify(ctx, to)
}

func copyFile(ctx context.Context, to *disk, out, in File, size int64) error {
	buf := make([]byte, spanSize) // its own: a write to a disk that hangs may hold on to it
	for at := int64(0); at < size; {
		if err := cancelled(ctx, "copy a data file"); err != nil {
			return err
		}
		n := min(size-at, spanSize)
		if err := to.hasRoom(n, forCluster); err != nil {
			return err
		}
		if err := readFull(in, buf[:n], at); err != nil {
			return err
		}
		if m, err := out.WriteAt(buf[:n], at); err != nil {
			return err
		} else if int64(m) < n {
			return io.ErrShortWrite
		}
		at += n
	}
	return nil
}
