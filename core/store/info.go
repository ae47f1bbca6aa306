package store

import (
	"time"

	"github.com/shardstream/shardstream/core/archive"
)

// Info describes one version of an object.
type Info struct {
	Bucket, Name string
	Version      uint64 // rises with each Put of the name
	Size         int64
	XXH3         uint64 // of the whole object
	CRC32        uint32 // IEEE, of the whole object
	Created      time.Time
	ContentType  string
	Meta         map[string]string // shared, not to be changed

	Archive                     archive.Format
	Members, Samples, MaxSample int64 // of an indexed archive; MaxSample in bytes

	// Kind is what this copy of the object is; the rest is of erasure-coded objects, 0 elsewhere: into how many slices
	// they are cut, and which one this is.
	Kind                Kind
	Data, Parity, Slice int

	Disk string
}

// Kind is what a copy holds.
type Kind uint8

// Kinds of copies. A stub is all that there is to know of an object but its bytes, which are elsewhere: in slices where
// Data is not 0, else at its origin (see OriginTag). A whole copy of such an object can be made a stub (see Evict). A
// tombstone says that the object was deleted.
// Lost is what remains of a copy that was damaged (see Quarantine): the object exists, its bytes are elsewhere or nowhere.
const (
	Whole Kind = iota
	Tombstone
	Stub
	Slice
	Lost
)

// Payload is the number of bytes that the copy's data file holds of the object.
func (i *Info) Payload() int64 {
	if i.Kind == Whole || i.Kind == Slice {
		return i.Size
	}
	return 0
}

// PutOptions describe a Put of a copy of this very version, elsewhere or here again: its bytes are checked, as far as
// they are known.
func (i *Info) PutOptions() PutOptions {
	o := PutOptions{
		Size: i.Size, ContentType: i.ContentType, Meta: i.Meta, XXH3: &i.XXH3, CRC32: &i.CRC32, Archive: i.Archive,
		Version: i.Version, Created: i.Created, Data: i.Data, Parity: i.Parity,
	}
	if i.Unread() {
		o.XXH3, o.CRC32 = nil, nil
	}
	return o
}
