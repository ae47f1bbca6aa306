package schemes

import (
	"github.com/shardstream/shardstream/core/backend"
	"github.com/shardstream/shardstream/core/backend/web"
)

func init() { built[backend.HTTP], built[backend.HTTPS] = web.Open, web.Open }
