package backend

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Kind says what to do about an error.
type Kind uint8

const (
	// Failed is any other failure of a request that can't be expected to pass.
	Failed Kind = iota
	// NotFound says that there is no such object.
	NotFound
	// NoBucket says that there is no such bucket, container or host.
	NoBucket
	// Denied says that the credentials are missing, wrong, expired, or do not allow it.
	Denied
	// Changed says that the object has another tag than was asked for.
	Changed
	// Range says that the range lies outside of the object.
	Range
	// Corrupt says that the bytes are not those that the backend's checksum is of.
	Corrupt
	// Busy says that the backend asks to be left alone for a while (429, 503 SlowDown).
	Busy
	// Passing says that the connection broke, or the backend failed; the same request may succeed.
	Passing
	// Unsupported says that the backend, or this build, can't do it.
	Unsupported
	// Forbidden says that the address is one that this node must not reach.
	Forbidden
	// Loop says that the backend would ask, in the end, the bucket that asks it.
	Loop
)

var kinds = [...]string{
	Failed: "failed", NotFound: "not found", NoBucket: "no such bucket", Denied: "access denied", Changed: "changed",
	Range: "outside of the object", Corrupt: "corrupt", Busy: "busy", Passing: "interrupted", Unsupported: "not supported",
	Forbidden: "forbidden address", Loop: "a loop of buckets",
}

func (k Kind) String() string {
	if int(k) < len(kinds) {
		return kinds[k]
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// Error is a failure of a backend. Its text names the backend and the object, and never has credentials.
type Error struct {
	Backend string // its URL, without credentials
	Op      string // "list", "stat", "open", "read", "put", "delete", "connect"
	Name    string // the object's; "" for others
	Kind    Kind
	Status  int           // of HTTP; 0 without
	After   time.Duration // how long the backend asked to wait; 0: it did not say
	Err     error
}

func (e *Error) Error() string {
	at := e.Backend
	if e.Name != "" {
		at = strings.TrimSuffix(e.Backend, "/") + "/" + e.Name
	}
	text := fmt.Sprintf("%s %s: %v", e.Op, at, e.Kind)
	if e.Status != 0 {
		text += fmt.Sprintf(" (HTTP %d)", e.Status)
	}
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

func (e *Error) Unwrap() error { return e.Err }

// KindOf is the kind of an error, Failed where it is none of a backend.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Failed
}

// Passes says that the same request may succeed later.
func (k Kind) Passes() bool { return k == Busy || k == Passing }
