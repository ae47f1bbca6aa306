package etl

import (
	"errors"
	"fmt"
	"strings"

	"github.com/shardstream/shardstream/etl/environment"
)

var (
	// ErrClosed is returned by a pool after Close: its definition was changed or removed.
	ErrClosed = errors.New("the etl was changed or removed")
	// ErrLevel is returned when an object is given to a sample function, or the reverse.
	ErrLevel = errors.New("wrong level of etl")
	// ErrNoPython is returned when no interpreter was found.
	ErrNoPython = environment.ErrNoPython
)

// UserError is a fault of the user's function: it raised, ran out of time, killed its process or
// returned something that can't travel. Others' samples are not affected.
type UserError struct {
	ETL       string
	Key       string // sample key or object name; empty when the source itself can't be loaded
	Summary   string // one line: "ValueError: bad image"
	Traceback string // frames of user code, or the last words of a process that died; may be empty
}

func (e *UserError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "etl %q failed", e.ETL)
	if e.Key != "" {
		fmt.Fprintf(&b, " on %q", clip(e.Key, 512))
	}
	fmt.Fprintf(&b, ": %s", e.Summary)
	if e.Traceback != "" {
		fmt.Fprintf(&b, "\n%s", e.Traceback)
	}
	return b.String()
}

// DefinitionError says which field of a definition is not usable.
type DefinitionError struct {
	Field  string
	Reason string
}

func (e *DefinitionError) Error() string {
	if strings.HasPrefix(e.Field, "etl") { // of a request, which calls them etl and etl_args
		return e.Field + ": " + e.Reason
	}
	return fmt.Sprintf("etl %s: %s", e.Field, e.Reason)
}

// SizeError is a sample beyond what one frame may carry.
type SizeError struct {
	Key         string
	Size, Limit int64
}

func (e *SizeError) Error() string {
	return fmt.Sprintf("sample %q has %d bytes, more than the %d that an etl takes", clip(e.Key, 512), e.Size, e.Limit)
}

// ofSample says whether an error is one sample's alone.
func ofSample(err error) bool {
	var fault *UserError
	var size *SizeError
	return errors.As(err, &size) || (errors.As(err, &fault) && fault.Key != "")
}
