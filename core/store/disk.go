package store

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
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

	formatLine = "shardstream disk 1" // first line of FORMAT; the second is "id: <disk id>"
)

// maxReserve is the room that PUTs leave on a disk, so that its metadata can still be written and
// objects deleted when it is full. Small disks keep an eighth.
const maxReserve = 32 << 20

// disk is one open disk.
type disk struct {
	Disk
	fs      FS
	lock    File
	meta    *meta
	reserve int64
	failed  atomic.Bool

	mu   sync.Mutex
	busy map[fileID]int // files on their way in or out, by how many calls: neither debris nor strays
}

// openDisk locks and opens a disk, and formats a new one.
func openDisk(d Disk, o Options, cache *pebble.Cache) (_ *disk, err error) {
	if d.ID == "" || d.Path == "" {
		return nil, fmt.Errorf("disk %q at %q: both an id and a path are needed", d.ID, d.Path)
	}
	if strings.ContainsAny(d.ID, "\r\n") {
		return nil, fmt.Errorf("disk id %q: it may not have line breaks", d.ID)
	}
	if d.Weight <= 0 {
		d.Weight = 1
	}
	if d.Path, err = filepath.Abs(d.Path); err != nil {
		return nil, err
	}
	k := &disk{Disk: d, busy: map[fileID]int{}}
	defer func() {
		if err != nil {
			err = fmt.Errorf("disk %s at %s: %w", d.ID, d.Path, errors.Join(err, k.close()))
		}
	}()
	if err = os.MkdirAll(d.Path, 0o700); err != nil {
		return nil, err
	}
	if k.fs, err = o.FS(d.Path); err != nil {
		return nil, err
	}
	if k.lock, err = k.fs.OpenFile(lockName, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, err
	}
	if err = lockFile(k.lock.OS()); err != nil {
		return nil, err
	}
	if err = k.format(); err != nil {
		return nil, err
	}
	_, _, capacity, err := k.fs.Usage()
	if err != nil {
		return nil, err
	}
	k.reserve = min(maxReserve, capacity/8)
	var files vfs.FS
	if o.MetaFS != nil {
		files = o.MetaFS(d.Path)
	}
	k.meta, err = openMeta(filepath.Join(d.Path, metaDir), d.ID, o.Logger, cache, files)
	return k, err
}

// format checks the FORMAT file, or makes a new disk.
func (k *disk) format() error {
	f, err := k.fs.OpenFile(formatName, os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return k.formatNew()
	}
	if err != nil {
		return err
	}
	text, err := io.ReadAll(io.NewSectionReader(f, 0, 4096))
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	first, rest, _ := strings.Cut(string(text), "\n")
	if first != formatLine {
		return fmt.Errorf("its %s file says %q; this release reads %q: it was written by a newer release",
			formatName, first, formatLine)
	}
	id, _, _ := strings.Cut(strings.TrimPrefix(rest, "id: "), "\n")
	if id != k.ID {
		return fmt.Errorf("it was formatted as disk %s: is the wrong disk mounted there?", id)
	}
	return nil
}

// formatNew makes an empty directory a disk. FORMAT comes last: with it the disk is whole.
func (k *disk) formatNew() error {
	entries, err := k.fs.ReadDir(".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		switch e.Name() {
		case dataDir, tmpDir, lockName, "lost+found": // of an earlier attempt
		default:
			return fmt.Errorf("it is not empty (%s) and has no %s file: give an empty directory", e.Name(), formatName)
		}
	}
	dirs := []string{tmpDir, dataDir}
	for i := range 256 {
		dirs = append(dirs, fmt.Sprintf("%s/%02x", dataDir, i))
	}
	for _, dir := range dirs {
		if err := k.fs.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	if err := k.fs.SyncDir(dataDir); err != nil {
		return err
	}
	tmp := tmpDir + "/" + formatName
	f, err := k.fs.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(formatLine+"\nid: "+k.ID+"\n"), 0)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := k.fs.Rename(tmp, formatName); err != nil {
		return err
	}
	return k.fs.SyncDir(".")
}

func (k *disk) close() error {
	var errs []error
	if k.meta != nil && !k.failed.Load() { // a failed engine may hold its locks for ever
		errs = append(errs, k.meta.close())
	}
	if k.lock != nil {
		errs = append(errs, k.lock.Close())
	}
	if k.fs != nil {
		errs = append(errs, k.fs.Close())
	}
	return errors.Join(errs...)
}

// full makes an error of the file system a *NoSpaceError where it is one.
func (k *disk) full(err error) error {
	var already *NoSpaceError
	if err == nil || !noSpace(err) || errors.As(err, &already) {
		return err
	}
	return k.noSpaceError(err)
}

func (k *disk) noSpaceError(cause error) error {
	used, _, capacity, err := k.fs.Usage()
	if err != nil {
		used, capacity = 0, 0
	}
	return &NoSpaceError{Disk: k.ID, Used: used, Capacity: capacity, Err: cause}
}

// room says by a *NoSpaceError that n more bytes would eat into the reserve.
func (k *disk) room(n int64) error {
	_, free, _, err := k.fs.Usage()
	if err != nil {
		return fmt.Errorf("disk %s: %w", k.ID, err)
	}
	if free-n < k.reserve {
		return k.noSpaceError(nil)
	}
	return nil
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
