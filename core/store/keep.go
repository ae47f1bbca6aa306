package store

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"golang.org/x/sys/unix"
)

// keepDisks looks after the disks until the context ends: it tries each of them now and then, so that one that hangs or
// is gone is noticed when nobody uses it; it brings those back that can be; and it tells of changes.
func (s *Store) keepDisks(ctx context.Context) {
	var tick, sweep <-chan time.Time
	if s.o.ProbeEvery > 0 {
		t := time.NewTicker(s.o.ProbeEvery)
		defer t.Stop()
		tick = t.C
	}
	if s.o.StrayGrace > 0 {
		t := time.NewTicker(s.o.StrayGrace / 2)
		defer t.Stop()
		sweep = t.C
	}
	states := s.states()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.disks.wake:
			s.forgetOut()
		case <-tick:
			s.probeAll(ctx)
		case <-sweep:
			if _, err := s.CleanStrays(ctx, s.o.StrayGrace, false); err != nil && ctx.Err() == nil {
				s.log.Warn("files that no object claims could not all be looked for", "error", err)
			}
		}
		s.revive()
		if now := s.states(); now != states {
			states = now
			if s.o.OnDiskChange != nil {
				s.o.OnDiskChange()
			}
		}
	}
}

// states are the disks and how they are, to be compared.
func (s *Store) states() string {
	var b bytes.Buffer
	for _, k := range s.all() {
		u := k.usage()
		fmt.Fprintln(&b, u.ID, u.Path, u.State)
	}
	return b.String()
}

// forgetOut drops from memory what lies on disks that are out of use.
func (s *Store) forgetOut() {
	for _, k := range s.all() {
		if k.isOut() {
			s.cache.dropDisk(k)
		}
	}
}

// probeAll tries all disks at once, and takes those out that do not answer in time.
func (s *Store) probeAll(ctx context.Context) {
	var wait sync.WaitGroup
	for _, k := range s.all() {
		if k.isOut() {
			continue
		}
		done := make(chan struct{})
		wait.Go(func() {
			defer close(done)
			if err := k.probe(); err != nil && !k.isOut() {
				s.log.Warn("a disk was tried and failed", "disk", k.ID, "error", err)
			}
		})
		wait.Go(func() {
			late := time.NewTimer(s.o.ProbeTimeout)
			defer late.Stop()
			select {
			case <-done:
			case <-ctx.Done(): // the probe ends with the disk's answer, or when it is found out of use
			case <-late.C:
				k.takeOut(DiskFailed, fmt.Sprintf("it did not answer for %v", s.o.ProbeTimeout), unix.ETIMEDOUT)
			}
		})
	}
	wait.Wait()
}

const probeBytes = 4096

// probe writes, syncs and reads a small file and the metadata's log. What it meets is taken note of on the way.
func (k *disk) probe() error {
	if err := k.do(k.present); err != nil {
		if !errors.Is(err, ErrDiskFailed) {
			k.takeOut(DiskFailed, err.Error(), err)
		}
		return err
	}
	if k.cond.Load().state == DiskReadOnly {
		return nil
	}
	if _, free, _, err := k.fs.Usage(); err != nil || free < probeBytes {
		return err // a full disk has nothing wrong with it
	}
	if err := k.probeFile(); err != nil {
		return err
	}
	return k.guard(func(db *pebble.DB) error { return db.LogData([]byte(probeName), pebble.Sync) })
}

func (k *disk) probeFile() error {
	f, err := k.fs.OpenFile(probeName, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	written, read := make([]byte, probeBytes), make([]byte, probeBytes)
	_, _ = rand.Read(written) // never fails, by its documentation
	_, err = f.WriteAt(written, 0)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		_, err = await(k, func() (int, error) { return f.ReadAt(read, 0) }, nil)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if !bytes.Equal(written, read) {
		err = errors.New("it gave back other bytes than were written")
		k.takeOut(DiskFailed, err.Error(), err)
	}
	return err
}

// revive brings disks back that were taken out for a reason that passes: one whose file system was made read-only, or
// was so full that not even metadata could be written, is read until it can be written again.
func (s *Store) revive() {
	for _, k := range s.all() {
		c := k.cond.Load()
		switch {
		case c.state == DiskFailed && (errors.Is(c.cause, unix.EROFS) || noSpace(c.cause)):
			if err := s.reopen(k, true); err != nil {
				s.log.Warn("the disk can't be read either", "disk", k.ID, "error", err)
				k.cond.CompareAndSwap(c, &condition{state: DiskFailed, reason: c.reason, cause: err, since: c.since})
			}
		case c.state == DiskReadOnly && k.takesWrites():
			k.takeOut(DiskFailed, "it is opened anew", nil)
			if err := s.reopen(k, false); err != nil {
				s.log.Error("the disk could not be opened anew", "disk", k.ID, "error", err)
			}
		}
	}
}

// takesWrites tries whether a disk that is read-only could be written again.
func (k *disk) takesWrites() bool {
	if _, free, capacity, err := k.fs.Usage(); err != nil || free < roomOf(capacity).reserve {
		return false
	}
	err := k.do(func() error {
		f, err := k.raw.OpenFile(probeName, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			return err
		}
		_, err = f.WriteAt([]byte(probeName), 0)
		return errors.Join(err, f.Sync(), f.Close())
	})
	return err == nil
}

// reopenPatience bounds the wait for a disk that is out of use to be let go, and the one that is opened in its place.
const reopenPatience = 30 * time.Second

// reopen opens a disk that is out of use anew, in its own place.
func (s *Store) reopen(old *disk, readOnly bool) error {
	d := old.Disk
	d.Known, d.State = true, ""
	return s.mount(old, d, readOnly)
}

// mount opens a disk and puts it in the place of old, or beside the others where that is nil.
func (s *Store) mount(old *disk, d Disk, readOnly bool) error {
	s.disks.change.Lock()
	defer s.disks.change.Unlock()
	if old != nil {
		select {
		case <-old.unlocked:
		case <-time.After(reopenPatience):
			return fmt.Errorf("disk %s still hangs: %w", old.ID, ErrDiskFailed)
		}
	}
	k := s.newDisk(d)
	late := time.AfterFunc(reopenPatience, func() { k.takeOut(DiskFailed, "it does not answer", unix.ETIMEDOUT) })
	err := k.open(s.o, s.engine, readOnly)
	late.Stop()
	if err == nil && !readOnly {
		err = s.prepare(k)
	}
	if err == nil && old == nil {
		err = k.vacant()
	}
	if err == nil && k.isOut() {
		err = k.outError()
	}
	if err != nil {
		return errors.Join(err, k.close())
	}
	s.replace(old, k)
	s.log.Info("a disk is in use", "disk", k.ID, "path", k.Path, "state", k.cond.Load().state)
	return s.settle(k)
}
