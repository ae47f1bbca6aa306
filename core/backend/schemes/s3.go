//go:build !no_s3

package schemes

import (
	"github.com/shardstream/shardstream/core/backend"
	"github.com/shardstream/shardstream/core/backend/s3"
)

func init() { built[backend.S3] = s3.Open }
