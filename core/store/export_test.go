package store

import (
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
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

// WithMetaFS lets a test stand between the metadata engines and their disks.
func WithMetaFS(o *Options, wrap func(disk string, inner vfs.FS) vfs.FS) { o.metaFS = wrap }
