// Package archive knows what is inside an archive that is stored as one object: where each
// member lies, how long it is, its checksum, and which members form a sample.
//
// An Indexer watches an archive stream past once, in chunks of any size, and yields an Index:
// flat, immutable, safe for concurrent use, and free of allocation when it is read. The package
// reads no files and keeps no member data; it knows nothing of where an object is stored.
//
// Samples follow the WebDataset convention. A member's base name is cut at its first dot: what
// stands before it, with the directory, is the sample's key; what follows is the field. Members
// with no such name (no dot, or a leading one, as "README" or "._a.jpg") can be looked up but
// belong to no sample.
package archive

import (
	"fmt"
	"strings"
)

// Format is a kind of archive.
type Format string

// The formats. None is an object that is kept as opaque bytes.
const (
	None Format = ""
	Tar  Format = "tar"
)

// FormatOf tells an object's format by the extension of its name.
func FormatOf(name string) Format {
	const ext = ".tar"
	if len(name) > len(ext) && strings.EqualFold(name[len(name)-len(ext):], ext) {
		return Tar
	}
	return None
}

// FormatError says why an archive, or the binary form of an index, was refused.
type FormatError struct {
	Offset int64 // of the damage, in bytes from the start
	Reason string
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("bad archive at byte %d: %s", e.Offset, e.Reason)
}

// Bounds that keep a hostile archive from taking memory. They are far above real data sets.
const (
	maxName      = 4096    // bytes of one member name
	maxExtension = 1 << 20 // bytes of one pax or GNU long-name record, as archive/tar has it
	maxMembers   = 1 << 27
	maxNames     = 1 << 31 // bytes of all member names
)
