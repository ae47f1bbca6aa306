//go:build !no_azure

package schemes

import (
	"github.com/shardstream/shardstream/core/backend"
	"github.com/shardstream/shardstream/core/backend/azure"
)

func init() { built[backend.Azure] = azure.Open }
