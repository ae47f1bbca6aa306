package gateway

import (
	"cmp"
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/shardstream/shardstream/cluster/api"
)

// Bounds of one page of a listing.
const (
	defaultPage = 1000
	maxPage     = 10_000
	maxName     = 1024
)

func (g *Gateway) getObjects(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	o := api.ListOptions{
		Prefix: query.Get("prefix"), Delimiter: query.Get("delimiter"), StartAfter: query.Get("start_after"),
	}
	if value := query.Get("limit"); value != "" {
		limit, err := strconv.Atoi(value)
		if err != nil || limit < 1 {
			return api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "limit=%q is not a whole number of 1 or more", value)
		}
		o.Limit = limit
	}
	page, err := g.ListObjects(r.Context(), r.PathValue("bucket"), o)
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, page)
}

// ListObjects is one page of a bucket's listing over all targets, sorted by name; complete, or an error.
// Limits above the largest page (10,000) are cut down to it.
func (g *Gateway) ListObjects(ctx context.Context, bucket string, o api.ListOptions) (api.ObjectList, error) {
	if _, err := g.bucket(ctx, bucket); err != nil {
		return api.ObjectList{}, err
	}
	if len(o.Prefix) > maxName || len(o.StartAfter) > maxName || len(o.Delimiter) > maxName {
		return api.ObjectList{}, api.Errorf(http.StatusBadRequest, api.CodeBadName,
			"prefix, delimiter and start_after have at most %d bytes, as names do", maxName)
	}
	if o.Limit == 0 {
		o.Limit = defaultPage
	}
	o.Limit = min(o.Limit, maxPage)
	query := url.Values{
		"prefix": {o.Prefix}, "delimiter": {o.Delimiter}, "start_after": {o.StartAfter}, "limit": {strconv.Itoa(o.Limit)},
	}
	path := "/v1/buckets/" + url.PathEscape(bucket) + "/objects"
	parts, err := AskTargets[api.ObjectList](ctx, g, pageTimeout, http.MethodGet, path, query)
	if err != nil {
		return api.ObjectList{}, err
	}
	return merge(parts, o.Limit), nil
}

// entry is a line of a listing: an object, or a prefix that stands for many.
type entry struct {
	name   string
	object *api.Object
}

// merge makes one page of the targets' pages. Each holds its target's first entries, so the first of
// all of them are among these. A name that two targets have, after a join, counts once, with the
// newest version.
func merge(parts []api.ObjectList, limit int) api.ObjectList {
	var entries []entry
	more := false
	for p := range parts {
		part := &parts[p]
		more = more || part.Next != ""
		for i := range part.Objects {
			entries = append(entries, entry{part.Objects[i].Name, &part.Objects[i]})
		}
		for _, prefix := range part.Prefixes {
			entries = append(entries, entry{name: prefix})
		}
	}
	slices.SortFunc(entries, func(a, b entry) int {
		if a.name != b.name || a.object == nil || b.object == nil {
			return cmp.Compare(a.name, b.name)
		}
		return cmp.Compare(b.object.Version, a.object.Version)
	})
	entries = slices.CompactFunc(entries, func(a, b entry) bool { return a.name == b.name })
	page := api.ObjectList{Objects: []api.Object{}}
	for i, e := range entries {
		if i == limit {
			page.Next = entries[i-1].name
			return page
		}
		if e.object != nil {
			page.Objects = append(page.Objects, *e.object)
		} else {
			page.Prefixes = append(page.Prefixes, e.name)
		}
	}
	if more && len(entries) > 0 {
		page.Next = entries[len(entries)-1].name
	}
	return page
}
