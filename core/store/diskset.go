package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// diskSet is the disks of a store. They come and go while it is open; who works on them takes a snapshot.
type diskSet struct {
	list   atomic.Pointer[[]*disk]
	change sync.Mutex // held by who replaces the list
	losses atomic.Uint64

	wake    chan struct{} // a disk went out of use
	retired sync.WaitGroup
	cancel  context.CancelFunc
	done    chan struct{} // closed at the end of the keeper
}

func (d *diskSet) init() {
	d.list.Store(&[]*disk{})
	d.wake = make(chan struct{}, 1)
}

// all are the disks, in use and out of use.
func (s *Store) all() []*disk { return *s.disks.list.Load() }

// disk finds a disk by its id.
func (s *Store) disk(id string) (*disk, error) {
	for _, k := range s.all() {
		if k.ID == id {
			return k, nil
		}
	}
	return nil, fmt.Errorf("disk %s: %w", id, ErrNoDisk)
}

// anyOut says whether a disk is out of use: it may hold older copies of objects, and come back.
func (s *Store) anyOut() bool {
	return slices.ContainsFunc(s.all(), func(k *disk) bool { return k.isOut() })
}

// replace puts a disk in the place of another, or at the end where old is nil; next nil: the other is gone. The caller
// holds disks.change.
func (s *Store) replace(old, next *disk) {
	var list []*disk
	for _, k := range s.all() {
		if k != old {
			list = append(list, k)
		} else if next != nil {
			list = append(list, next)
		}
	}
	if old == nil {
		list = append(list, next)
	}
	s.disks.list.Store(&list)
}

func (s *Store) openDisks() error {
	seen := map[string]bool{}
	disks := slices.Clone(s.o.Disks)
	for i := range disks {
		d := &disks[i]
		if err := checkDisk(d); err != nil {
			return err
		}
		if seen[d.ID] || seen[d.Path] {
			return fmt.Errorf("disk %s at %s is given twice", d.ID, d.Path)
		}
		seen[d.ID], seen[d.Path] = true, true
	}
	list := make([]*disk, len(disks))
	var g errgroup.Group
	for i, d := range disks {
		g.Go(func() (err error) {
			list[i], err = s.openFirst(d)
			return err
		})
	}
	err := g.Wait()
	list = slices.DeleteFunc(list, func(k *disk) bool { return k == nil })
	s.disks.list.Store(&list)
	return err
}

// openFirst opens a disk when the store opens. Of a known disk the error is told by its state.
func (s *Store) openFirst(d Disk) (*disk, error) {
	k := s.newDisk(d)
	if d.State == DiskDisabled {
		close(k.opened)
		k.takeOut(DiskDisabled, "disabled by hand", nil)
		return k, nil
	}
	err := k.open(s.o, s.engine, false)
	if err == nil {
		if d.State == DiskLeaving {
			k.become(DiskLeaving, "its objects are moved to the other disks")
		}
		return k, nil
	}
	if !d.Known || errors.Is(err, errNewerFormat) || errors.Is(err, errInUse) {
		return nil, errors.Join(err, k.close())
	}
	k.takeOut(DiskFailed, err.Error(), err)
	return k, nil
}

// usable is an error where all disks are out of use.
func (s *Store) usable() error {
	var reasons []error
	for _, k := range s.all() {
		if !k.isOut() || k.cond.Load().state == DiskDisabled {
			return nil
		}
		reasons = append(reasons, k.outError())
	}
	return errors.Join(reasons...)
}

// diskOut is told once of each disk that goes out of use.
func (s *Store) diskOut(k *disk) {
	c := k.cond.Load()
	s.log.Error("a disk is out of use; objects that only it has can't be read", "disk", k.ID, "path", k.Path, "state", c.state, "reason", c.reason)
	s.disks.retired.Go(k.retire)
	select {
	case s.disks.wake <- struct{}{}:
	default:
	}
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

// Disks says how the disks are.
func (s *Store) Disks() []DiskUsage {
	if s.enter() != nil {
		return nil
	}
	defer s.leave()
	var out []DiskUsage
	for _, k := range s.all() {
		out = append(out, k.usage())
	}
	return out
}

func (k *disk) usage() DiskUsage {
	free := int64(-1)
	if !k.isOut() {
		if _, f, _, err := k.fs.Usage(); err == nil {
			free = f
		}
	}
	c := k.cond.Load()
	u := DiskUsage{
		ID: k.ID, Path: k.Path, State: c.state, Reason: c.reason, Since: c.since,
		Used: k.lastUsed.Load(), Capacity: k.lastCapacity.Load(), Reserved: k.room.kept(forUsers),
	}
	if c.state == DiskOK && free >= 0 && free < u.Reserved+BlockSize {
		u.State, u.Reason = DiskFull, fmt.Sprintf("%d bytes are free, of which %d are reserved", free, u.Reserved)
	}
	return u
}

// Lost says in what respects the store may have less than it once had: disks that are out of use, and metadata that
// had to be rebuilt. Losses counts them as they happen, and never falls.
func (s *Store) Lost() []string {
	var out []string
	for _, k := range s.all() {
		switch {
		case k.isOut():
			out = append(out, k.outError().Error())
		case k.rebuilt:
			out = append(out, fmt.Sprintf("disk %s: its metadata had to be rebuilt", k.ID))
		}
	}
	return out
}

// Losses counts how often the store came to have less than it had; see Lost.
func (s *Store) Losses() uint64 { return s.disks.losses.Load() }

const (
	defaultProbeEvery   = 5 * time.Second
	defaultProbeTimeout = 20 * time.Second
	defaultStrayGrace   = time.Hour
)

// start begins to look after the disks, until stop.
func (d *diskSet) start(s *Store) {
	ctx, cancel := context.WithCancel(context.Background())
	d.cancel, d.done = cancel, make(chan struct{})
	go func() {
		defer close(d.done)
		s.keepDisks(ctx)
	}()
}

func (d *diskSet) stop() {
	if d.cancel != nil {
		d.cancel()
		<-d.done
	}
}

// closePatience bounds what Close waits for where a disk may never answer.
const closePatience = 5 * time.Second

// awaitRetired waits for what is left of disks that are out of use, for a while: one may hang.
func (d *diskSet) awaitRetired() {
	done := make(chan struct{})
	go func() { // ends with the last of them
		d.retired.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(closePatience):
	}
}

// awaitCalls waits for calls in progress; where a disk is out of use, and may hold one for ever, only for a while.
func (s *Store) awaitCalls() {
	done := make(chan struct{})
	go func() { // ends with the last call
		s.life.Lock()
		defer s.life.Unlock()
		close(done)
	}()
	var patience <-chan time.Time
	if s.anyOut() {
		patience = time.After(closePatience)
	}
	select {
	case <-done:
	case <-patience:
		s.log.Warn("closed while calls were still waiting for a disk that is out of use")
	}
}
