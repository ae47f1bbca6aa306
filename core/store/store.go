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

func (s *Store) stripe(bucket, name string) *stripe { return &s.keys[s.stripeNumber(bucket, name)] }

func (s *Store) stripeNumber(bucket, name string) int {
	return int((xxh3.HashString(bucket)*31 + xxh3.HashString(name)) % stripes)
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
