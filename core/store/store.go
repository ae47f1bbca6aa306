// Package store keeps the objects of one node on its disks.
//
// An object is one data file that carries all there is to know of it: payload, block checksums,
// member index, object header, footer. Beside the files each disk has a small key-value engine that
// maps names to files; it can be rebuilt from them. A Put is answered when the file, its directory
// entry and the metadata are on disk; a reader pins one version and never sees two mixed; each byte
// is checked against its block's checksum before it is handed out.
//
// The package knows no network and no other node: buckets are only the first half of a name here,
// and which node should hold an object is decided elsewhere. User names are keys and header fields,
// never paths.
package store

import (
	"log/slog"
	"time"

	"github.com/shardstream/shardstream/core/archive"
)

// BlockSize is the number of payload bytes under one checksum.
const BlockSize = 64 << 10

// Disk is a directory, on a file system of its own in production, that holds objects.
type Disk struct {
	ID     string  // stable name; a disk that was formatted under another is refused
	Path   string  // made if it does not exist
	Weight float64 // share of new objects against the other disks; 0 means 1
}

// Options configure a Store.
type Options struct {
	Disks  []Disk
	Logger *slog.Logger // nil: slog.Default()

	CacheBytes int64 // memory for member indexes and block checksums; 0: 128 MiB
	OpenFiles  int   // data files kept open between uses; 0: 512

	// Seams for tests.
	FS  func(path string) (FS, error) // opens a disk's directory; nil: DirFS
	Now func() time.Time              // nil: time.Now
}

// Info describes one version of an object.
type Info struct {
	Bucket, Name string
	Version      uint64 // rises with each Put of the name
	Size         int64
	XXH3         uint64 // of the whole object
	CRC32        uint32 // IEEE, of the whole object
	Created      time.Time
	ContentType  string
	Meta         map[string]string // shared, not to be changed

	Archive                     archive.Format
	Members, Samples, MaxSample int64 // of an indexed archive; MaxSample in bytes

	Disk string
}

// Condition restricts a Put or Delete, as If-Match and If-None-Match do in HTTP: an ETag, a
// comma-separated list of them, or "*". It is evaluated in one step with the commit.
type Condition struct{ IfMatch, IfNoneMatch string }

// PutOptions describe an object that is put.
type PutOptions struct {
	Size        int64 // of the body; -1 if not known
	ContentType string
	Meta        map[string]string
	XXH3        *uint64 // expected checksums of the body
	CRC32       *uint32
	Archive     archive.Format
	Condition   Condition
}

// DiskUsage is the state of one disk. Used and Capacity are those of its file system, in bytes.
type DiskUsage struct {
	ID, Path       string
	State          string // "ok", or "failed" after an error that it can't recover from
	Used, Capacity int64
}

// Finding is one fault that Fsck found.
type Finding struct {
	Disk, Bucket, Name string
	File               string // path of the data file
	Block              int64  // of the payload; -1 where no one block is at fault
	Detail             string
}

// Report is what Fsck found.
type Report struct {
	Objects                 int64
	Corrupt, Missing, Stray []Finding
}
