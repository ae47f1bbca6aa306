package gateway

import (
	"container/heap"
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"

	"golang.org/x/sync/errgroup"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/copies"
)

// A walk has about so many objects at hand, from all targets together.
const (
	walkObjects = 200_000
	minWalkPage = 200
)

// walk visits all objects of a bucket that begin with a prefix, sorted by name; complete, or an error. It
// asks each target for its own objects page by page and merges them as they come, so it takes as many
// requests as there are pages, and memory for a page or two of each target, whatever their number. Where the map
// changes meanwhile it goes on behind the last name by the new one.
func (g *Gateway) walk(ctx context.Context, bucket, prefix string, visit func(*api.Object) error) error {
	b, err := g.bucket(ctx, bucket)
	if err != nil || len(prefix) > maxName { // no name is as long
		return err
	}
	if b.Backend != nil {
		return g.walkOrigin(ctx, &b.Bucket, originPart{prefix: prefix}, visit)
	}
	return g.walkKept(ctx, bucket, prefix, "", maxPage, func(o *copies.Listed) error {
		if o.Deleted {
			return nil
		}
		return visit(&o.Object)
	})
}

// walkKept visits what targets have of a bucket behind a name, deletions included. Pages have at most limit names.
func (g *Gateway) walkKept(ctx context.Context, bucket, prefix, after string, limit int, visit func(*copies.Listed) error) error {
	last := after
	for {
		before := last
		err := g.byOneMap(ctx, bucket, func(l *listing) error {
			return l.walk(ctx, prefix, last, limit, func(o *copies.Listed) error {
				if err := visit(o); err != nil {
					return err
				}
				last = o.Name
				return nil
			})
		})
		var answer *api.Error
		if last == before || !errors.As(err, &answer) || answer.Code != api.CodeUnavailable || ctx.Err() != nil {
			return err
		}
	}
}

// walk visits all names behind one, deletions included.
func (l *listing) walk(ctx context.Context, prefix, after string, limit int, visit func(*copies.Listed) error) error {
	limit = min(max(walkObjects/max(len(l.targets), 1), minWalkPage), limit)
	group, ctx := errgroup.WithContext(ctx)
	cursors := make([]*cursor, len(l.targets))
	for i, n := range l.targets {
		c := &cursor{pages: make(chan []copies.Listed)}
		cursors[i] = c
		group.Go(func() error {
			defer close(c.pages)
			c.err = l.listTarget(ctx, n, prefix, after, limit, c.pages)
			return c.err
		})
	}
	group.Go(func() error { return merged(cursors, visit) })
	return group.Wait()
}

// listTarget sends a target's objects on, page by page, the next being asked for while one is worked on.
func (l *listing) listTarget(ctx context.Context, n api.Node, prefix, after string, limit int, pages chan<- []copies.Listed) error {
	query := url.Values{"prefix": {prefix}, "start_after": {after}, "limit": {strconv.Itoa(limit)}}
	if l.all {
		query.Set(copies.ListAll, "true")
	}
	for {
		var page copies.Page
		path := copies.PathList + url.PathEscape(l.bucket.Name)
		if err := l.ask(ctx, n, http.MethodGet, path, query, http.NoBody, &page); err != nil {
			return err
		}
		select {
		case pages <- page.Objects:
		case <-ctx.Done():
			return ctx.Err()
		}
		if page.Next == "" {
			return nil
		}
		query.Set("start_after", page.Next)
	}
}

// cursor goes through one target's objects.
type cursor struct {
	pages   chan []copies.Listed
	err     error           // that pages was closed for
	objects []copies.Listed // that are left of a page
}

// fill makes sure that there is an object; false at the end.
func (c *cursor) fill() (bool, error) {
	for len(c.objects) == 0 {
		page, ok := <-c.pages
		if !ok {
			return false, c.err
		}
		c.objects = page
	}
	return true, nil
}

// merged visits the objects of all cursors, sorted. A name that two targets have, after a join, counts
// once, with the newest version.
func merged(cursors []*cursor, visit func(*copies.Listed) error) error {
	var next byName
	for _, c := range cursors {
		ok, err := c.fill()
		if err != nil {
			return err
		}
		if ok {
			next = append(next, c)
		}
	}
	heap.Init(&next)
	last := ""
	for len(next) > 0 {
		c := next[0]
		o := &c.objects[0]
		if o.Name != last {
			if err := visit(o); err != nil {
				return err
			}
			last = o.Name
		}
		c.objects = c.objects[1:]
		ok, err := c.fill()
		if err != nil {
			return err
		}
		if ok {
			heap.Fix(&next, 0)
		} else {
			heap.Pop(&next)
		}
	}
	return nil
}

// byName is a heap of cursors: first the least name, and of one name the newest version.
type byName []*cursor

func (h byName) Len() int { return len(h) }
func (h byName) Less(i, j int) bool {
	a, b := &h[i].objects[0], &h[j].objects[0]
	return a.Name < b.Name || a.Name == b.Name && a.Version > b.Version
}
func (h byName) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *byName) Push(x any)   { *h = append(*h, x.(*cursor)) } //nolint:forcetypeassert // heap's own
func (h *byName) Pop() any {
	last := len(*h) - 1
	c := (*h)[last]
	*h = (*h)[:last]
	return c
}
