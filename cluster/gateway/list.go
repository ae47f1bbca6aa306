package gateway

import (
	"cmp"
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/copies"
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
	var err error
	if o.Cached, err = boolean(r, "cached"); err != nil {
		return err
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
	found, err := g.bucket(ctx, bucket)
	if err != nil {
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
	if found.Backend != nil {
		return g.listOrigin(ctx, &found.Bucket, o)
	}
	var page api.ObjectList
	err = g.byOneMap(ctx, bucket, func(l *listing) (err error) {
		page, err = l.page(ctx, o)
		return err
	})
	return page, err
}

// page makes one page. Where all targets list what they are the primaries of, theirs hold the first names of all;
// where they list all that they have, deletions among it, more may have to be asked for.
func (l *listing) page(ctx context.Context, o api.ListOptions) (api.ObjectList, error) {
	b := pageBuilder{ListOptions: o, page: api.ObjectList{Objects: []api.Object{}}}
	after := copies.Start(o.Prefix, o.Delimiter, o.StartAfter)
	for {
		query := url.Values{"prefix": {o.Prefix}, "start_after": {after}, "limit": {strconv.Itoa(min(o.Limit+1, maxPage))}}
		if l.all {
			query.Set(copies.ListAll, "true") // what is deleted must not be summed up: that is for us then
		} else {
			query.Set("delimiter", o.Delimiter)
		}
		parts, err := askAll[copies.Page](ctx, l, http.MethodGet, copies.PathList+url.PathEscape(l.bucket.Name), query, nil)
		if err != nil {
			return b.page, err
		}
		bound, more := bound(parts)
		for _, e := range mergePages(parts, bound) {
			if b.add(e) {
				return b.page, nil
			}
		}
		if !more {
			return b.page, nil
		}
		if after = bound; b.sum != "" && strings.HasPrefix(bound, b.sum) {
			after = copies.AfterPrefix(b.sum)
		}
	}
}

// bound is the name up to which all pages are complete; more says whether there is more behind it.
func bound(parts []copies.Page) (name string, more bool) {
	for i := range parts {
		if next := parts[i].Next; next != "" && (!more || next < name) {
			name, more = next, true
		}
	}
	return name, more
}

// entry is a line of a listing: an object, or a prefix that stands for many.
type entry struct {
	name   string
	object *copies.Listed
}

// mergePages merges the targets' pages up to a name, "" for all of them. A name that several targets have counts once,
// with the newest version.
func mergePages(parts []copies.Page, upTo string) []entry {
	var entries []entry
	for p := range parts {
		part := &parts[p]
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
	if upTo != "" {
		at := slices.IndexFunc(entries, func(e entry) bool { return e.name > upTo })
		if at >= 0 {
			entries = entries[:at]
		}
	}
	return entries
}

// pageBuilder fills a page.
type pageBuilder struct {
	api.ListOptions
	page api.ObjectList
	last string // entry of the page
	sum  string // last prefix that stands for many
}

// add adds an entry, in the order of names. It says whether the page is full, and is not for this one.
func (b *pageBuilder) add(e entry) (full bool) {
	sum, isSum := e.name, e.object == nil
	if !isSum {
		if e.object.Deleted {
			return false
		}
		sum, isSum = copies.SumUp(e.name, b.Prefix, b.Delimiter)
	}
	if isSum && sum == b.sum {
		return false
	}
	if len(b.page.Objects)+len(b.page.Prefixes) == b.Limit {
		b.page.Next = b.last
		return true
	}
	if isSum {
		b.page.Prefixes = append(b.page.Prefixes, sum)
		b.last, b.sum = sum, sum
		return false
	}
	b.page.Objects = append(b.page.Objects, e.object.Object)
	b.last = e.name
	return false
}
