package store

import (
	"github.com/cockroachdb/pebble/v2"
)

// FailDisk has a disk's metadata engine fail for good, as it does when a write of its log fails.
func FailDisk(s *Store, id string) {
	for _, k := range s.all() {
		if k.ID == id {
			_ = k.guard(func(*pebble.DB) error {
				engineLog{s.log, k}.Fatalf("write of the log failed")
				return nil
			})
		}
	}
}

// Index has the metadata name objects, spread over the disks, that have no data files.
func Index(s *Store, infos []Info) error {
	disks := s.all()
	batches := make([]*pebble.Batch, len(disks))
	for n, k := range disks {
		batches[n] = k.meta.db.NewBatch()
	}
	for n, i := range infos {
		r := record{file: fileID{byte(n), byte(n >> 8), byte(n >> 16), 1}, seal: uint64(n), info: i}
		if err := batches[n%len(batches)].Set(metaKey(i.Bucket, i.Name), r.encode(), nil); err != nil {
			return err
		}
	}
	for n, k := range disks {
		if err := batches[n].Commit(pebble.Sync); err != nil {
			return err
		}
		if err := k.meta.db.Flush(); err != nil {
			return err
		}
	}
	return nil
}

// FlushMeta has a disk's metadata engine write out what it has in memory, as it does by itself now and then.
func FlushMeta(s *Store, id string) error {
	k, err := s.disk(id)
	if err != nil {
		return err
	}
	return k.guard(func(db *pebble.DB) error { return db.Flush() })
}

// RoomOf is what is kept free on a disk of that capacity: from users' objects, and from all.
func RoomOf(capacity int64) (users, cluster int64) {
	r := roomOf(capacity)
	return r.kept(forUsers), r.kept(forCluster)
}
