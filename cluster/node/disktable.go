package node

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/shardstream/shardstream/cluster/target"
	"github.com/shardstream/shardstream/core/store"
)

const diskTableFile = "disks.json"

// diskTable is which disks a target has: those that it was started with, those that were added while it ran, and not
// those that were removed. It is kept on each of the disks, so that any one of them tells of the others; the one with
// the highest version counts. A disk in it that is empty when the node starts is no new disk: it is not mounted, or it
// was wiped.
type diskTable struct {
	log   *slog.Logger
	given []string // directories that the node was started with

	mu      sync.Mutex
	content diskTableContent
	// usable says whether a disk can be written.
	usable func(id string) bool
	self   identity
}

type diskTableContent struct {
	Version int64       `json:"version"`
	Disks   []tableDisk `json:"disks"`
	// Removed are directories that the node is still started with.
	Removed []string `json:"removed,omitempty"`
}

type tableDisk struct {
	ID    string `json:"id"`
	Path  string `json:"path"`
	State string `json:"state,omitempty"`
}

// loadDiskTable reads the newest table that the given directories and those named there have.
func loadDiskTable(dirs []string, log *slog.Logger) (*diskTable, error) {
	t := &diskTable{log: log, usable: func(string) bool { return true }}
	for _, dir := range dirs {
		path, err := filepath.Abs(dir)
		if err != nil {
			return nil, fmt.Errorf("data directory %s: %w", dir, err)
		}
		t.given = append(t.given, path)
	}
	for more := t.given; len(more) > 0; {
		before := t.content.Version
		for _, dir := range more {
			if c, ok := t.read(dir); ok && c.Version > t.content.Version {
				t.content = c
			}
		}
		more = nil
		if t.content.Version > before {
			for _, d := range t.content.Disks {
				more = append(more, d.Path)
			}
		}
	}
	return t, nil
}

// read reads one directory's table. One that can't be read is as good as none: others have it too.
func (t *diskTable) read(dir string) (c diskTableContent, ok bool) {
	data, err := os.ReadFile(filepath.Join(dir, diskTableFile))
	if err == nil {
		err = json.Unmarshal(data, &c)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.log.Warn("a disk's list of disks can't be read; another's is used", "path", dir, "error", err)
	}
	return c, err == nil
}

// disks are those that the node is to open.
func (t *diskTable) disks() []store.Disk {
	var list []store.Disk
	for _, d := range t.content.Disks {
		list = append(list, store.Disk{ID: d.ID, Path: d.Path, State: d.State, Known: true})
	}
	if len(list) == 0 { // new, or of a release that kept no table
		list = disks(t.given)
		for i := range list {
			who, err := readIdentity(list[i].Path)
			list[i].Known = err == nil && !who.New
		}
		return list
	}
	for _, dir := range t.given {
		has := func(d store.Disk) bool { return d.Path == dir }
		if slices.ContainsFunc(list, has) || slices.Contains(t.content.Removed, dir) {
			continue
		}
		list = append(list, store.Disk{ID: freeID(list, dir), Path: dir})
	}
	place := func(d store.Disk) int { // as the node was started with them; the first has its own files
		if n := slices.Index(t.given, d.Path); n >= 0 {
			return n
		}
		return len(t.given)
	}
	slices.SortStableFunc(list, func(a, b store.Disk) int { return cmp.Compare(place(a), place(b)) })
	return list
}

func freeID(list []store.Disk, dir string) string {
	id := filepath.Base(dir)
	for n := 2; !target.ValidDiskID(id) || slices.ContainsFunc(list, func(d store.Disk) bool { return d.ID == id }); n++ {
		id = fmt.Sprintf("disk-%d", n)
	}
	return id
}

// Save implements target.DiskTable.
func (t *diskTable) Save(list []store.Disk) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	next := diskTableContent{Version: t.content.Version + 1}
	for _, d := range list {
		next.Disks = append(next.Disks, tableDisk{ID: d.ID, Path: d.Path, State: d.State})
	}
	for _, dir := range append(slices.Clone(t.given), t.content.Removed...) {
		has := func(d tableDisk) bool { return d.Path == dir }
		if !slices.ContainsFunc(next.Disks, has) && !slices.Contains(next.Removed, dir) {
			next.Removed = append(next.Removed, dir)
		}
	}
	data, err := json.MarshalIndent(next, "", "  ")
	if err != nil {
		return fmt.Errorf("keep the list of disks: %w", err)
	}
	written := 0
	var errs []error
	for _, d := range next.Disks {
		if !t.usable(d.ID) {
			continue
		}
		err := t.introduce(d.Path)
		if err == nil {
			err = writeFile(d.Path, diskTableFile, append(data, '\n'))
		}
		if err == nil {
			written++
		}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil || written == 0 {
		if written == 0 {
			return fmt.Errorf("keep the list of disks: no disk can be written: %w", err)
		}
		t.log.Warn("the list of disks could not be kept on all disks", "error", err)
	}
	t.content = next
	return nil
}

// introduce marks a directory as the node's, where it is not yet.
func (t *diskTable) introduce(dir string) error {
	_, err := readIdentity(dir)
	if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return writeIdentity(dir, t.self)
}

// paths are the directories of all disks that the node is to open.
func (t *diskTable) paths() []string {
	var dirs []string
	for _, d := range t.disks() {
		dirs = append(dirs, d.Path)
	}
	return dirs
}

// known says whether a directory is one that the table has.
func (t *diskTable) known(dir string) bool {
	return slices.ContainsFunc(t.content.Disks, func(d tableDisk) bool { return d.Path == dir })
}
