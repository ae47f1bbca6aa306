package store

import (
	"errors"
	"fmt"
)

// Room that is kept free on a disk. Small disks keep an eighth and a sixteenth.
const (
	// maxReserve is kept for metadata: so that objects can be deleted when the disk is full.
	maxReserve = 32 << 20
	// maxHeadroom is kept for the cluster's own work beside that: copies that are missing are made before users' new
	// objects take the last of the room.
	maxHeadroom = 8 << 30
)

// room is what is kept free on a disk.
type room struct{ reserve, headroom int64 }

func roomOf(capacity int64) room {
	return room{reserve: min(maxReserve, capacity/8), headroom: min(maxHeadroom, capacity/16)}
}

// purpose says what an object's room is wanted for.
type purpose int

const (
	forUsers    purpose = iota
	forCluster          // copies that are made to heal or move data, and outputs of transformations
	forMetadata         // a record without a file
)

func (r room) kept(p purpose) int64 {
	switch p {
	case forUsers:
		return r.reserve + r.headroom
	case forCluster:
		return r.reserve
	default:
		return 0
	}
}

// purpose is what the put is for.
func (o *PutOptions) purpose() purpose {
	if o.Internal {
		return forCluster
	}
	return forUsers
}

// full makes an error of the file system a *NoSpaceError where it is one.
func (k *disk) full(err error) error {
	var already *NoSpaceError
	if err == nil || !noSpace(err) || errors.As(err, &already) {
		return err
	}
	return k.noSpaceError(0, err)
}

func (k *disk) noSpaceError(kept int64, cause error) error {
	used, _, capacity, err := k.fs.Usage()
	if err != nil {
		used, capacity = 0, 0
	}
	return &NoSpaceError{Disk: k.ID, Used: used, Capacity: capacity, Reserved: kept, Err: cause}
}

// hasRoom says by a *NoSpaceError that n more bytes would eat into what is kept free.
func (k *disk) hasRoom(n int64, p purpose) error {
	if p == forMetadata {
		return nil
	}
	_, free, _, err := k.fs.Usage()
	if err != nil {
		return fmt.Errorf("disk %s: %w", k.ID, err)
	}
	if kept := k.room.kept(p); free-n < kept {
		return k.noSpaceError(kept, nil)
	}
	return nil
}
