package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"

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

func (k *disk) openMeta(opts Options, cache *pebble.Cache, readOnly bool) (*meta, error) {
	files := vfs.FS(vfs.Default)
	if opts.MetaFS != nil {
		files = opts.MetaFS(k.Path)
	}
	o := &pebble.Options{
		FS:                          &engineFS{FS: files, k: k},
		ReadOnly:                    readOnly,
		Cache:                       cache,
		MemTableSize:                metaMemTable,
		MemTableStopWritesThreshold: 3,
		MaxOpenFiles:                metaFiles,
		FormatMajorVersion:          pebble.FormatNewest,
		Logger:                      engineLog{opts.Logger.With("disk", k.ID, "part", "metadata"), k},
		CompactionConcurrencyRange:  func() (int, int) { return 1, 1 },
		EventListener: &pebble.EventListener{
			// By itself the engine would end the process.
			DataCorruption: func(i pebble.DataCorruptionInfo) {
				k.takeOut(DiskFailed, "metadata are damaged: "+i.String(), i.Details)
			},
		},
	}
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10) // a name is looked up on every disk
	}
	db, err := await(k, func() (*pebble.DB, error) { return pebble.Open(filepath.Join(k.Path, metaDir), o) },
		func(db *pebble.DB) { _ = db.Close() })
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

// abandon closes an engine that was cut off from its disk. It may have failed in any state: it may not end.
func (m *meta) abandon() {
	defer func() { _ = recover() }() // it finds itself in a state that it does not expect
	_ = m.db.Close()
}

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

// engineLog turns the engine's chatter into debug lines. After a fatal error, such as a failed write of its log, the
// engine expects the process to end. Here it is the disk that is out of use, and the goroutine that ends: all calls
// that change metadata have one of their own, and so has each of the engine's background tasks.
type engineLog struct {
	log *slog.Logger
	k   *disk
}

func (l engineLog) Infof(format string, args ...any) {
	if l.log.Enabled(context.Background(), slog.LevelDebug) {
		l.log.Debug(fmt.Sprintf(format, args...))
	}
}

func (l engineLog) Errorf(format string, args ...any) { l.log.Warn(fmt.Sprintf(format, args...)) }

func (l engineLog) Fatalf(format string, args ...any) {
	reason := fmt.Sprintf(format, args...)
	l.log.Error("metadata engine failed", "reason", reason)
	var cause error
	for _, a := range args {
		if err, ok := a.(error); ok {
			cause = err
		}
	}
	l.k.takeOut(DiskFailed, "metadata engine: "+reason, cause)
	runtime.Goexit()
}

// guard runs a change of the disk's metadata. Where the engine fails for good, the disk is out of use: what it holds
// then is decided by its log, when it is opened anew.
func (k *disk) guard(change func(db *pebble.DB) error) error {
	if err := k.use(); err != nil {
		return err
	}
	err := k.do(func() error { return change(k.meta.db) })
	k.leave()
	if errors.Is(err, errEngine) {
		k.takeOut(DiskFailed, err.Error(), err)
	}
	if err != nil && k.isOut() && !errors.Is(err, ErrDiskFailed) {
		return fmt.Errorf("%w: %w", k.outError(), err)
	}
	return k.full(err)
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
	if err := k.use(); err != nil {
		return nil, err
	}
	r, err := await(k, func() (*record, error) { return k.meta.get(key) }, nil)
	k.leave()
	if err != nil && k.isOut() && !errors.Is(err, ErrDiskFailed) {
		return nil, fmt.Errorf("%w: %w", k.outError(), err)
	}
	if err != nil {
		return nil, fmt.Errorf("disk %s: metadata: %w", k.ID, err)
	}
	if r != nil {
		r.info.Disk = k.ID
	}
	return r, nil
}
