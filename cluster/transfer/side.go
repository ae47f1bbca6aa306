package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"

	"github.com/shardstream/shardstream/core/backend"
)

// File describes a file of a side. Its Tag names its bytes: the same tag, the same bytes.
type File struct {
	backend.Entry
	Meta map[string]string // what users have said of it; a listing may leave it out
}

// Side is a place that has files under names: paths with slashes, relative to the side's address. Its methods may be
// called from any goroutine. Errors of kind backend.NotFound, backend.Changed and ErrExists are what callers tell apart.
type Side interface {
	// String is the address, ending in a slash, so that names can be appended to it.
	String() string
	// Sites are the places where the side's files lie.
	Sites() []Site
	// List yields the files whose names begin with prefix, in the byte order of their names. An error is of a part of the
	// side; what comes after it is a listing with a gap. A side that does not exist has no files.
	List(ctx context.Context, prefix string) iter.Seq2[File, error]
	// Stat describes a file.
	Stat(ctx context.Context, name string) (File, error)
	// Open reads a file from an offset on, if it has the tag; "" is any.
	Open(ctx context.Context, name string, offset int64, tag string) (io.ReadCloser, error)
	// Put stores what body reads (size bytes; -1: up to its end) under a name, whole or not at all. Where it can, it
	// refuses bytes that do not have o.Source's sums.
	Put(ctx context.Context, name string, body *Body, size int64, o PutOptions) (File, error)
	// Delete removes a file. That there is none is no error.
	Delete(ctx context.Context, name string) error
	// Close makes what was stored durable, where Put did not, and frees connections.
	Close() error
}

// PutOptions describe a file that is put.
type PutOptions struct {
	Source      File   // what is copied
	ContentType string // "": the source's
	Opaque      bool   // a cluster shall not index it, though it is an archive
	NoOverwrite bool   // refuse where there is one of this name: an error that is ErrExists
}

// ErrExists is what Put refuses a file with that is there already.
var ErrExists = errors.New("it exists already")

// Site says where files lie, in terms that tell whether two sides are the same place.
type Site struct {
	Store string // what has the names
	Path  string // a prefix of names in it, "" or ending in a slash
}

// overlap says whether a folder of one site is the other's, or within it.
func overlap(a, b []Site) bool {
	for _, x := range a {
		for _, y := range b {
			if x.Store == y.Store && (strings.HasPrefix(x.Path, y.Path) || strings.HasPrefix(y.Path, x.Path)) {
				return true
			}
		}
	}
	return false
}

// sameFile says whether two names are one file.
func sameFile(a []Site, nameA string, b []Site, nameB string) bool {
	for _, x := range a {
		for _, y := range b {
			if x.Store == y.Store && x.Path+nameA == y.Path+nameB {
				return true
			}
		}
	}
	return false
}

// Refusal is an error of what was asked for, found before anything was done.
type Refusal struct{ message string }

func (r *Refusal) Error() string { return r.message }

func refusef(format string, args ...any) error { return &Refusal{fmt.Sprintf(format, args...)} }

// failure makes the error of one file of a side.
func failure(side Side, op, name string, kind backend.Kind, err error) error {
	at := strings.TrimSuffix(side.String(), "/")
	if at == "" {
		at, name = name, ""
	}
	return &backend.Error{Backend: at, Op: op, Name: name, Kind: kind, Err: err}
}
