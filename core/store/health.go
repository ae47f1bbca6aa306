package store

import (
	"errors"
	"fmt"
	"io/fs"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// States of a disk. What is out of use is not asked for anything: objects that are found on no other disk can't be
// told from those that are not there, so that they are ErrDiskFailed and not ErrNotFound.
const (
	DiskOK       = "ok"
	DiskFull     = "full"     // in use, but new objects go to other disks until there is room
	DiskReadOnly = "readonly" // read, but not written: the system mounted it so, or made it so after an error
	DiskLeaving  = "leaving"  // read, and objects are moved off it
	DiskFailed   = "failed"   // out of use after an error
	DiskDisabled = "disabled" // out of use by hand
)

// condition is how a disk is, and why.
type condition struct {
	state  string
	reason string
	cause  error // of a disk that failed
	since  time.Time
}

func (c *condition) out() bool { return c.state == DiskFailed || c.state == DiskDisabled }

// isOut says whether the disk is out of use. It never comes back: a disk that is used again is another *disk.
func (k *disk) isOut() bool { return k.cond.Load().out() }

// outError is the error of what needs a disk that is out of use.
func (k *disk) outError() error {
	c := k.cond.Load()
	return fmt.Errorf("disk %s: %w: %s", k.ID, ErrDiskFailed, c.reason)
}

// takeOut puts the disk out of use, once: calls under way are given up, and nothing is written to it any more.
func (k *disk) takeOut(state, reason string, cause error) {
	next := &condition{state: state, reason: reason, cause: cause, since: k.now()}
	if !k.isOut() {
		k.losses.Add(1) // before anybody can miss what the disk has
	}
	for {
		c := k.cond.Load()
		if c.out() {
			return
		}
		if k.cond.CompareAndSwap(c, next) {
			break
		}
	}
	close(k.gone)
	k.tell(k)
}

// become changes the state of a disk that is in use.
func (k *disk) become(state, reason string) bool {
	for {
		c := k.cond.Load()
		if c.out() {
			return false
		}
		if k.cond.CompareAndSwap(c, &condition{state: state, reason: reason, since: k.now()}) {
			return true
		}
	}
}

// writable says whether new objects may be put on the disk.
func (k *disk) writable() error {
	switch c := k.cond.Load(); c.state {
	case DiskFailed, DiskDisabled:
		return k.outError()
	case DiskReadOnly, DiskLeaving:
		return fmt.Errorf("disk %s is %s: %w", k.ID, c.state, ErrDiskFailed)
	}
	return nil
}

// await runs what may block on the disk, and gives up on it once the disk is out of use. What was begun may still
// happen then, whenever the disk answers; undo is told of its result.
func await[T any](k *disk, f func() (T, error), undo func(T)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	var settled atomic.Bool // by who is first: the call with its result, or the caller who gives it up
	go func() {             // ends with f: where a disk hangs, when it answers
		r := result{err: errEngine}
		defer func() {
			if p := recover(); p != nil {
				r.err = fmt.Errorf("%w: %v", errEngine, p)
			}
			if settled.CompareAndSwap(false, true) {
				done <- r
			} else if r.err == nil && undo != nil {
				undo(r.value)
			}
		}()
		r.value, r.err = f()
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-k.gone:
	}
	select {
	case r := <-done:
		return r.value, r.err
	case <-time.After(goneGrace):
	}
	if settled.CompareAndSwap(false, true) {
		var none T
		return none, k.outError()
	}
	r := <-done
	return r.value, r.err
}

// goneGrace is how long a call that the disk may still answer is waited for once the disk is out: most often it is the
// one whose error took the disk out, and it has more to say than that.
const goneGrace = 50 * time.Millisecond

// do is await for what has no result.
func (k *disk) do(f func() error) error {
	_, err := await(k, func() (struct{}, error) { return struct{}{}, f() }, nil)
	return err
}

// errEngine is the error of a call during which the metadata engine gave up.
var errEngine = errors.New("metadata engine failed")

// deviceErrors are those by which a system says that the device, or the way to it, is broken.
var deviceErrors = []error{
	unix.EIO, unix.ENXIO, unix.ENODEV, unix.ESTALE, unix.ENOTCONN, unix.ESHUTDOWN, unix.ETIMEDOUT,
	unix.EBADMSG, unix.ECONNABORTED,
}

func deviceError(err error) bool {
	for _, e := range deviceErrors {
		if errors.Is(err, e) {
			return true
		}
	}
	return systemDeviceError(err)
}

// sawWrite takes note of how a change of the disk went. An error that took the disk out of use is ErrDiskFailed too.
func (k *disk) sawWrite(what string, err error) error {
	switch {
	case err == nil || noSpace(err):
		return err
	case k.isOut():
	case errors.Is(err, unix.EROFS):
		k.takeOut(DiskFailed, what+": the file system is read-only", err)
	case deviceError(err):
		k.takeOut(DiskFailed, fmt.Sprintf("%s: %v", what, err), err)
	case (errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR)) && k.formatted:
		if bad := k.present(); bad != nil {
			k.takeOut(DiskFailed, bad.Error(), bad)
		}
	}
	if k.isOut() && !errors.Is(err, ErrDiskFailed) {
		return fmt.Errorf("disk %s: %w: %s: %w", k.ID, ErrDiskFailed, what, err)
	}
	return err
}

// sawSync takes note of how an fsync went. After one that failed nobody knows what is on the disk: it is never tried
// again, and the disk is out of use, unless it was full.
func (k *disk) sawSync(err error) error {
	if err != nil && !noSpace(err) && !errors.Is(err, unix.EROFS) {
		k.takeOut(DiskFailed, fmt.Sprintf("fsync: %v", err), err)
	}
	return k.sawWrite("fsync", err)
}

// Files of a disk that can't be read, one after the other, before the disk is out of use.
const (
	maxUnreadable    = 8
	unreadableWindow = time.Hour
)

// sawRead takes note of how a read of a data file went. That the device can't read it is damage of the file; where
// several files have it, the disk is out of use.
func (k *disk) sawRead(file string, at int64, err error) error {
	if err == nil || !deviceError(err) {
		return err
	}
	k.mu.Lock()
	now := k.now()
	for f, t := range k.unreadable {
		if now.Sub(t) > unreadableWindow {
			delete(k.unreadable, f)
		}
	}
	k.unreadable[file] = now
	many := len(k.unreadable) >= maxUnreadable
	k.mu.Unlock()
	if many {
		k.takeOut(DiskFailed, fmt.Sprintf("%d files can't be read: %v", maxUnreadable, err), err)
	}
	return &damage{block: -1, offset: at, detail: fmt.Sprintf("the disk can't read it: %v", err), cause: err}
}

func (d *damage) Unwrap() error { return d.cause }
