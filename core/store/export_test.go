package store

import "github.com/cockroachdb/pebble/v2"

// FailDisk has a disk's metadata engine fail for good, as it does when a write of its log fails.
func FailDisk(s *Store, id string) {
	for _, k := range s.disks {
		if k.ID == id {
			_ = k.guard(func(*pebble.DB) error {
				engineLog{s.log}.Fatalf("write of the log failed")
				return nil
			})
		}
	}
}

// MendDisks lets the disks be closed as usual: FailDisk left nothing locked.
func MendDisks(s *Store) {
	for _, k := range s.disks {
		k.failed.Store(false)
	}
}
