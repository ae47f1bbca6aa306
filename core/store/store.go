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
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/zeebo/xxh3"

	"github.com/shardstream/shardstream/core/archive"
)

// BlockSize is the number of payload bytes under one checksum.
const BlockSize = 64 << 10

// Disk is a directory, on a file system of its own in production, that holds objects.
type Disk struct {
	ID     string  // stable name; a disk that was formatted under another is refused
	Path   string  // made if it does not exist
	Weight float64 // share of new objects against the other disks; 0 means 1

	// Known disks were formatted before. One that can't be opened, or is empty now, is out of use and the others go on;
	// of others an error is one of Open.
	Known bool
	// State is how a known disk is to be opened: DiskDisabled (not at all), DiskLeaving, or "" for use.
	State string
}

// Options configure a Store.
type Options struct {
	Disks  []Disk
	Logger *slog.Logger // nil: slog.Default()

	CacheBytes int64 // memory for member indexes and block checksums; 0: 128 MiB
	OpenFiles  int   // data files kept open between uses; 0: 512

	// OnDiskChange is called after the state of disks has changed, one call at a time; nil is fine.
	OnDiskChange func()
	// ProbeEvery is how often each disk is tried, ProbeTimeout how long one may take to answer before it is out of use;
	// 0: 5 and 20 seconds. Negative: never.
	ProbeEvery, ProbeTimeout time.Duration
	// StrayGrace is how old a file must be that no object claims before it is removed; 0: an hour, negative: never.
	StrayGrace time.Duration
	// Audit is told of each file that is removed since no object claims it, before it is; where it fails, the file stays.
	// nil: it is logged.
	Audit func(disk, file string) error

	// Seams for tests.
	FS     func(path string) (FS, error) // opens a disk's directory; nil: DirFS
	MetaFS func(path string) vfs.FS      // holds the disk's metadata instead of its directory; nil: that
	Now    func() time.Time              // nil: time.Now
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

	// Kind is what this copy of the object is; the rest is of erasure-coded objects, 0 elsewhere: into how many slices
	// they are cut, and which one this is.
	Kind                Kind
	Data, Parity, Slice int

	Disk string
}

// Kind is what a copy holds.
type Kind uint8

// Kinds of copies. A stub is all that there is to know of an object but its bytes, which are elsewhere: in slices where
// Data is not 0, else at its origin (see OriginTag). A whole copy of such an object can be made a stub (see Evict). A
// tombstone says that the object was deleted.
// Lost is what remains of a copy that was damaged (see Quarantine): the object exists, its bytes are elsewhere or nowhere.
const (
	Whole Kind = iota
	Tombstone
	Stub
	Slice
	Lost
)

// Payload is the number of bytes that the copy's data file holds of the object.
func (i *Info) Payload() int64 {
	if i.Kind == Whole || i.Kind == Slice {
		return i.Size
	}
	return 0
}

// PutOptions describe a Put of a copy of this very version, elsewhere or here again: its bytes are checked, as far as
// they are known.
func (i *Info) PutOptions() PutOptions {
	o := PutOptions{
		Size: i.Size, ContentType: i.ContentType, Meta: i.Meta, XXH3: &i.XXH3, CRC32: &i.CRC32, Archive: i.Archive,
		Version: i.Version, Created: i.Created, Data: i.Data, Parity: i.Parity,
	}
	if i.Unread() {
		o.XXH3, o.CRC32 = nil, nil
	}
	return o
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

	// Version and Created are those of the write that the copy is of; 0: it is a write of its own.
	Version uint64
	Created time.Time
	// Data and Parity mark the copy as a whole one, or a slice, of an erasure-coded object.
	Data, Parity int

	// Admit is asked when the body is here and before the object is committed, by Put alone; leave is called after.
	// nil: every object is admitted.
	Admit func() (leave func(), err error)

	// Follow is given the payload before the first byte of it is written, for others to read while it grows; nil: nobody
	// does.
	Follow func(*Growing)
	// Lenient puts keep an archive that can't be indexed as opaque bytes, and say why in Meta[UnindexedMark].
	Lenient bool

	// Internal puts may take room that is kept from users' objects: for copies that are made to heal or move data, and
	// outputs of transformations.
	Internal bool
}

// DiskUsage is the state of one disk. Used and Capacity are those of its file system, in bytes; of a disk that is out of
// use they are as last known.
type DiskUsage struct {
	ID, Path       string
	State          string // see DiskOK
	Reason         string // for a state other than DiskOK
	Since          time.Time
	Used, Capacity int64
	Reserved       int64 // bytes that users' objects can't have
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
	Objects                 int64 // Stubs of them are without their bytes
	Stubs                   int64
	Tombstones, Slices      int64 // which are no objects
	Corrupt, Missing, Stray []Finding
}

// Store holds objects on the disks of one node. Its methods may be called from any goroutine.
type Store struct {
	o      Options
	log    *slog.Logger
	disks  diskSet
	engine *pebble.Cache // memory that the disks' metadata share
	cache  *cache
	last   atomic.Uint64 // highest version given out or seen
	floor  atomic.Uint64 // versions are given out above it
	keys   [stripes]stripe

	life   sync.RWMutex // held for reading by each call
	closed atomic.Bool
}

// stripe serialises what changes the objects whose names fall on it.
type stripe struct {
	sync.RWMutex
	last uint64 // highest version that was committed or deleted under it
}

const stripes = 1024

// Open locks the disks, opens them, and clears away what a crash left behind. A known disk that does not open is out of
// use, and the store goes on with the others; it fails as a whole where none is left, or a disk is not this store's.
func Open(o Options) (*Store, error) {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Audit == nil {
		o.Audit = func(disk, file string) error {
			o.Logger.Info("a file that no object claims is removed", "disk", disk, "file", file)
			return nil
		}
	}
	o.CacheBytes = cmp.Or(o.CacheBytes, 128<<20)
	o.OpenFiles = cmp.Or(o.OpenFiles, 512)
	o.ProbeEvery, o.ProbeTimeout = cmp.Or(o.ProbeEvery, defaultProbeEvery), cmp.Or(o.ProbeTimeout, defaultProbeTimeout)
	o.StrayGrace = cmp.Or(o.StrayGrace, defaultStrayGrace)
	if o.FS == nil {
		o.FS = DirFS
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if len(o.Disks) == 0 {
		return nil, errors.New("open store: no disks given")
	}
	s := &Store{
		o: o, log: o.Logger, engine: pebble.NewCache(metaCache), cache: newCache(o.OpenFiles, o.CacheBytes),
	}
	s.disks.init()
	err := s.openDisks()
	if err == nil {
		err = s.reconcile()
	}
	if err == nil {
		err = s.usable()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open store: %w", err), s.Close())
	}
	s.disks.start(s)
	return s, nil
}

// Close waits for calls in progress and gives the disks back. Objects that are open stay readable
// until they are closed.
func (s *Store) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	s.disks.stop()
	s.awaitCalls()
	s.cache.close()
	var errs []error
	for _, k := range s.all() {
		errs = append(errs, k.close())
	}
	s.disks.awaitRetired()
	s.engine.Unref()
	return errors.Join(errs...)
}

// enter begins a call; leave ends it.
func (s *Store) enter() error {
	s.life.RLock()
	if s.closed.Load() {
		s.life.RUnlock()
		return ErrClosed
	}
	return nil
}

func (s *Store) leave() { s.life.RUnlock() }

// enterFor begins a call that changes an object: what says in its error what was not done as the context had ended.
func (s *Store) enterFor(ctx context.Context, what, bucket, name string) error {
	if err := checkNames(bucket, name); err != nil {
		return err
	}
	if err := cancelled(ctx, what); err != nil {
		return err
	}
	return s.enter()
}

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

func (s *Store) stripe(bucket, name string) *stripe { return &s.keys[s.stripeNumber(bucket, name)] }

func (s *Store) stripeNumber(bucket, name string) int {
	return int((xxh3.HashString(bucket)*31 + xxh3.HashString(name)) % stripes)
}

// nextVersion gives a version above all that this store has seen, near the time of day, so that
// versions rise across restarts and across nodes whose clocks are sane.
func (s *Store) nextVersion() uint64 {
	for {
		last := s.last.Load()
		next := max(uint64(s.o.Now().UnixNano()), last+1, s.floor.Load()+1) // after 1970
		if s.last.CompareAndSwap(last, next) {
			return next
		}
	}
}

// NextVersion gives out a version.
func (s *Store) NextVersion() uint64 { return s.nextVersion() }

// SetFloor has versions be given out above floor from now on. It never falls.
func (s *Store) SetFloor(floor uint64) {
	for {
		now := s.floor.Load()
		if floor <= now || s.floor.CompareAndSwap(now, floor) {
			return
		}
	}
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

// cancelled says that the context has ended, why, and what it stopped.
func cancelled(ctx context.Context, what string) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	switch {
	case err == nil:
		return nil
	case errors.Is(cause, err):
		return fmt.Errorf("%s: %w", what, cause)
	default:
		return fmt.Errorf("%s: %w: %w", what, err, cause)
	}
}
