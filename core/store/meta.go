package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// meta is a disk's metadata: names to records, in an embedded key-value engine.
type meta struct{ db *pebble.DB }

// Several disks a process and several processes a machine: the engine gets little memory. Its data is
// small (some 200 bytes an object), and warm reads do not come here.
const (
	metaCache    = 8 << 20 // shared by all disks of a store
	metaMemTable = 2 << 20
	metaFiles    = 64
)

func openMeta(path, diskID string, log *slog.Logger, cache *pebble.Cache, files vfs.FS) (*meta, error) {
	o := &pebble.Options{
		FS:                          files,
		Cache:                       cache,
		MemTableSize:                metaMemTable,
		MemTableStopWritesThreshold: 3,
		MaxOpenFiles:                metaFiles,
		FormatMajorVersion:          pebble.FormatNewest,
		Logger:                      engineLog{log.With("disk", diskID, "part", "metadata")},
		CompactionConcurrencyRange:  func() (int, int) { return 1, 1 },
	}
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10) // a name is looked up on every disk
	}
	db, err := pebble.Open(path, o)
	if err != nil {
		return nil, fmt.Errorf("open metadata: %w", err)
	}
	return &meta{db: db}, nil
}

// readyKey is set once the metadata is known to cover the disk's data files. Without it, as on a new disk
// or where someone removed the metadata, they are rebuilt from the files.
var readyKey = []byte("ready")

func (m *meta) ready() (bool, error) {
	_, closer, err := m.db.Get(readyKey)
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, closer.Close()
}

func (m *meta) close() error { return m.db.Close() }

// get returns nil where there is no record.
func (m *meta) get(key []byte) (*record, error) {
	value, closer, err := m.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil //nolint:nilnil // absence is an answer here
	}
	if err != nil {
		return nil, err
	}
	r, err := decodeRecord(value)
	return r, errors.Join(err, closer.Close())
}

// engineLog turns the engine's chatter into debug lines. A fatal error, such as a failed write of its
// log, unwinds the stack up to guard.
type engineLog struct{ log *slog.Logger }

// engineFailed is thrown where the engine would end the process.
type engineFailed struct{ reason string }

func (e *engineFailed) Error() string { return "metadata engine: " + e.reason }

func (l engineLog) Infof(format string, args ...any) {
	if l.log.Enabled(context.Background(), slog.LevelDebug) {
		l.log.Debug(fmt.Sprintf(format, args...))
	}
}

func (l engineLog) Errorf(format string, args ...any) { l.log.Warn(fmt.Sprintf(format, args...)) }

func (l engineLog) Fatalf(format string, args ...any) {
	reason := fmt.Sprintf(format, args...)
	l.log.Error("metadata engine failed", "reason", reason)
	panic(&engineFailed{reason: reason})
}

// guard runs a change of the disk's metadata. Where the engine fails for good, the disk is out of use
// until the process starts anew (the engine may still hold its locks): what it holds then is decided by its log.
func (k *disk) guard(change func(db *pebble.DB) error) (err error) {
	if k.failed.Load() {
		return fmt.Errorf("disk %s: %w", k.ID, ErrDiskFailed)
	}
	defer func() {
		if p := recover(); p != nil {
			k.failed.Store(true)
			err = fmt.Errorf("disk %s: %w: %v", k.ID, ErrDiskFailed, p)
		}
	}()
	return k.full(change(k.meta.db))
}

func (k *disk) setRecord(key []byte, r *record) error {
	return k.guard(func(db *pebble.DB) error { return db.Set(key, r.encode(), pebble.Sync) })
}

// dropRecords removes records, durably.
func (k *disk) dropRecords(keys ...[]byte) error {
	return k.guard(func(db *pebble.DB) error {
		b := db.NewBatch()
		for _, key := range keys {
			if err := b.Delete(key, nil); err != nil {
				return errors.Join(err, b.Close())
			}
		}
		return b.Commit(pebble.Sync)
	})
}

// record looks a name up on this disk; nil: not there.
func (k *disk) record(key []byte) (*record, error) {
	if k.failed.Load() {
		return nil, fmt.Errorf("disk %s: %w", k.ID, ErrDiskFailed)
	}
	r, err := k.meta.get(key)
	if err != nil {
		return nil, fmt.Errorf("disk %s: metadata: %w", k.ID, err)
	}
	if r != nil {
		r.info.Disk = k.ID
	}
	return r, nil
}
