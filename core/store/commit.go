package store

import (
	"errors"
	"fmt"
)

// commit makes the file the object's newest version.
func (s *Store) commit(w *writer, c Condition) error {
	i := &w.info
	k := s.stripe(i.Bucket, i.Name)
	k.Lock()
	old, err := s.commitLocked(w, c, k)
	k.Unlock()
	if len(old) > 0 && w.damaged && old[0].info.Version == i.Version {
		s.putAside(old[:1])
		old = old[1:]
	}
	s.unlink(old)
	return err
}

// commitLocked returns the copies whose files are to be removed.
func (s *Store) commitLocked(w *writer, c Condition, k *stripe) ([]copyOf, error) {
	copies, err := s.allows(w, c, k)
	if err != nil {
		return nil, err
	}
	old, err := s.install(w, copies)
	if err == nil {
		k.last = max(k.last, w.info.Version)
		s.see(w.info.Version)
	}
	return old, err
}

// allows makes sure that a copy may be committed, and returns those that are there.
func (s *Store) allows(w *writer, c Condition, k *stripe) ([]copyOf, error) {
	i := &w.info
	copies, err := s.copies(i.Bucket, i.Name)
	if err != nil && (!errors.Is(err, ErrDiskFailed) || c != Condition{}) {
		return nil, err // a failed disk may hold an older copy; without a condition that does not matter
	}
	if err := check(c, i.Bucket, i.Name, copies); err != nil {
		return nil, err
	}
	superseded := len(copies) > 0 && i.Version <= copies[0].info.Version
	if superseded && w.given != 0 {
		if err := w.fills(&copies[0].info); err != nil {
			return nil, err
		}
	} else if superseded || w.given == 0 && i.Version <= k.last {
		if err := w.finish(s); err != nil { // another Put was faster: this one comes after it
			return nil, err
		}
	}
	return copies, nil
}

// fills says that a copy may replace the one that is there, which is of the same version: since it holds the bytes
// that a stub does not have, or that were lost; or since it is meant to.
func (w *writer) fills(present *Info) error {
	i := &w.info
	more := w.replaces && present.Kind != Tombstone || i.Kind.holds() > present.Kind.holds()
	if i.Version != present.Version || !more && !i.tellsMore(present) {
		return fmt.Errorf("object %s/%s, version %d: %w", i.Bucket, i.Name, i.Version, ErrSuperseded)
	}
	return i.agrees(present)
}

// publish gives the file its name, durably.
func (w *writer) publish() error {
	f := w.file
	w.file = nil
	if err := f.Close(); err != nil {
		return err
	}
	if err := w.disk.fs.Rename(w.path, w.id.path()); err != nil {
		return err
	}
	w.path = w.id.path()
	atRenamed.Hit()
	if err := w.disk.fs.SyncDir(w.id.path()[:len(dataDir)+3]); err != nil {
		return err
	}
	atPublished.Hit()
	return nil
}

// install publishes a finished file and has the metadata name it in place of the present copies, under the lock of
// their stripe. It returns the copies whose files are to be removed.
func (s *Store) install(w *writer, copies []copyOf) ([]copyOf, error) {
	i := &w.info
	if !w.bare {
		if err := w.publish(); err != nil {
			return nil, err
		}
	}
	for _, old := range copies {
		old.disk.begin(old.file)
	}
	if i.Kind != Slice {
		s.cache.drop(objectKey{i.Bucket, i.Name}) // before the commit: no reader may see new, then old
	}
	key := recordKey(i)
	if err := w.disk.setRecord(key, &record{file: w.id, seal: w.seal, info: *i}); err != nil {
		if errors.Is(err, ErrDiskFailed) {
			w.path = "" // the log may have it or not: the next Open decides, and sweeps the file if not
		}
		for _, old := range copies {
			old.disk.done(old.file)
		}
		return nil, err
	}
	w.path = ""
	atRecorded.Hit()
	return s.dropReplaced(key, w.disk, copies), nil
}

// dropReplaced removes the records of copies that one on another disk has replaced. It returns the copies whose files
// are to be removed.
func (s *Store) dropReplaced(key []byte, by *disk, copies []copyOf) []copyOf {
	for n := len(copies) - 1; n >= 0; n-- {
		old := copies[n]
		if old.disk == by {
			continue // its record was replaced
		}
		if err := old.disk.dropRecords(key); err != nil { // it ranks lower: never read again
			s.log.Warn("older copy stays until the next start",
				"object", old.info.Bucket+"/"+old.info.Name, "disk", old.disk.ID, "error", err)
			old.disk.done(old.file)
			copies = append(copies[:n:n], copies[n+1:]...)
		}
		atReplaced.Hit()
	}
	return copies
}

// unlink removes data files that no record names any more. Readers that have them open keep them.
func (s *Store) unlink(old []copyOf) {
	for _, c := range old {
		if c.bare() {
			c.disk.done(c.file)
			continue
		}
		if err := c.disk.fs.Remove(c.file.path()); err != nil {
			s.log.Warn("data file could not be removed; the next start will", "disk", c.disk.ID, "file", c.file.path(), "error", err)
		}
		atUnlinked.Hit()
		c.disk.done(c.file)
	}
}
