// Package backend reads and writes objects where they are kept outside of the cluster: in S3, GCS, Azure, HDFS, on a
// web server. One interface hides which it is; the packages below it implement it by the vendors' clients.
//
// Implementations do one request a call and say what went wrong in the terms of this package. Repeating, resuming,
// checking and slowing down is for WithRetries, once for all of them.
package backend

import (
	"context"
	"io"
	"iter"
	"time"
)

// Backend is a place that has objects under names, below the prefix of its URL. Its methods may be called from any
// goroutine. Errors are *Error.
type Backend interface {
	// List yields the objects whose names begin with prefix and are greater than after, in the byte order of their
	// names. It ends with the first error.
	List(ctx context.Context, prefix, after string) iter.Seq2[Entry, error]
	// Stat describes an object.
	Stat(ctx context.Context, name string) (Entry, error)
	// Open reads an object, or a range of it. The body ends with an error, never early without one.
	Open(ctx context.Context, name string, o OpenOptions) (*Body, error)
	// Put stores size bytes of body under a name, whole or not at all, and describes what is there then.
	Put(ctx context.Context, name string, body io.ReadSeeker, size int64, o PutOptions) (Entry, error)
	// Delete removes an object. That there is none is no error.
	Delete(ctx context.Context, name string) error
	// Close frees connections.
	Close() error
}

// Entry describes an object as its backend knows it. A listing may leave out what only Stat tells: the content type and
// the checksums.
type Entry struct {
	Name     string    `json:"name"` // without the prefix of the backend's URL
	Size     int64     `json:"size"` // -1 where the backend does not say
	Modified time.Time `json:"modified,omitzero"`
	// Tag names the object's bytes: another tag, other bytes. It is the same from List, Stat and Open: an ETag, a
	// generation, or what is as good; "" where the backend has nothing of the kind.
	Tag         string `json:"tag,omitempty"`
	ContentType string `json:"content_type,omitempty"`
	Sums        Sums   `json:"sums,omitzero"`
}

// Sums are checksums of a whole object that a backend has computed itself; what it has not is nil.
type Sums struct {
	MD5    []byte  `json:"md5,omitempty"`
	SHA256 []byte  `json:"sha256,omitempty"`
	CRC32C *uint32 `json:"crc32c,omitempty"`
	XXH3   *uint64 `json:"xxh3,omitempty"`
}

// OpenOptions say which part of an object is read.
type OpenOptions struct {
	Offset int64
	Length int64 // 0: up to the end
	// Tag is the one that the object must have: otherwise the error is of kind Changed. "": any.
	Tag string
}

// Body is a range of an object that is being read.
type Body struct {
	io.ReadCloser
	Entry  Entry // the whole object
	Offset int64 // where the range begins
	Length int64 // of the range; -1 where the backend does not say
}

// PutOptions describe an object that is put.
type PutOptions struct {
	ContentType string
	Meta        map[string]string // where the backend keeps such
	Sums        Sums              // of the body: the backend, or the implementation, refuses other bytes
}
