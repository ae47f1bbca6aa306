// Package audit keeps the log of what nodes delete of their own accord: not what a user deleted, but copies that were
// moved, tombstones that have done their service, files that nobody named. A line is on disk before anything is gone,
// so that whoever misses something can see what was deleted, when, why, and by what proof that it was safe.
package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Name is the current log's, below the directory that it is kept in. Older ones have a number behind it: the higher,
// the older.
const Name = "deletes.jsonl"

const (
	maxSize = 16 << 20
	maxOld  = 8
)

// Entry is a line of the log.
type Entry struct {
	Time    time.Time `json:"time"`
	Node    string    `json:"node"`
	Action  string    `json:"action"` // what is deleted: see the constants
	Reason  string    `json:"reason"`
	Object  string    `json:"object,omitempty"` // ss://bucket/key
	Version uint64    `json:"version,omitempty"`
	Size    int64     `json:"size,omitempty"`
	File    string    `json:"file,omitempty"`
	Map     int64     `json:"map,omitempty"` // version of the map that it was decided by
	// Proof is who has the object, and in which version, as they answered just before.
	Proof map[string]uint64 `json:"proof,omitempty"`
}

// Actions.
const (
	DropCopy      = "drop_copy"      // of an object, that belongs elsewhere and is there
	DropTombstone = "drop_tombstone" // of a deletion that all know of
	DropSlice     = "drop_slice"     // of an erasure-coded object
	DropFile      = "drop_file"      // that is no object's
)

// Log is a node's audit log. Its methods may be called from any goroutine.
type Log struct {
	dir, node string

	mu   sync.Mutex
	file *os.File
	size int64
}

// Open opens the log in a directory, which is made where it does not exist.
func Open(dir, node string) (*Log, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	l := &Log{dir: dir, node: node}
	return l, l.open()
}

func (l *Log) open() error {
	f, err := os.OpenFile(l.path(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(fmt.Errorf("audit log: %w", err), f.Close())
	}
	l.file, l.size = f, info.Size()
	return nil
}

func (l *Log) path() string { return filepath.Join(l.dir, Name) }

// Record writes a batch of entries and returns when they are on disk. What they announce may be done only then.
func (l *Log) Record(entries ...Entry) error {
	if len(entries) == 0 {
		return nil
	}
	var lines []byte
	now := time.Now().UTC()
	for _, e := range entries {
		e.Time, e.Node = now, l.node
		line, err := json.Marshal(e)
		if err != nil {
			return fmt.Errorf("audit log: %w", err)
		}
		lines = append(append(lines, line...), '\n')
	}
	_, err := l.Write(lines)
	return err
}

// Write adds whole lines, and returns when they are on disk.
func (l *Log) Write(lines []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return 0, fmt.Errorf("audit log: %w", os.ErrClosed)
	}
	if l.size > 0 && l.size+int64(len(lines)) > maxSize {
		if err := l.rotate(); err != nil {
			return 0, err
		}
	}
	n, err := l.file.Write(lines)
	if err == nil {
		err = l.file.Sync()
	}
	if err != nil { // half a line, as on a full disk, would spoil the next one
		return n, fmt.Errorf("audit log: %w", errors.Join(err, l.file.Truncate(l.size)))
	}
	l.size += int64(n)
	return n, nil
}

// Logger is for those who know of nothing but loggers: each of its records is a line of the log.
func (l *Log) Logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(l, nil)).With("node", l.node)
}

// rotate moves each log one number on; the oldest goes. The caller holds mu.
func (l *Log) rotate() error {
	numbered := func(n int) string { return fmt.Sprintf("%s.%d", l.path(), n) }
	err := os.Remove(numbered(maxOld))
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	for n := maxOld - 1; n >= 1 && err == nil; n-- {
		if err = os.Rename(numbered(n), numbered(n+1)); errors.Is(err, os.ErrNotExist) {
			err = nil
		}
	}
	if err == nil {
		err = os.Rename(l.path(), numbered(1))
	}
	if err != nil {
		return fmt.Errorf("audit log: rotate: %w", err)
	}
	old := l.file
	if err := l.open(); err != nil {
		return err
	}
	return old.Close()
}

// Close closes the log. Closing twice does nothing.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	return err
}
