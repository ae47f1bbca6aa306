package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/origin"
	"github.com/shardstream/shardstream/core/archive"
	"github.com/shardstream/shardstream/core/backend"
)

const (
	describeAtOnce  = 512 // objects of a backend that the targets are asked to describe together
	describeAhead   = 4   // such requests under way
	describeTimeout = 10 * time.Minute
	describeTries   = 5 // while the map changes, or a target is away
	describePause   = 500 * time.Millisecond
	coldStats       = 32 // objects that a backend is asked for at a time
)

// coldOf are the buckets of sources that have backends.
func (g *Gateway) coldOf(ctx context.Context, sources []source) (coldBuckets, error) {
	seen, cold := map[string]bool{}, coldBuckets{}
	for i := range sources {
		name := sources[i].bucket
		if seen[name] {
			continue
		}
		seen[name] = true
		b, err := g.bucket(ctx, name)
		if err != nil {
			return nil, err
		}
		if b.Backend != nil {
			cold[name] = &b.Bucket
		}
	}
	return cold, nil
}

// batchOf is some objects that are being described.
type batchOf struct {
	objects []api.Object
	err     error
	done    chan struct{}
}

// walkCold visits the objects of a backend that a pattern matches, sorted by name, as the targets describe them. What can't be
// of the stream is not described.
func (g *Gateway) walkCold(ctx context.Context, b *api.Bucket, p *api.Pattern, l *list, visit func(*api.Object) error) error {
	group, gctx := errgroup.WithContext(ctx)
	queue := make(chan *batchOf, describeAhead)
	group.Go(func() error {
		defer close(queue)
		return g.describeListed(gctx, group, b, p, l, queue)
	})
	group.Go(func() error {
		for batch := range queue {
			select {
			case <-batch.done:
			case <-gctx.Done():
				return gctx.Err()
			}
			if batch.err != nil {
				return batch.err
			}
			for i := range batch.objects {
				if err := visit(&batch.objects[i]); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return group.Wait()
}

// describeListed lists a backend and has what it finds described, batch by batch.
func (g *Gateway) describeListed(ctx context.Context, group *errgroup.Group, b *api.Bucket, p *api.Pattern, l *list, queue chan<- *batchOf) error {
	var entries []backend.Entry
	send := func() error {
		if len(entries) == 0 {
			return nil
		}
		batch, some := &batchOf{done: make(chan struct{})}, entries
		entries = nil
		select {
		case queue <- batch:
		case <-ctx.Done():
			return ctx.Err()
		}
		l.progress.found(len(some))
		group.Go(func() error {
			defer close(batch.done)
			batch.objects, batch.err = g.described(ctx, b, some, l.plain)
			l.progress.described(len(some))
			return nil // in its turn
		})
		return nil
	}
	for e, err := range g.entries(ctx, b, p.Prefix, "") {
		if err != nil {
			return err
		}
		if !p.Match(e.Name) {
			continue
		}
		if entries = append(entries, e); len(entries) == describeAtOnce {
			if err := send(); err != nil {
				return err
			}
		}
	}
	return send()
}

// described describes objects, in their order. Of archives, those that are none are left as the backend lists them.
func (g *Gateway) described(ctx context.Context, b *api.Bucket, entries []backend.Entry, plain bool) ([]api.Object, error) {
	objects := make([]api.Object, len(entries))
	targets, byTarget := map[string]api.Node{}, map[string][]int{}
	for i, e := range entries {
		objects[i] = api.Object{Name: e.Name, Size: e.Size}
		if !plain && archive.FormatOf(e.Name) == archive.None {
			continue
		}
		primary, err := g.Primary(b, e.Name)
		if err != nil {
			return nil, err
		}
		targets[primary.ID] = primary
		byTarget[primary.ID] = append(byTarget[primary.ID], i)
	}
	group, ctx := errgroup.WithContext(ctx)
	for id, some := range byTarget {
		group.Go(func() error { return g.describeAt(ctx, b, targets[id], entries, some, objects) })
	}
	return objects, group.Wait()
}

// describeAt has a target describe some of the entries.
func (g *Gateway) describeAt(ctx context.Context, b *api.Bucket, target api.Node, entries []backend.Entry, some []int, objects []api.Object) error {
	ask := struct {
		Entries []backend.Entry `json:"entries"`
	}{make([]backend.Entry, len(some))}
	for i, n := range some {
		ask.Entries[i] = entries[n]
	}
	body, err := json.Marshal(ask)
	if err != nil {
		return err
	}
	for try := 1; ; try++ {
		var answer api.ObjectList
		err := g.ask(ctx, describeTimeout, target, http.MethodPost, "/v1/internal/buckets/"+url.PathEscape(b.Name)+"/describe", nil, bytes.NewReader(body), &answer)
		if err == nil {
			if len(answer.Objects) != len(some) {
				return api.Errorf(http.StatusInternalServerError, api.CodeInternal, "target %s described %d of %d objects", target.ID, len(answer.Objects), len(some))
			}
			for i, n := range some {
				objects[n] = answer.Objects[i]
			}
			return nil
		}
		var refused *api.Error
		if try == describeTries || ctx.Err() != nil || !errors.As(err, &refused) || refused.Code != api.CodeUnavailable {
			return err
		}
		select {
		case <-time.After(describePause):
		case <-ctx.Done():
			return ctx.Err()
		}
		if target, err = g.Primary(b, ask.Entries[0].Name); err != nil {
			return err
		}
	}
}

// statCold describes the objects of a backend that sources name exactly; out is written at their places alone.
func (g *Gateway) statCold(ctx context.Context, b *api.Bucket, sources []source, numbers []int, out []found, p *progress) error {
	from, err := g.origin(ctx, b)
	if err != nil {
		return err
	}
	p.found(len(numbers))
	entries := make([]backend.Entry, len(numbers))
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(coldStats)
	for i, n := range numbers {
		group.Go(func() error {
			e, err := from.Stat(gctx, sources[n].key)
			if backend.KindOf(err) == backend.NotFound {
				return nil // which is said of all together
			}
			entries[i] = e
			return origin.Answer(b.Name, err)
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	var there []backend.Entry
	var places []int
	for i, n := range numbers {
		if entries[i].Name != "" {
			there, places = append(there, entries[i]), append(places, n)
		}
	}
	for at := 0; at < len(there); at += describeAtOnce {
		some := there[at:min(at+describeAtOnce, len(there))]
		objects, err := g.described(ctx, b, some, true) // whatever they are: a name that is none of an archive is told as that
		if err != nil {
			return err
		}
		for i := range objects {
			out[places[at+i]] = foundOf(&objects[i])
		}
		p.described(len(some))
	}
	return nil
}
