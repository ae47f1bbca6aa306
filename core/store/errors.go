package store

import (
	"errors"
	"fmt"
)

// Errors that a caller may compare with errors.Is.
var (
	// ErrNotFound is returned where no object of that name exists.
	ErrNotFound = errors.New("object not found")
	// ErrPrecondition is returned where a Condition did not hold; nothing was changed.
	ErrPrecondition = errors.New("precondition failed")
	// ErrSuperseded is returned for a copy that is older than, or the same as, what is there; nothing was changed.
	ErrSuperseded = errors.New("a newer version is there")
	// ErrStub is returned where an object's bytes are asked for that only its slices, or its origin, have.
	ErrStub = errors.New("the object is here without its bytes")
	// ErrLost is returned where an object's bytes are asked for that were found damaged here.
	ErrLost = errors.New("the copy here was damaged and is put aside; put it again from a good copy")
	// ErrSole is returned by Evict and Forget where the bytes are nowhere else: neither in slices nor at an origin.
	ErrSole = errors.New("the bytes are nowhere else: the copy can't be evicted")
	// ErrDiffers is returned for a copy of a version that is here, but not of the same object: it has another tag at its
	// origin, or other members than the description; nothing was changed.
	ErrDiffers = errors.New("it is not the object that was described: it has changed at its origin")
	// ErrDiscarded is returned by Commit where what was staged is gone: it was committed or discarded before.
	ErrDiscarded = errors.New("what was staged is gone")
	// ErrClosed is returned by a Store after its Close.
	ErrClosed = errors.New("store is closed")
	// ErrDiskFailed is returned where a disk is out of use, after an error or by hand, and what was asked for is on
	// none of the others: it may be there or not.
	ErrDiskFailed = errors.New("disk is out of use")
	// ErrNoDisk is returned for the id of a disk that the store does not have.
	ErrNoDisk = errors.New("no such disk")
	// ErrDiskExists is returned where a disk is added that the store has.
	ErrDiskExists = errors.New("the node has this disk already")
	// ErrDiskInUse is returned where a disk can't be removed yet: it has objects that could not be moved, or there is no
	// other disk to move them to.
	ErrDiskInUse = errors.New("disk holds objects")
)

// ChecksumError says that a body did not have the checksum that was promised for it.
type ChecksumError struct {
	Bucket, Name string
	Algorithm    string // "xxh3" or "crc32"
	Want, Got    uint64
}

func (e *ChecksumError) Error() string {
	return fmt.Sprintf("object %s/%s: body has %s %x, %x was promised; it was damaged on its way: send it again",
		e.Bucket, e.Name, e.Algorithm, e.Got, e.Want)
}

// ShortBodyError says that a body did not have the length that was promised for it.
type ShortBodyError struct {
	Bucket, Name string
	Want, Got    int64 // Got is Want+1 where more came: the rest was not read
}

func (e *ShortBodyError) Error() string {
	if e.Got > e.Want {
		return fmt.Sprintf("object %s/%s: body is longer than the %d bytes promised", e.Bucket, e.Name, e.Want)
	}
	return fmt.Sprintf("object %s/%s: body ended after %d of %d bytes; send it again", e.Bucket, e.Name, e.Got, e.Want)
}

// CorruptError says that a stored copy does not match its checksums. None of its bytes were served.
type CorruptError struct {
	Bucket, Name, Disk string
	Block              int64  // of the payload; -1 for the trailer
	Offset             int64  // of the damaged block or section in the file
	Detail             string // what is damaged
	cause              error
}

func (e *CorruptError) Unwrap() error { return e.cause }

func (e *CorruptError) Error() string {
	what := e.Detail
	if e.Block >= 0 {
		what = fmt.Sprintf("block %d (at byte %d)", e.Block, e.Offset)
	}
	if e.Detail != "" && e.Block >= 0 {
		what += ": " + e.Detail
	}
	return fmt.Sprintf("object %s/%s on disk %s is damaged: %s; put it again from a good copy",
		e.Bucket, e.Name, e.Disk, what)
}

// NoSpaceError says that a disk has no room for an object.
type NoSpaceError struct {
	Disk           string
	Used, Capacity int64 // bytes, of its file system
	Reserved       int64 // bytes that are kept free, for the cluster's own work and for metadata
	Err            error // of the system, or nil where room was found lacking beforehand
}

func (e *NoSpaceError) Error() string {
	return fmt.Sprintf("disk %s is full (%d of %d bytes used, %d reserved); delete objects or add a disk",
		e.Disk, e.Used, e.Capacity, e.Reserved)
}

func (e *NoSpaceError) Unwrap() error { return e.Err }

// NameError says why a bucket or object name is not allowed.
type NameError struct {
	Kind string // "bucket", "object" or "prefix"
	Name string
	Rule string // the rule that it breaks
}

func (e *NameError) Error() string {
	name := e.Name
	if len(name) > 80 {
		name = name[:80] + "..."
	}
	return fmt.Sprintf("bad %s name %q: %s", e.Kind, name, e.Rule)
}
