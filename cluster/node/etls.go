package node

import (
	"context"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/etl"
)

// noETLs answers for transformations where none can be deployed.
type noETLs struct{}

func (noETLs) Pool(name string) (*etl.Pool, error) {
	return nil, api.Errorf(404, api.CodeNoETL, "no etl %q is deployed", name)
}

func noETL(_ context.Context, name string) (api.ETL, error) {
	return api.ETL{}, api.Errorf(404, api.CodeNoETL, "no etl %q is deployed", name)
}
