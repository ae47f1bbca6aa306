package target

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/membership"
	"github.com/shardstream/shardstream/cluster/origin"
	"github.com/shardstream/shardstream/core/archive"
	"github.com/shardstream/shardstream/core/store"
)

// errUpload marks errors of a body's sender, to tell them from those of our own disks.
type uploadError struct{ err error }

func (e *uploadError) Error() string { return "the body broke off: " + e.err.Error() }
func (e *uploadError) Unwrap() error { return e.err }

// AsError is the error document for an error of the store, the archive index or the cluster.
func AsError(err error) *api.Error {
	var (
		answer      *api.Error
		name        *store.NameError
		checksum    *store.ChecksumError
		short       *store.ShortBodyError
		corrupt     *store.CorruptError
		full        *store.NoSpaceError
		format      *archive.FormatError
		unavailable *membership.UnavailableError
		upload      *uploadError
	)
	err = origin.Answer("", err)
	message := func(status int, code string) *api.Error { return api.Errorf(status, code, "%s", err.Error()) }
	switch {
	case errors.As(err, &answer):
		return answer
	case errors.As(err, &name):
		return message(http.StatusBadRequest, api.CodeBadName)
	case errors.As(err, &checksum):
		return message(http.StatusBadRequest, api.CodeBadChecksum)
	case errors.As(err, &short):
		return message(http.StatusBadRequest, api.CodeIncomplete)
	case errors.As(err, &format):
		return api.Errorf(http.StatusBadRequest, api.CodeBadArchive,
			"%s; repair the archive, or store it as opaque bytes (put --opaque, index=False in Python, or the header %s: none)", format.Error(), api.HeaderArchive)
	case errors.As(err, &corrupt), errors.Is(err, store.ErrLost):
		return message(http.StatusInternalServerError, api.CodeCorrupt)
	case errors.As(err, &full):
		return message(http.StatusInsufficientStorage, api.CodeNoSpace)
	case errors.Is(err, store.ErrNoDisk):
		return message(http.StatusNotFound, api.CodeNotFound)
	case errors.Is(err, store.ErrDiskExists):
		return message(http.StatusConflict, api.CodeExists)
	case errors.Is(err, store.ErrDiskInUse):
		return message(http.StatusConflict, api.CodeRefused)
	case errors.Is(err, store.ErrPrecondition):
		return message(http.StatusPreconditionFailed, api.CodePrecondition)
	case errors.Is(err, membership.ErrNoBucket):
		return message(http.StatusNotFound, api.CodeNoBucket)
	case errors.Is(err, store.ErrNotFound):
		return message(http.StatusNotFound, api.CodeNotFound)
	case errors.Is(err, store.ErrStub):
		return message(http.StatusServiceUnavailable, api.CodeUnavailable)
	case errors.Is(err, store.ErrClosed), errors.Is(err, store.ErrDiskFailed), errors.As(err, &unavailable), errors.Is(err, errDown):
		return message(http.StatusServiceUnavailable, api.CodeUnavailable)
	case errors.As(err, &upload):
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return api.Errorf(http.StatusRequestTimeout, api.CodeIncomplete, "no byte of the body for %v; nothing was stored", uploadPause)
		}
		return message(http.StatusBadRequest, api.CodeIncomplete)
	case errors.Is(err, context.Canceled): // of the node's own context: clients have none here
		return api.Errorf(http.StatusServiceUnavailable, api.CodeUnavailable, "the node stopped before it was done: %v", err)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return message(http.StatusBadRequest, api.CodeIncomplete)
	}
	return api.Errorf(http.StatusInternalServerError, api.CodeInternal, "the node failed on this request; see its log")
}
