package cache

import (
	"fmt"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/backend"
	"github.com/shardstream/shardstream/core/store"
)

// standIn begins the tags that are made of size and time, where a backend has none.
const standIn = "shardstream:"

// originOf is the tag by which an object is remembered.
func originOf(e *backend.Entry) string {
	if e.Tag != "" {
		return e.Tag
	}
	return fmt.Sprintf("%s%d-%d", standIn, e.Size, e.Modified.UnixNano())
}

// asked is the tag as the backend can be asked for it; "" for one that was made up.
func asked(tag string) string {
	if len(tag) >= len(standIn) && tag[:len(standIn)] == standIn {
		return ""
	}
	return tag
}

// tagOf is the backend's tag of what is here; false for the cluster's own.
func tagOf(i *store.Info) (string, bool) {
	tag, ok := i.Meta[api.OriginTag]
	return tag, ok
}

// isOwn says that an object is the cluster's own: what there is of it is nowhere else.
func isOwn(i *store.Info) bool {
	_, tagged := tagOf(i)
	return !tagged && (i.Kind == store.Whole || i.Kind == store.Lost)
}
