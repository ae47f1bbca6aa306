package store

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/cockroachdb/pebble/v2"
)

// reconcile brings files and metadata together at the start: it rebuilds metadata that are gone, drops older
// copies of objects, learns the highest version, and removes what a crash left behind.
func (s *Store) reconcile() error {
	for _, k := range s.all() {
		if err := k.rebuild(s); err != nil {
			k.takeOut(DiskFailed, fmt.Sprintf("rebuild metadata: %v", err), err)
		}
	}
	for {
		err := s.reconcileOnce()
		if err == nil || !errors.Is(err, ErrDiskFailed) || s.usable() != nil {
			return err
		} // a disk went out of use meanwhile: once more without it
	}
}

func (s *Store) reconcileOnce() error {
	used := map[*disk]map[fileID]struct{}{}
	unsure := map[*disk]bool{} // a record of it can't be read: its file is not debris
	for _, k := range s.all() {
		used[k] = map[fileID]struct{}{}
	}
	settle := func(key []byte, copies []found) error {
		for i, c := range copies {
			switch {
			case c.err != nil:
				unsure[c.disk] = true
				s.log.Error("metadata record can't be read", "disk", c.disk.ID, "key", string(key), "error", c.err)
			case i > 0: // left by a crash while the object moved between disks
				if c.disk.cond.Load().state == DiskReadOnly {
					used[c.disk][c.file] = struct{}{}
				} else if err := c.disk.dropRecords(append([]byte(nil), key...)); err != nil {
					return err
				}
				if err := atSettled.Fail(); err != nil {
					return err
				}
			default:
				if !c.bare() {
					used[c.disk][c.file] = struct{}{}
				}
				s.see(c.info.Version)
			}
		}
		return nil
	}
	for _, of := range []func() (lower, upper []byte){allObjects, allSlices} {
		lower, upper := of()
		if err := s.scan(lower, upper, settle); err != nil && !butForDisks(err) {
			return err
		}
	}
	for _, k := range s.all() {
		if unsure[k] || k.isOut() || k.cond.Load().state == DiskReadOnly {
			continue
		}
		if err := k.sweep(used[k], s); err != nil && !k.isOut() {
			return fmt.Errorf("disk %s: clear debris: %w", k.ID, err)
		}
	}
	return nil
}

// sweep removes temporary files and data files that no record names: writes that were never acknowledged, and old
// versions that were not yet unlinked.
func (k *disk) sweep(used map[fileID]struct{}, s *Store) error {
	removed := 0
	err := k.eachFile(func(path string, id fileID, ok bool) error {
		_, inUse := used[id]
		tmp := strings.HasPrefix(path, tmpDir+"/")
		if !tmp && (!ok || inUse) {
			return nil
		}
		removed++
		return errors.Join(k.fs.Remove(path), atSwept.Fail())
	})
	if removed > 0 {
		s.log.Info("removed what unfinished writes had left", "disk", k.ID, "files", removed)
	}
	return err
}

// rebuild makes the metadata anew from the data files, where they are not known to cover them. Files that can't be
// read stay, and are reported by Fsck.
func (k *disk) rebuild(s *Store) error {
	if k.isOut() {
		return nil
	}
	ready, err := k.meta.ready()
	if err != nil || ready {
		return err
	}
	objects := 0
	err = k.eachFile(func(path string, id fileID, ok bool) error {
		if !ok || path != id.path() {
			return nil
		}
		r, err := k.readRecord(id)
		if deviceError(err) {
			return err // another time it may be readable
		}
		if err != nil {
			s.log.Error("data file can't be read and is kept", "disk", k.ID, "file", path, "error", err)
			return k.fs.Rename(path, path+".damaged")
		}
		key := recordKey(&r.info)
		old, err := k.record(key)
		if err != nil {
			return err
		}
		if old == nil || compareCopies(copyOf{r, k}, copyOf{old, k}) < 0 {
			objects++
			err := k.guard(func(db *pebble.DB) error { return db.Set(key, r.encode(), pebble.NoSync) })
			return errors.Join(err, atRebuilt.Fail())
		}
		return nil
	})
	if err != nil {
		return err
	}
	if k.rebuilt = !k.isNew; k.rebuilt {
		s.disks.losses.Add(1)
	}
	if objects > 0 {
		s.log.Warn("metadata was missing and has been rebuilt from the data files", "disk", k.ID, "objects", objects)
	}
	err = k.guard(func(db *pebble.DB) error { return db.Set(readyKey, nil, pebble.Sync) })
	return errors.Join(err, atReady.Fail())
}

// readRecord makes the record of a data file from the file.
func (k *disk) readRecord(id fileID) (*record, error) {
	f, err := k.fs.OpenFile(id.path(), os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	ft, err := readFooter(f)
	if err != nil {
		return nil, err
	}
	info, err := ft.readHeader(f)
	if err != nil {
		return nil, err
	}
	info.Disk = k.ID
	return &record{file: id, seal: ft.seal, info: info}, nil
}
