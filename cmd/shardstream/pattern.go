package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/shardstream/shardstream/cluster/api"
)

// find lists the objects that an address stands for: one object, all below ss://bucket/prefix/, or
// those that match a pattern with braces and wildcards. Naming nothing is an error.
func find(ctx context.Context, client *api.Client, address string) ([]api.Object, error) {
	pattern, err := api.ParsePattern(address)
	if err != nil {
		return nil, &usageError{err.Error()}
	}
	if _, key, err := api.ParseAddress(address); err == nil && key != "" && !strings.HasSuffix(key, "/") && !isPattern(key) {
		object, err := client.StatObject(ctx, pattern.Bucket, key)
		return []api.Object{object}, err
	}
	var found []api.Object
	for object, err := range client.Objects(ctx, pattern.Bucket, api.ListOptions{Prefix: pattern.Prefix}) {
		if err != nil {
			return nil, err
		}
		if pattern.Match(object.Name) {
			found = append(found, object)
		}
	}
	if name, missing := pattern.Missing(); missing {
		return nil, fmt.Errorf("%s: there is no object %s", address, api.Address(pattern.Bucket, name))
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s matches no object; `shardstream ls` shows what there is", address)
	}
	return found, nil
}

// isPattern tells whether a key stands for several.
func isPattern(key string) bool { return strings.ContainsAny(key, "*?[{") }
