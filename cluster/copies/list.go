package copies

import (
	"strings"

	"github.com/shardstream/shardstream/cluster/api"
)

// PathList lists what a target has of a bucket, whose name follows.
const PathList = "/v1/internal/copies/list/"

// PathStat describes named objects of a bucket, whose name follows, as PathList does.
const PathStat = "/v1/internal/copies/stat/"

// ListAll is the query's parameter that asks for everything that a target has, deletions included; otherwise it lists
// what it is the primary of.
const ListAll = "all"

// Listed is a line of a target's listing.
type Listed struct {
	api.Object
	Deleted bool `json:"deleted,omitempty"` // by a write of that version
	// Origin is the tag at its backend of what is cached or described, nil for what is the cluster's own.
	Origin *string `json:"origin,omitempty"`
}

// Page is a page of a target's listing, sorted by name; Next is empty on the last page.
type Page struct {
	Objects  []Listed `json:"objects"`
	Prefixes []string `json:"prefixes,omitempty"`
	Next     string   `json:"next,omitempty"`
}

// AfterPrefix is a name after all names with the prefix: no name has the byte 0xff, as all are UTF-8.
func AfterPrefix(prefix string) string { return prefix + "\xff" }

// SumUp is the name up to and with the first delimiter after the prefix, where it has one.
func SumUp(name, prefix, delimiter string) (string, bool) {
	if delimiter == "" {
		return "", false
	}
	head, _, found := strings.Cut(name[len(prefix):], delimiter)
	return prefix + head + delimiter, found
}

// Start is where a listing begins that starts after a name: a start after a prefix that stood for many skips them all.
func Start(prefix, delimiter, startAfter string) string {
	if delimiter != "" && strings.HasSuffix(startAfter, delimiter) && strings.HasPrefix(startAfter, prefix) && startAfter != prefix {
		return AfterPrefix(startAfter)
	}
	return startAfter
}
