package node

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/shardstream/shardstream/cluster/audit"
	"github.com/shardstream/shardstream/core/store"
)

// errWorkDisk ends a target whose own files (snapshots, environments, kept outputs) lie on a disk that is out of use or
// was removed: it starts anew with another. All of these files can be made again.
var errWorkDisk = errors.New("the disk with the node's own files is out of use")

// diskWatch passes on what the store tells of its disks.
type diskWatch struct {
	gone  chan struct{} // closed once the work disk is out of use
	audit atomic.Pointer[audit.Log]

	mu      sync.Mutex
	store   *store.Store
	work    string // id of the disk with the node's own files
	ended   bool
	changed func()
}

func newDiskWatch() *diskWatch { return &diskWatch{gone: make(chan struct{})} }

// begin picks the disk for the node's own files: the first that can be written.
func (w *diskWatch) begin(s *store.Store, disks []store.Disk) (dir string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.store = s
	for _, d := range disks {
		if writable(s, d.ID) {
			w.work = d.ID
			return d.Path, nil
		}
	}
	return "", errors.New("no disk can be written; see the log for what is wrong with each")
}

// tell has f called at each change from now on.
func (w *diskWatch) tell(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.changed = f
	f()
}

// onChange is the store's callback.
func (w *diskWatch) onChange() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.store != nil && !w.ended && !writable(w.store, w.work) && slices.ContainsFunc(w.store.Disks(), inUse) {
		w.ended = true
		close(w.gone)
	}
	if w.changed != nil {
		w.changed()
	}
}

// run ends with the context, or with errWorkDisk.
func (w *diskWatch) run(ctx context.Context) error {
	w.onChange() // one may have failed before
	select {
	case <-ctx.Done():
		return nil
	case <-w.gone:
		return errWorkDisk
	}
}

// writable says whether files can be written on a disk. A full one may have room again.
func writable(s *store.Store, id string) bool {
	return slices.ContainsFunc(s.Disks(), func(d store.DiskUsage) bool { return d.ID == id && inUse(d) })
}

func inUse(d store.DiskUsage) bool {
	return d.State == store.DiskOK || d.State == store.DiskFull || d.State == store.DiskLeaving
}

// removes writes down that the store is about to remove a file that no object claims.
func (w *diskWatch) removes(disk, file string) error {
	log := w.audit.Load()
	if log == nil {
		return errors.New("the audit log is not open yet")
	}
	return log.Record(audit.Entry{Action: audit.DropFile, Reason: "no object claims it, on disk " + disk, File: file})
}

func (c *Config) storeOptions(disks []store.Disk, watch *diskWatch) store.Options {
	return store.Options{
		Disks: disks, Logger: c.Logger, OnDiskChange: watch.onChange, StrayGrace: c.StrayGrace,
		ProbeEvery: c.ProbeEvery, ProbeTimeout: c.ProbeTimeout, Audit: watch.removes,
	}
}
