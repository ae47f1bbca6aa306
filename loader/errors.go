package loader

import (
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/shardstream/shardstream/cluster/api"
)

// Codes that the loader adds to those of the REST contract.
const (
	codeSnapshotChanged = "snapshot_changed"
	codeTimeout         = "timeout"
	codeClosed          = "closed"
	codeSample          = "sample_error"
	codeTooMany         = "too_many_errors"
)

// ErrClosed is returned by calls on a closed loader.
var ErrClosed = errors.New("the loader is closed")

// ErrEnd is returned by Next when the iteration is complete.
var ErrEnd = errors.New("end of the epoch")

// ErrTimeout is returned by Next when no batch was ready in time; the iteration goes on.
var ErrTimeout = errors.New("no batch was ready in time")

// errEnded is what a Next under way returns when its iteration is ended from elsewhere.
var errEnded = errors.New("the iteration was ended by Close or by another Start")

// errOutdated ends an iteration that was read ahead of its time and is no longer what was asked for.
var errOutdated = errors.New("the data or the transformation changed since the epoch was read ahead")

// SampleError is a sample that could not be read or transformed.
type SampleError struct {
	Key           string
	Position      int64 // in the epoch
	Code, Message string
}

func (e *SampleError) Error() string {
	return fmt.Sprintf("sample %q at position %d: %s", e.Key, e.Position, e.Message)
}

// shownKeys is how many failed samples an error names.
const shownKeys = 5

// BudgetError says that more samples were left out than Config.MaxErrors allows.
type BudgetError struct {
	Budget Budget
	Errors int64 // samples left out
	Seen   int64 // samples that the iteration has come to, those included
	ByCode map[string]int64
	Keys   []string // the first of them
	Last   SampleError
}

func (e *BudgetError) Error() string {
	codes := make([]string, 0, len(e.ByCode))
	for _, code := range slices.Sorted(maps.Keys(e.ByCode)) {
		codes = append(codes, fmt.Sprintf("%d %s", e.ByCode[code], code))
	}
	return fmt.Sprintf("%d of %d samples failed, more than max_errors=%v allows (%s); the first: %s; the last: %v",
		e.Errors, e.Seen, &e.Budget, strings.Join(codes, ", "), strings.Join(e.Keys[:min(len(e.Keys), shownKeys)], ", "), &e.Last)
}

// Describe gives an error's code, one of the REST contract's or the loader's own, and its message: the
// form in which errors leave Go.
func Describe(err error) (code, message string) {
	var (
		sample *SampleError
		budget *BudgetError
		answer *api.Error
	)
	switch {
	case errors.As(err, &budget):
		return codeTooMany, err.Error()
	case errors.As(err, &sample):
		return codeSample, sample.Code + ": " + err.Error()
	case errors.As(err, &answer):
		return answer.Code, answer.Message
	case errors.Is(err, ErrClosed), errors.Is(err, errEnded):
		return codeClosed, err.Error()
	default:
		return api.CodeInternal, err.Error()
	}
}

func badRequest(format string, args ...any) error {
	return api.Errorf(400, api.CodeBadRequest, format, args...)
}

// guarded makes an error of a panic: a fault in a loader's goroutine shall not end the trainer's process.
func guarded(f func() error) func() error {
	return func() (err error) {
		defer func() {
			if r := recover(); r != nil {
				err = permanentError{fmt.Errorf("panic: %v\n%s", r, debug.Stack())}
			}
		}()
		return f()
	}
}
