package origin

import (
	"errors"
	"net/http"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/backend"
)

// Answer makes an *api.Error of a backend's error, for whoever asked for something of a bucket: it names the bucket, if it
// is known, and the backend, and says what the backend said. Other errors are left as they are.
func Answer(bucket string, err error) error {
	var failed *backend.Error
	var answer *api.Error
	if err == nil || errors.As(err, &answer) || !errors.As(err, &failed) {
		return err
	}
	answered := func(status int, code, hint string) error {
		about := "a bucket's backend" // which it is, its URL says
		if bucket != "" {
			about = "bucket " + bucket + ": its backend"
		}
		return api.Errorf(status, code, "%s: %v%s", about, failed, hint)
	}
	switch failed.Kind {
	case backend.NotFound:
		return answered(http.StatusNotFound, api.CodeNotFound, "")
	case backend.NoBucket:
		return answered(http.StatusBadGateway, api.CodeBackend, "; it was there when the bucket was made: bring it back, or delete the bucket")
	case backend.Denied:
		return answered(http.StatusBadGateway, api.CodeDenied, "; renew the credentials with `shardstream secret set`, or those of the nodes' environment")
	case backend.Loop:
		return answered(http.StatusLoopDetected, api.CodeLoop, "; delete one of these buckets, or make it with another backend")
	case backend.Changed:
		return answered(http.StatusConflict, api.CodeChanged, "; read it again")
	case backend.Range:
		return answered(http.StatusRequestedRangeNotSatisfiable, api.CodeRange, "")
	case backend.Busy, backend.Passing:
		return answered(http.StatusServiceUnavailable, api.CodeBackendBusy, "; try again in a while")
	case backend.Forbidden:
		return answered(http.StatusBadGateway, api.CodeBackend, "; the setting backend_allow of the nodes names the networks that backends may be in")
	}
	return answered(http.StatusBadGateway, api.CodeBackend, "")
}
