package gateway

import (
	"context"
	"errors"
	"iter"
	"strings"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/copies"
	"github.com/shardstream/shardstream/core/backend"
)

const (
	// sumWorth is how many names in a row are summed up in one prefix before the listing begins anew behind it: less is
	// quicker passed over than asked for.
	sumWorth = 2000
	// behindSum follows a prefix in a name that is greater than (almost) all with that prefix, and is text: those that are
	// greater still are summed up in the same prefix.
	behindSum = "\U0010FFFF"
)

var (
	errFullPage = errors.New("the page is full")
	errSkipSum  = errors.New("the rest of a prefix is passed over")
)

// listOrigin makes a page of a bucket with a backend.
func (g *Gateway) listOrigin(ctx context.Context, b *api.Bucket, o api.ListOptions) (api.ObjectList, error) {
	page := pageBuilder{ListOptions: o, page: api.ObjectList{Objects: []api.Object{}}}
	part := originPart{
		prefix: o.Prefix, after: copies.Start(o.Prefix, o.Delimiter, o.StartAfter), limit: min(o.Limit+1, maxPage), cached: o.Cached,
	}
	if part.after != o.StartAfter { // it was a prefix that stood for many
		page.sum, part.after = o.StartAfter, o.StartAfter+behindSum
	}
	for {
		summed, sum := 0, page.sum
		err := g.walkOrigin(ctx, b, part, func(object *api.Object) error {
			if page.add(entry{object.Name, &copies.Listed{Object: *object}}) {
				return errFullPage
			}
			if sum != page.sum {
				summed, sum = 0, page.sum
			}
			if sum != "" && strings.HasPrefix(object.Name, sum) {
				summed++
			}
			if summed == sumWorth {
				return errSkipSum
			}
			return nil
		})
		switch {
		case errors.Is(err, errSkipSum):
			part.after = page.sum + behindSum
			continue
		case err != nil && !errors.Is(err, errFullPage):
			return api.ObjectList{}, err
		}
		return page.page, nil
	}
}

// originPart is what of a bucket with a backend is visited.
type originPart struct {
	prefix, after string
	limit         int  // of what targets are asked for at once; 0: as many as they give
	cached        bool // what is in the cluster alone; the backend is not asked
	// unknown visits what only the backend describes; nil: it is visited as all else.
	unknown func(*backend.Entry) error
}

// walkOrigin visits the objects of a bucket with a backend, sorted by name: those that the backend has, described as far as
// the cluster knows them, and the cluster's own. Complete, or an error.
func (g *Gateway) walkOrigin(ctx context.Context, b *api.Bucket, part originPart, visit func(*api.Object) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	m := &originMerge{bucket: b, cachedOnly: part.cached, visit: visit, unknown: part.unknown}
	if m.unknown == nil {
		m.unknown = func(e *backend.Entry) error {
			object := objectAt(b, e)
			return visit(&object)
		}
	}
	if part.cached {
		m.done = true
	} else {
		next, stop := iter.Pull2(g.entries(ctx, b, part.prefix, part.after))
		defer stop()
		m.next = next
	}
	limit := part.limit
	if limit == 0 {
		limit = maxPage
	}
	if err := g.walkKept(ctx, b.Name, part.prefix, part.after, limit, m.kept); err != nil {
		return err
	}
	return m.before("")
}

// originMerge merges what targets have into what the backend lists.
type originMerge struct {
	bucket     *api.Bucket
	cachedOnly bool
	visit      func(*api.Object) error
	unknown    func(*backend.Entry) error

	next func() (backend.Entry, error, bool) // of the backend
	head *backend.Entry                      // the next one, if it is known
	done bool                                // there are no more
}

// peek is the backend's next entry; nil at the end.
func (m *originMerge) peek() (*backend.Entry, error) {
	if m.head != nil || m.done {
		return m.head, nil
	}
	e, err, ok := m.next()
	switch {
	case err != nil:
		return nil, err
	case !ok:
		m.done = true
		return nil, nil
	}
	m.head = &e
	return m.head, nil
}

// before visits the backend's entries before a name, "" for all that are left.
func (m *originMerge) before(name string) error {
	for {
		e, err := m.peek()
		if err != nil || e == nil || name != "" && e.Name >= name {
			return err
		}
		m.head = nil
		if err := m.unknown(e); err != nil {
			return err
		}
	}
}

// kept visits a name that targets have something of, and all of the backend's before it.
func (m *originMerge) kept(line *copies.Listed) error {
	if err := m.before(line.Name); err != nil {
		return err
	}
	e, err := m.peek()
	if err != nil {
		return err
	}
	m.head = nil
	if e != nil && e.Name != line.Name {
		m.head, e = e, nil
	}
	switch {
	case m.known(line, e):
		return m.visit(&line.Object)
	case e != nil:
		return m.unknown(e)
	}
	return nil
}

// known says whether a name stands for what a target knows of it, where the backend has e or nothing. What was deleted in
// the cluster hides nothing of the backend's: that it was deleted there too is for the backend to say.
func (m *originMerge) known(line *copies.Listed, e *backend.Entry) bool {
	cached := line.Cached != nil && *line.Cached
	switch {
	case line.Deleted:
		return false
	case line.Origin == nil && cached, m.cachedOnly && cached, // its own hides the backend's
		cached && m.bucket.Backend.Check == api.CheckNever: // what is read is what is here
		return true
	}
	return e != nil && sameAsAt(line, e)
}

// sameAsAt says whether what a target knows is what the backend has now. Listings of web servers have no tags: size and
// time have to do.
func sameAsAt(line *copies.Listed, e *backend.Entry) bool {
	switch {
	case line.Origin == nil:
		return false
	case e.Tag != "":
		return *line.Origin == e.Tag
	case e.Size < 0 && e.Modified.IsZero(): // it says nothing
		return false
	}
	return (e.Size < 0 || e.Size == line.Size) && !e.Modified.After(line.Created)
}

// objectAt describes an object that the cluster knows from a listing of the backend alone.
func objectAt(b *api.Bucket, e *backend.Entry) api.Object {
	return api.Object{
		Bucket: b.Name, Name: e.Name, Size: e.Size, Created: e.Modified, ContentType: e.ContentType, Cached: new(bool),
	}
}
