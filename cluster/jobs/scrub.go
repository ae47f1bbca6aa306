package jobs

import (
	"net/http"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/store"
)

// ParseScrub checks the specification of a scrub. Its errors are *api.Error.
func ParseScrub(spec api.JobSpec) (api.ScrubSpec, error) {
	if spec.Kind != api.JobScrub {
		return api.ScrubSpec{}, bad("kind %.80q is not %q", spec.Kind, api.JobScrub)
	}
	if other := others(spec); other != "" {
		return api.ScrubSpec{}, bad("a job of kind %q has no member %s", spec.Kind, other)
	}
	if spec.Scrub == nil {
		return api.ScrubSpec{}, nil
	}
	if b := spec.Scrub.Bucket; b != "" {
		if err := store.CheckBucket(b); err != nil {
			return api.ScrubSpec{}, api.Errorf(http.StatusBadRequest, api.CodeBadName, "bucket: %v", err)
		}
	}
	return *spec.Scrub, nil
}
