package target

import (
	"errors"
	"net/http"
	"strings"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/store"
)

// Bounds of one page of a listing.
const (
	defaultPage = 1000
	maxPage     = 10_000
)

// listObjects lists what lies on this node, sorted by name. Gateways merge the targets' pages.
func (t *Target) listObjects(r *Request) error {
	bucket := r.Param("bucket")
	if err := store.CheckBucket(bucket); err != nil {
		return err
	}
	limit, err := r.number("limit", defaultPage)
	if err != nil {
		return err
	}
	page, err := t.list(bucket, r.Query("prefix"), r.Query("delimiter"), r.Query("start_after"), int(min(max(limit, 1), maxPage)))
	if err != nil {
		return err
	}
	return r.WriteJSON(http.StatusOK, page)
}

// maxNames bounds the document with the names that a gateway asks for at once.
const maxNames = 32 << 20

// statObjects describes those of the named objects that lie on this node.
func (t *Target) statObjects(r *Request) error {
	bucket := r.Param("bucket")
	if err := store.CheckBucket(bucket); err != nil {
		return err
	}
	var asked api.Names
	if err := r.JSON(maxNames, &asked); err != nil {
		return err
	}
	found := api.ObjectList{Objects: []api.Object{}}
	for _, name := range asked.Names {
		info, err := t.store.Stat(bucket, name)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		found.Objects = append(found.Objects, objectOf(info))
	}
	return r.WriteJSON(http.StatusOK, found)
}

// afterPrefix is a name after all names with the prefix: no name has the byte 0xff, as all are UTF-8.
func afterPrefix(prefix string) string { return prefix + "\xff" }

// list makes a page of at most limit entries, objects and prefixes together. With a delimiter, names
// that have it beyond the prefix are summed up up to it; a start after such a sum skips all of it.
func (t *Target) list(bucket, prefix, delimiter, startAfter string, limit int) (api.ObjectList, error) {
	page := api.ObjectList{Objects: []api.Object{}}
	if delimiter != "" && strings.HasSuffix(startAfter, delimiter) && strings.HasPrefix(startAfter, prefix) && startAfter != prefix {
		startAfter = afterPrefix(startAfter)
	}
	last := ""
	for {
		left := limit - len(page.Objects) - len(page.Prefixes)
		infos, more, err := t.store.List(bucket, prefix, startAfter, left+1)
		if err != nil {
			return page, err
		}
		skipped := false
		for _, info := range infos {
			if len(page.Objects)+len(page.Prefixes) == limit {
				page.Next = last
				return page, nil
			}
			if sum, ok := sumUp(info.Name, prefix, delimiter); ok {
				page.Prefixes = append(page.Prefixes, sum)
				last, startAfter, skipped = sum, afterPrefix(sum), true
				break // on from behind the prefix
			}
			page.Objects = append(page.Objects, objectOf(info))
			last, startAfter = info.Name, info.Name
		}
		if !more && !skipped {
			return page, nil
		}
	}
}

// sumUp is the name up to and with the first delimiter after the prefix.
func sumUp(name, prefix, delimiter string) (string, bool) {
	if delimiter == "" {
		return "", false
	}
	head, _, found := strings.Cut(name[len(prefix):], delimiter)
	return prefix + head + delimiter, found
}
