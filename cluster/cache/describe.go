package cache

import (
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/archive"
	"github.com/shardstream/shardstream/core/backend"
	"github.com/shardstream/shardstream/core/store"
)

// Describe tells all that there is to know of objects but their bytes, as a backend's listing has them: what is described
// here under that tag, or else, and remembered from then on, the headers of an archive, read in small pieces, and of any
// other object what the listing says. The answer is in the order of the entries. each, unless it is nil, is told of every
// archive as soon as it is described, from several goroutines.
func (c *Cache) Describe(ctx context.Context, b *api.Bucket, entries []backend.Entry, each func(*store.Info)) ([]store.Info, error) {
	infos := make([]store.Info, len(entries))
	var plain []int
	group, ctx := errgroup.WithContext(ctx)
	ramp := newRamp()
	for i := range entries {
		if entries[i].Size >= 0 && archive.FormatOf(entries[i].Name) == archive.None {
			plain = append(plain, i)
			continue
		}
		if err := ramp.take(ctx); err != nil {
			group.Go(func() error { return err })
			break
		}
		group.Go(func() (err error) {
			defer ramp.give()
			if infos[i], err = c.describe(ctx, b, entries[i]); err == nil && each != nil && infos[i].Archive != archive.None {
				each(&infos[i])
			}
			return err
		})
	}
	for batch := range slices.Chunk(plain, maxPlain) {
		if err := c.describePlain(ctx, b, entries, batch, infos); err != nil {
			return infos, errors.Join(err, group.Wait())
		}
	}
	return infos, group.Wait()
}

// ramp lets more and more archives be described at a time, up to maxDescribes: the first are known soon, so that their fetch
// can begin, and later none waits for the latency of the others.
type ramp struct {
	free chan struct{}
	more atomic.Int32 // turns that may be added
}

func newRamp() *ramp {
	r := &ramp{free: make(chan struct{}, maxDescribes)}
	for range firstDescribes {
		r.free <- struct{}{}
	}
	r.more.Store(maxDescribes - firstDescribes)
	return r
}

func (r *ramp) take(ctx context.Context) error {
	select {
	case <-r.free:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// give gives a turn back, and another with it as long as there may be more.
func (r *ramp) give() {
	r.free <- struct{}{}
	if r.more.Add(-1) >= 0 {
		r.free <- struct{}{}
	}
}

// maxPlain bounds the objects whose descriptions are written at once.
const maxPlain = 256

// describePlain describes objects of which a listing says all, those of the given numbers, in one write.
func (c *Cache) describePlain(ctx context.Context, b *api.Bucket, entries []backend.Entry, numbers []int, infos []store.Info) error {
	lacking := map[string]int{} // the last of each name: there is one write of it
	for _, i := range numbers {
		here, err := c.known(ctx, b, entries[i].Name)
		if err != nil {
			return err
		}
		if infos[i] = here; !isOwn(&here) && !isDescribed(&here, &entries[i]) {
			lacking[entries[i].Name] = i
		}
	}
	if len(lacking) == 0 {
		return nil
	}
	described, err := c.writePlain(ctx, b, entries, lacking)
	for _, i := range numbers {
		if info, ok := described[entries[i].Name]; ok {
			infos[i] = info
		}
	}
	return err
}

// writePlain writes the descriptions of objects that lack one.
func (c *Cache) writePlain(
	ctx context.Context, b *api.Bucket, entries []backend.Entry, lacking map[string]int,
) (map[string]store.Info, error) {
	described := make(map[string]store.Info, len(lacking))
	var stubs []store.Info
	for _, name := range slices.Sorted(maps.Keys(lacking)) { // in this order, so that two who do this never wait for each other
		leave, err := c.Enter(ctx, b.Name, name)
		if err != nil {
			return nil, err
		}
		defer leave()
		here, err := c.here(b.Name, name)
		if err != nil {
			return nil, err
		}
		e := &entries[lacking[name]]
		if described[name] = here; isOwn(&here) || isDescribed(&here, e) {
			continue
		}
		last := c.seen.put(objectKey{b.Name, name}, *e, &here, c.Version, time.Now())
		c.usage.remove(b.Name, name) // what was cached under another tag
		stubs = append(stubs, last.described(b.Name, name))
	}
	put, failed := c.Store.PutStubs(ctx, stubs)
	for i := range stubs {
		if failed[i] != nil {
			return nil, failed[i]
		}
		described[stubs[i].Name] = put[i]
	}
	return described, nil
}

// describe describes one object.
func (c *Cache) describe(ctx context.Context, b *api.Bucket, e backend.Entry) (store.Info, error) {
	for range maxTries {
		info, err := c.describeOnce(ctx, b, e)
		if !errors.Is(err, errAgain) {
			return info, err
		}
	}
	return store.Info{}, gaveUp(b.Name, e.Name, errAgain)
}

func (c *Cache) describeOnce(ctx context.Context, b *api.Bucket, e backend.Entry) (store.Info, error) {
	here, err := c.known(ctx, b, e.Name)
	if err != nil || isOwn(&here) || isDescribed(&here, &e) {
		return here, err
	}
	if e.Size < 0 { // a listing that does not say it is of no use
		last, err := c.compare(ctx, b, e.Name)
		if err != nil {
			return here, err
		}
		e = last.entry
		if here, err = c.here(b.Name, e.Name); err != nil || isOwn(&here) || isDescribed(&here, &e) {
			return here, err
		}
		if e.Size < 0 {
			return c.fetch(ctx, b, e.Name, want{urgent: true})
		}
	}
	last, err := c.saw(b.Name, e.Name, e, time.Now())
	if err != nil {
		return here, err
	}
	info := last.described(b.Name, e.Name)
	if tag, tagged := tagOf(&here); tagged && tag == last.tag {
		info.Created, info.ContentType = here.Created, here.ContentType
	}
	index, err := c.scan(ctx, b, &e)
	if err != nil {
		return here, err
	}
	if index != nil {
		info.Archive = archive.FormatOf(e.Name)
	}
	return c.note(ctx, b, &here, info, index)
}

// isDescribed says that what is here tells all that there is to know of an entry.
func isDescribed(here *store.Info, e *backend.Entry) bool {
	tag, tagged := tagOf(here)
	if !tagged || here.Kind == store.Tombstone || tag != originOf(e) {
		return false
	}
	return !here.Unread() || here.Archive != archive.None || archive.FormatOf(e.Name) == archive.None
}

// scanReaders is how many parts of one archive are read at a time.
const scanReaders = 8

// scan reads the headers of an archive; nil for an object that is none.
func (c *Cache) scan(ctx context.Context, b *api.Bucket, e *backend.Entry) (*archive.Index, error) {
	if archive.FormatOf(e.Name) == archive.None {
		return nil, nil //nolint:nilnil // absence is an answer here
	}
	tag := originOf(e)
	read := func(ctx context.Context, p []byte, off int64) (int, error) {
		body, err := c.openPart(ctx, b, e.Name, backend.OpenOptions{Offset: off, Length: int64(len(p)), Tag: asked(tag)})
		if err != nil {
			return 0, err
		}
		defer func() { _ = body.Close() }() // what is wrong with it, its reader has said
		if now := originOf(&body.Entry); now != tag {
			return 0, changedThere(b.Name, e.Name, errors.New("it was replaced while it was described"))
		}
		return io.ReadFull(body, p)
	}
	return archive.Scan(ctx, read, e.Size, archive.ScanOptions{Readers: scanReaders})
}

// note remembers a description.
func (c *Cache) note(ctx context.Context, b *api.Bucket, base *store.Info, info store.Info, index *archive.Index) (store.Info, error) {
	staged, err := c.Store.StageStub(ctx, info, index)
	if err != nil {
		return info, err
	}
	defer staged.Discard() //nolint:errcheck // after a commit it does nothing; else what is left is swept
	leave, err := c.Enter(ctx, b.Name, info.Name)
	if err != nil {
		return info, err
	}
	defer leave()
	here, err := c.here(b.Name, info.Name)
	switch {
	case err != nil:
		return here, err
	case here.Version != base.Version && here.Version != info.Version, isOwn(&here):
		return here, errAgain
	case here.Version == info.Version && here.Kind == store.Whole:
		return here, nil // it was fetched meanwhile
	}
	made, err := staged.Commit(info.Version, info.Created, store.Condition{})
	if errors.Is(err, store.ErrSuperseded) {
		return here, errAgain
	}
	if err == nil && here.Version != info.Version {
		c.usage.remove(b.Name, info.Name) // what was cached under another tag
	}
	return made, err
}
