package gateway

import (
	"container/heap"
	"context"
	"net/http"
	"net/url"
	"strconv"

	"golang.org/x/sync/errgroup"

	"github.com/shardstream/shardstream/cluster/api"
)

// A walk has about so many objects at hand, from all targets together.
const (
	walkObjects = 200_000
	minWalkPage = 200
)

// walk visits all objects of a bucket that begin with a prefix, sorted by name; complete, or an error. It
// asks each target for its own objects page by page and merges them as they come, so it takes as many
// requests as there are pages, and memory for a page or two of each target, whatever their number.
func (g *Gateway) walk(ctx context.Context, bucket, prefix string, visit func(*api.Object) error) error {
	if _, err := g.bucket(ctx, bucket); err != nil {
		return err
	}
	if len(prefix) > maxName {
		return nil // no name is as long
	}
	targets := g.members.View().Map().Targets()
	limit := min(max(walkObjects/max(len(targets), 1), minWalkPage), maxPage)
	group, ctx := errgroup.WithContext(ctx)
	cursors := make([]*cursor, len(targets))
	for i, n := range targets {
		c := &cursor{pages: make(chan []api.Object)}
		cursors[i] = c
		group.Go(func() error {
			defer close(c.pages)
			return g.listTarget(ctx, n, bucket, prefix, limit, c.pages)
		})
	}
	group.Go(func() error { return merged(ctx, cursors, visit) })
	return group.Wait()
}

// listTarget sends a target's objects on, page by page, the next being asked for while one is worked on.
func (g *Gateway) listTarget(ctx context.Context, n api.Node, bucket, prefix string, limit int, pages chan<- []api.Object) error {
	query := url.Values{"prefix": {prefix}, "limit": {strconv.Itoa(limit)}}
	for {
		var page api.ObjectList
		if err := g.Ask(ctx, pageTimeout, n, http.MethodGet, "/v1/buckets/"+url.PathEscape(bucket)+"/objects", query, &page); err != nil {
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
	pages   chan []api.Object
	objects []api.Object // that are left of a page
}

// fill makes sure that there is an object; false at the end.
func (c *cursor) fill(ctx context.Context) (bool, error) {
	for len(c.objects) == 0 {
		page, ok := <-c.pages
		if !ok {
			return false, ctx.Err() // whoever closed it early has ended the context
		}
		c.objects = page
	}
	return true, nil
}

// merged visits the objects of all cursors, sorted. A name that two targets have, after a join, counts
// once, with the newest version.
func merged(ctx context.Context, cursors []*cursor, visit func(*api.Object) error) error {
	var next byName
	for _, c := range cursors {
		ok, err := c.fill(ctx)
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
		ok, err := c.fill(ctx)
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
