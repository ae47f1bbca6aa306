package cache

import (
	"errors"
	"net/http"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/backend"
	"github.com/shardstream/shardstream/core/store"
)

var (
	// ErrNoRoom is returned where an object can't be kept: what has its place is needed sooner, pinned or in use, or the
	// object is larger than all that there is.
	ErrNoRoom = errors.New("there is no room in the cache")
	// errAgain says that an object was replaced or evicted while it was fetched; whoever wants it begins anew.
	errAgain = errors.New("the object was replaced meanwhile")
	// errUnwanted ends a fetch that nobody waits for any more.
	errUnwanted = errors.New("nobody waits for the fetch any more")
)

// again says that a read may begin anew: the object was replaced meanwhile, or did not have its checksum when it came.
func again(err error) bool {
	return errors.Is(err, errAgain) || errors.Is(err, errUnwanted) || kindIs(err, backend.Corrupt)
}

// gaveUp is the error for a read that has begun anew too often.
func gaveUp(bucket, key string, last error) error {
	if last != nil && !errors.Is(last, errAgain) && !errors.Is(last, errUnwanted) {
		return last
	}
	return api.Errorf(http.StatusServiceUnavailable, api.CodeUnavailable,
		"%s is replaced all the time, or evicted as soon as it is fetched; read it again later", api.Address(bucket, key))
}

// changes says that an object has changed at its backend.
func changes(err error) bool {
	var answer *api.Error
	return kindIs(err, backend.Changed) || errors.As(err, &answer) && answer.Code == api.CodeChanged
}

// changed is the error for a version that is not there any more.
func changed(bucket, key string, want, got uint64) error {
	return api.Errorf(http.StatusConflict, api.CodeChanged,
		"%s has changed at its backend since it was described (version %d, now %d)", api.Address(bucket, key), want, got)
}

// changedThere is the error for an object that its backend has under another tag by now, or that did not match its
// description.
func changedThere(bucket, key string, err error) error {
	return api.Errorf(http.StatusConflict, api.CodeChanged, "%s has changed at its backend since it was described: %v", api.Address(bucket, key), err)
}

// gone says that the backend has no such object.
func gone(err error) bool {
	var e *backend.Error
	return errors.As(err, &e) && e.Kind == backend.NotFound || errors.Is(err, store.ErrNotFound)
}

// kindIs says whether an error is a backend's of some kind.
func kindIs(err error, kind backend.Kind) bool {
	var e *backend.Error
	return errors.As(err, &e) && e.Kind == kind
}

// refused is the error for a change that a bucket's policy does not allow.
func refused(format string, args ...any) error {
	return api.Errorf(http.StatusMethodNotAllowed, api.CodeReadOnly, format, args...)
}

// Again says that a read may begin anew, as the object was replaced meanwhile.
func Again(err error) bool { return errors.Is(err, errAgain) }
