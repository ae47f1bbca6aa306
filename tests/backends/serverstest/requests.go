package serverstest

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/shardstream/shardstream/tests/backends/faultproxy"
)

// Names says that a request is of an object.
func Names(r *http.Request, name string) bool {
	return strings.HasSuffix(unescaped(r.URL.EscapedPath()), "/"+name)
}

// isData says that a GET is of an object's bytes: not a listing, nor a description, as vendors' APIs have them.
func isData(r faultproxy.Request) bool {
	query, _ := url.ParseQuery(r.Query)
	switch {
	case strings.HasPrefix(r.Path, "/storage/v1/"): // GCS by its JSON API
		return query.Get("alt") == "media"
	case query.Has("list-type") || query.Has("restype") || query.Has("comp") || query.Has("location") || query.Has("attributes"):
		return false
	}
	return true
}

func unescaped(path string) string {
	if plain, err := url.PathUnescape(path); err == nil {
		return plain
	}
	return path
}
