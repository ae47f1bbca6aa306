package store

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// What a disk's directory holds.
const (
	dataDir = "data" // data/xx/<id>: data files, spread by the first byte of their id
	tmpDir  = "tmp"  // files that are being written
	metaDir = "meta" // the metadata engine's
	// quarantineDir has data files that were found damaged.
	quarantineDir = "quarantine"
	lockName      = "LOCK"
	formatName    = "FORMAT"
	probeName     = "PROBE" // written and read now and then, to see whether the disk works
)

// disk is one disk from when it is opened until it is out of use. A disk that could not be opened is out of use from
// the beginning, and has neither files nor metadata.
type disk struct {
	Disk
	fs       FS // watched
	raw      FS
	lock     File
	meta     *meta
	room     room
	now      func() time.Time
	tell     func(*disk)   // told that the disk is out of use
	opened   chan struct{} // closed once open has returned
	unlocked chan struct{} // closed once it is out of use and can be opened anew
	closed   chan struct{} // closed once nothing of it is open any more

	losses *atomic.Uint64 // of the store

	cond      atomic.Pointer[condition]
	gone      chan struct{} // closed once it is out of use
	uses      atomic.Int64  // calls that are at the metadata engine
	idle      chan struct{} // gets a token when the last of them leaves a disk that is out of use
	formatted bool          // its FORMAT file is there
	isNew     bool          // formatted when it was opened
	rebuilt   bool          // its metadata were, from the data files: it does not know any more what was deleted

	lastUsed, lastCapacity atomic.Int64 // as of the last time that the system told

	mu         sync.Mutex
	busy       map[fileID]int       // files on their way in or out, by how many calls: neither debris nor strays
	unreadable map[string]time.Time // files that the device failed to read, and when
}

// errInUse is the error for a disk that another process has open.
var errInUse = errors.New("in use by another process")

func (s *Store) newDisk(d Disk) *disk {
	if d.Weight <= 0 {
		d.Weight = 1
	}
	k := &disk{
		Disk: d, now: s.o.Now, tell: s.diskOut, losses: &s.disks.losses, busy: map[fileID]int{}, unreadable: map[string]time.Time{},
		gone: make(chan struct{}), opened: make(chan struct{}), unlocked: make(chan struct{}), closed: make(chan struct{}), idle: make(chan struct{}, 1),
	}
	k.cond.Store(&condition{state: DiskOK, since: s.o.Now()})
	return k
}

// checkDisk makes sure that a disk is described, and its path absolute.
func checkDisk(d *Disk) (err error) {
	if d.ID == "" || d.Path == "" {
		return fmt.Errorf("disk %q at %q: both an id and a path are needed", d.ID, d.Path)
	}
	if strings.ContainsAny(d.ID, "\r\n") {
		return fmt.Errorf("disk id %q: it may not have line breaks", d.ID)
	}
	d.Path, err = filepath.Abs(d.Path)
	return err
}

// open locks the disk and opens it, and formats a new one. With readOnly nothing is written.
func (k *disk) open(o Options, cache *pebble.Cache, readOnly bool) (err error) {
	defer close(k.opened)
	defer func() {
		if err != nil {
			err = fmt.Errorf("disk %s at %s: %w", k.ID, k.Path, err)
		}
	}()
	if !k.Known {
		if err := os.MkdirAll(k.Path, 0o700); err != nil {
			return err
		}
	}
	if k.raw, err = o.FS(k.Path); err != nil {
		return err
	}
	k.fs = &watchedFS{FS: k.raw, k: k}
	flag := os.O_RDWR | os.O_CREATE
	if readOnly {
		flag = os.O_RDONLY
	}
	if k.lock, err = k.raw.OpenFile(lockName, flag, 0o600); err != nil {
		return err
	}
	if err = lockFile(k.lock.OS()); err != nil {
		return err
	}
	if err = k.format(); err != nil {
		return err
	}
	_, _, capacity, err := k.fs.Usage()
	if err != nil {
		return err
	}
	k.room = roomOf(capacity)
	if readOnly {
		k.become(DiskReadOnly, "its file system is read-only")
	}
	k.meta, err = k.openMeta(o, cache, readOnly)
	return err
}

// close closes a disk, once no call needs it any more. One that is out of use closes by itself.
func (k *disk) close() error {
	if k.isOut() {
		return nil
	}
	var errs []error
	if k.meta != nil {
		errs = append(errs, k.meta.close())
	}
	return errors.Join(append(errs, k.release())...)
}

// release gives the directory back.
func (k *disk) release() error {
	var errs []error
	if k.lock != nil {
		errs = append(errs, k.lock.Close())
	}
	if k.raw != nil {
		errs = append(errs, k.raw.Close())
	}
	return errors.Join(errs...)
}

// retire closes what there is to close of a disk that is out of use, as far as it can be: a device that hangs may never
// let go. It ends once that is done.
func (k *disk) retire() {
	defer close(k.closed)
	<-k.opened
	if k.lock != nil {
		_ = k.lock.Close() // nothing is written any more: it may be opened anew
	}
	close(k.unlocked)
	for k.uses.Load() > 0 {
		<-k.idle
	}
	if k.meta != nil {
		k.meta.abandon()
	}
	if k.raw != nil {
		_ = k.raw.Close()
	}
}

// use begins a call of the metadata engine; leave ends it.
func (k *disk) use() error {
	k.uses.Add(1)
	if k.isOut() {
		k.leave()
		return k.outError()
	}
	return nil
}

func (k *disk) leave() {
	if k.uses.Add(-1) == 0 && k.isOut() {
		select {
		case k.idle <- struct{}{}:
		default:
		}
	}
}

func (k *disk) path(id fileID) string { return filepath.Join(k.Path, filepath.FromSlash(id.path())) }

// newFileID draws an id and marks it busy until done is called.
func (k *disk) newFileID() fileID {
	var id fileID
	_, _ = rand.Read(id[:]) // never fails, by its documentation
	k.begin(id)
	return id
}

func (k *disk) begin(id fileID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.busy[id]++
}

func (k *disk) done(id fileID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.busy[id]--; k.busy[id] <= 0 {
		delete(k.busy, id)
	}
}

func (k *disk) isBusy(id fileID) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, ok := k.busy[id]
	return ok
}

// eachFile visits the files below data and tmp. A name that we did not give has ok false.
func (k *disk) eachFile(visit func(path string, id fileID, ok bool) error) error {
	top, err := k.fs.ReadDir(dataDir)
	if err != nil {
		return err
	}
	dirs := []string{tmpDir}
	for _, e := range top {
		if path := dataDir + "/" + e.Name(); e.IsDir() {
			dirs = append(dirs, path)
		} else if err := visit(path, fileID{}, false); err != nil {
			return err
		}
	}
	for _, dir := range dirs {
		entries, err := k.fs.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			path := dir + "/" + e.Name()
			id, ok := parseFileID(e.Name())
			if err := visit(path, id, ok && (path == id.path() || dir == tmpDir)); err != nil {
				return err
			}
		}
	}
	return nil
}
