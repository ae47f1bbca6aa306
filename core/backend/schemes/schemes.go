// Package schemes puts together the backends that a build has. Tags leave some out, with the libraries that they are
// made of: no_s3, no_gcs, no_azure, no_hdfs.
package schemes

import (
	"maps"

	"github.com/shardstream/shardstream/core/backend"
)

var built = backend.Set{}

// All are the backends of this build, by their schemes. Another cluster (ss) is the cluster's own, and is added there.
func All() backend.Set {
	return maps.Clone(built)
}
