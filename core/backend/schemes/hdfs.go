//go:build !no_hdfs

package schemes

import (
	"github.com/shardstream/shardstream/core/backend"
	"github.com/shardstream/shardstream/core/backend/hdfs"
)

func init() { built[backend.HDFS] = hdfs.Open }
