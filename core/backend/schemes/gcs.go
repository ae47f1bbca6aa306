//go:build !no_gcs

package schemes

import (
	"github.com/shardstream/shardstream/core/backend"
	"github.com/shardstream/shardstream/core/backend/gcs"
)

func init() { built[backend.GCS] = gcs.Open }
