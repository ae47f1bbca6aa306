package gateway

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/copies"
	"github.com/shardstream/shardstream/cluster/origin"
	"github.com/shardstream/shardstream/core/archive"
	"github.com/shardstream/shardstream/core/backend"
)

const (
	describeAtOnce  = 512  // objects of a backend that the targets are asked to describe together
	describeAhead   = 4    // such requests under way
	batchObjects    = 8192 // of a listing; a stream of no more has those described first that it goes through first
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

// batchOf is some objects of a bucket with a backend, in order; those of which there is an entry are being described.
type batchOf struct {
	objects []api.Object
	entries []backend.Entry
	places  []int // of the entries
	whole   bool  // it is all that the stream is of
	err     error
	done    chan struct{}
}

func (b *batchOf) known(o *api.Object) { b.objects = append(b.objects, *o) }

func (b *batchOf) unknown(e *backend.Entry, describe bool) {
	if describe {
		b.entries, b.places = append(b.entries, *e), append(b.places, len(b.objects))
	}
	b.objects = append(b.objects, api.Object{Name: e.Name, Size: e.Size})
}

// byNeed are the numbers of the entries, those first that the stream goes through first, where that is known.
func (b *batchOf) byNeed(first *firstUse) []int {
	numbers := make([]int, len(b.entries))
	for i := range numbers {
		numbers[i] = i
	}
	if first == nil || !b.whole {
		return numbers
	}
	places, n := make([]int, len(b.objects)), 0 // among the shards
	for i := range b.objects {
		places[i] = n
		if o := &b.objects[i]; o.Archive != string(archive.None) || archive.FormatOf(o.Name) != archive.None {
			n++
		}
	}
	turns, turn := make([]int64, len(numbers)), first.shuffle.Turns(n, first.epoch)
	for i, e := range b.entries {
		if archive.FormatOf(e.Name) != archive.None {
			turns[i] = turn(places[b.places[i]])
		}
	}
	slices.SortFunc(numbers, func(i, j int) int { return cmp.Compare(turns[i], turns[j]) })
	return numbers
}

// walkCold visits the objects of a bucket with a backend that a pattern matches, sorted by name; those that the targets do not
// know yet are described first, unless they can't be of the stream.
func (g *Gateway) walkCold(ctx context.Context, b *api.Bucket, p *api.Pattern, l *list, visit func(*api.Object) error) error {
	group, gctx := errgroup.WithContext(ctx)
	queue := make(chan *batchOf, 1)
	d := &describing{g: g, bucket: b, list: l, asks: make(chan struct{}, describeAhead)}
	group.Go(func() error {
		defer close(queue)
		return d.listed(gctx, group, p, queue)
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

// describing has objects of a bucket described for a stream.
type describing struct {
	g      *Gateway
	bucket *api.Bucket
	list   *list
	asks   chan struct{} // under way, of a listing; nil where objects are named
}

// listed lists the bucket and has what is new in it described, batch by batch.
func (d *describing) listed(ctx context.Context, group *errgroup.Group, p *api.Pattern, queue chan<- *batchOf) error {
	batch := &batchOf{done: make(chan struct{}), whole: true}
	send := func() error {
		full := batch
		batch = &batchOf{done: make(chan struct{})}
		select {
		case queue <- full:
		case <-ctx.Done():
			return ctx.Err()
		}
		d.list.progress.found(len(full.entries))
		group.Go(func() error {
			defer close(full.done)
			full.err = d.describe(ctx, full)
			return nil // in its turn
		})
		return nil
	}
	sendFull := func() error {
		if len(batch.objects) < batchObjects {
			return nil
		}
		batch.whole = false
		return send()
	}
	err := d.g.walkOrigin(ctx, d.bucket, originPart{
		prefix: p.Prefix,
		unknown: func(e *backend.Entry) error {
			if p.Match(e.Name) {
				batch.unknown(e, d.list.plain || archive.FormatOf(e.Name) != archive.None)
			}
			return sendFull()
		},
	}, func(o *api.Object) error {
		if p.Match(o.Name) {
			batch.known(o)
		}
		return sendFull()
	})
	if err != nil {
		return err
	}
	return send()
}

// describe has the targets describe the entries of a batch, some at a time.
func (d *describing) describe(ctx context.Context, batch *batchOf) error {
	group, ctx := errgroup.WithContext(ctx)
	for some := range slices.Chunk(batch.byNeed(d.list.first), describeAtOnce) {
		select {
		case d.asks <- struct{}{}:
		case <-ctx.Done():
			if err := group.Wait(); err != nil {
				return err
			}
			return context.Cause(ctx)
		}
		group.Go(func() error {
			defer func() { <-d.asks }()
			if err := d.ask(ctx, batch, some); err != nil {
				return err
			}
			d.list.progress.described(len(some))
			return nil
		})
	}
	return group.Wait()
}

// ask has the targets describe some of the entries of a batch; again, where the map changes or a target is away for a
// moment: what was described is known then.
func (d *describing) ask(ctx context.Context, batch *batchOf, numbers []int) error {
	for try := 1; ; try++ {
		err := d.askOnce(ctx, batch, numbers)
		var refused *api.Error
		if err == nil || try == describeTries || ctx.Err() != nil || !errors.As(err, &refused) || refused.Code != api.CodeUnavailable {
			return err
		}
		select {
		case <-time.After(describePause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// askOnce has each target describe those of which it is the primary.
func (d *describing) askOnce(ctx context.Context, batch *batchOf, numbers []int) error {
	version := d.g.members.View().Map().Version
	targets, byTarget := map[string]api.Node{}, map[string][]int{}
	for _, i := range numbers {
		primary, err := d.g.Primary(d.bucket, batch.entries[i].Name)
		if err != nil {
			return err
		}
		targets[primary.ID] = primary
		byTarget[primary.ID] = append(byTarget[primary.ID], i)
	}
	group, ctx := errgroup.WithContext(ctx)
	for id, some := range byTarget {
		group.Go(func() error { return d.askTarget(ctx, version, targets[id], batch, some) })
	}
	return group.Wait()
}

// askTarget has a target describe some of the entries.
func (d *describing) askTarget(ctx context.Context, version int64, target api.Node, batch *batchOf, some []int) error {
	ask := struct {
		Entries []backend.Entry `json:"entries"`
		Fetch   bool            `json:"fetch"`
	}{make([]backend.Entry, len(some)), d.list.ahead}
	for i, n := range some {
		ask.Entries[i] = batch.entries[n]
	}
	body, err := json.Marshal(ask)
	if err != nil {
		return err
	}
	var answer api.ObjectList
	path := "/v1/internal/buckets/" + url.PathEscape(d.bucket.Name) + "/describe"
	if err := d.g.askBy(ctx, version, describeTimeout, target, http.MethodPost, path, nil, bytes.NewReader(body), &answer); err != nil {
		return err
	}
	if len(answer.Objects) != len(some) {
		return api.Errorf(http.StatusInternalServerError, api.CodeInternal, "target %s described %d of %d objects", target.ID, len(answer.Objects), len(some))
	}
	for i, n := range some {
		batch.objects[batch.places[n]] = answer.Objects[i]
	}
	return nil
}

// lookUpCold describes the objects of a bucket with a backend that sources name exactly; out is written at their places
// alone.
func (g *Gateway) lookUpCold(ctx context.Context, b *api.Bucket, sources []source, numbers []int, out []found, l *list) error {
	d := &describing{g: g, bucket: b, list: l}
	for from := 0; from < len(numbers); from += describeAtOnce {
		some := numbers[from:min(from+describeAtOnce, len(numbers))]
		lines := map[int]*copies.Listed{}
		err := g.statLines(ctx, b.Name, sources, some, func(n int, line *copies.Listed) { lines[n] = line })
		if err != nil {
			return err
		}
		entries, err := g.statAt(ctx, b, sources, some)
		if err != nil {
			return err
		}
		merge, batch := &originMerge{bucket: b}, &batchOf{}
		var places []int
		for i, n := range some {
			switch {
			case lines[n] != nil && merge.known(lines[n], entries[i]):
				out[n] = foundOf(&lines[n].Object)
			case entries[i] != nil:
				batch.unknown(entries[i], true)
				places = append(places, n)
			}
		}
		l.progress.found(len(places))
		if err := d.ask(ctx, batch, batch.byNeed(nil)); err != nil {
			return err
		}
		for i, n := range places {
			out[n] = foundOf(&batch.objects[i])
		}
		l.progress.described(len(places))
	}
	return nil
}

// statAt asks a backend for objects; nil for those that it has not.
func (g *Gateway) statAt(ctx context.Context, b *api.Bucket, sources []source, some []int) ([]*backend.Entry, error) {
	from, err := g.origin(ctx, b)
	if err != nil {
		return nil, err
	}
	entries := make([]*backend.Entry, len(some))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(coldStats)
	for i, n := range some {
		group.Go(func() error {
			e, err := from.Stat(ctx, sources[n].key)
			switch {
			case err == nil:
				entries[i] = &e
			case backend.KindOf(err) == backend.NotFound:
				return nil // which is said of all together
			}
			return origin.Answer(b.Name, err)
		})
	}
	return entries, group.Wait()
}
