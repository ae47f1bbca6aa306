package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/archive"
	"github.com/shardstream/shardstream/core/backend"
	"github.com/shardstream/shardstream/core/store"
)

// want says what a fetch is for.
type want struct {
	urgent bool // somebody waits for it
	fill   bool // it goes on when nobody waits any more
	pinned bool // it must be what is described here; otherwise it is what the backend has now
	spare  bool // nothing gives way to it
}

// flight is a fetch of an object: the only one of it at a time.
type flight struct {
	c      *Cache
	bucket *api.Bucket
	key    string
	pinned bool
	ticket ticket
	cancel context.CancelCauseFunc

	room    func() // gives back what is reserved; nil: nothing is
	roomFor int64
	sought  need // what room was looked for at last; run's alone until done

	opened chan struct{} // closed once info and growing are there, or it has failed
	done   chan struct{} // closed once it is committed, or has failed

	mu       sync.Mutex
	waiting  int
	fill     bool
	spare    bool           // all who want it want it so
	ending   bool           // nobody wanted it any more: who comes now waits for its end, and begins anew
	followed bool           // others have read some of it
	invalid  bool           // what the backend has was replaced by a write through this node
	info     store.Info     // of the object as it will be
	growing  *store.Growing // nil: it can't be followed
	err      error
}

// join begins a fetch, or takes part in the one that is under way. The caller leaves it when it is done waiting.
func (c *Cache) join(b *api.Bucket, key string, w want) (*flight, error) {
	about := objectKey{b.Name, key}
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.flights[about]
	if f == nil {
		if c.closed {
			return nil, api.Errorf(503, api.CodeUnavailable, "%v", errStopping)
		}
		f = &flight{
			c: c, bucket: b, key: key, pinned: w.pinned, spare: w.spare, ticket: ticket{bucket: b.Name, urgent: w.urgent},
			opened: make(chan struct{}), done: make(chan struct{}),
		}
		var ctx context.Context
		ctx, f.cancel = context.WithCancelCause(c.ctx)
		c.flights[about] = f
		c.work.Go(func() { f.run(ctx) }) // ends with the fetch, or with Close
	}
	f.mu.Lock()
	f.waiting++
	f.fill = f.fill || w.fill
	f.spare = f.spare && w.spare
	f.mu.Unlock()
	if w.urgent {
		c.slots.promote(&f.ticket)
	}
	return f, nil
}

// leave says that one who waited does not any more.
func (f *flight) leave() {
	f.mu.Lock()
	f.waiting--
	unwanted := f.waiting == 0 && !f.fill
	f.mu.Unlock()
	if unwanted {
		f.c.unwanted(f)
	}
}

// unwanted ends a fetch, if nobody has joined it again.
func (c *Cache) unwanted(f *flight) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.waiting == 0 && !f.fill {
		f.ending = true
		f.cancel(errUnwanted)
	}
}

// flying says whether an object is being fetched.
func (c *Cache) flying(bucket, key string) bool { return c.current(bucket, key) != nil }

// current is the fetch of an object that is under way, if there is one.
func (c *Cache) current(bucket, key string) *flight {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.flights[objectKey{bucket, key}]
}

// ahead says by an error that whoever asked for an object came here through a bucket that waits for this one already. It is
// asked for before anything that others may wait for too, be it a fetch or a lock: that may wait for the asker.
func (c *Cache) ahead(ctx context.Context, b *api.Bucket) error {
	if len(backend.Via(ctx)) == 0 {
		return nil
	}
	_, err := c.Backends.Get(ctx, b)
	return err
}

// fetch fetches an object, or waits for the fetch that is under way, and describes what is here then.
func (c *Cache) fetch(ctx context.Context, b *api.Bucket, key string, w want) (store.Info, error) {
	if err := c.ahead(ctx, b); err != nil {
		return store.Info{}, err
	}
	f, err := c.join(b, key, w) //nolint:contextcheck // it outlives who asked first
	if err != nil {
		return store.Info{}, err
	}
	defer f.leave()
	select {
	case <-f.done:
		if f.pinned && !w.pinned && changes(f.err) {
			return f.info, errAgain // it was of what is described, and this is of what the backend has now
		}
		if f.foundLess(w) {
			return f.info, errAgain
		}
		return f.info, f.err
	case <-ctx.Done():
		return store.Info{}, context.Cause(ctx)
	}
}

// foundLess says of a fetch that has ended that there was no room for it, but may be for who wants it more: others may have to
// give way then.
func (f *flight) foundLess(w want) bool {
	return errors.Is(f.err, ErrNoRoom) && (w.urgent && !f.sought.urgent || !w.spare && f.sought.spare)
}

// run fetches the object and ends.
func (f *flight) run(ctx context.Context) {
	c := f.c
	c.usage.hold(f.bucket.Name)
	err := f.fly(ctx)
	c.slots.give(&f.ticket)
	if kindIs(err, backend.Corrupt) {
		err = errors.Join(err, f.disown(ctx))
	}
	if err != nil && ctx.Err() != nil && !errors.Is(err, errAgain) {
		err = context.Cause(ctx)
	}
	if errors.Is(err, errStopping) {
		err = api.Errorf(503, api.CodeUnavailable, "%s: %v", api.Address(f.bucket.Name, f.key), errStopping)
	}
	c.mu.Lock()
	delete(c.flights, objectKey{f.bucket.Name, f.key})
	c.mu.Unlock()
	f.mu.Lock()
	f.err = err
	f.mu.Unlock()
	select {
	case <-f.opened:
	default:
		close(f.opened)
	}
	close(f.done)
	f.cancel(nil)
	c.meter.fetched(err)
	if err != nil && !again(err) && !errors.Is(err, ErrNoRoom) && !gone(err) {
		c.Logger.WarnContext(ctx, "an object could not be fetched", "object", api.Address(f.bucket.Name, f.key), "error", err)
	}
}

// disown has an object get another version, where others have followed a fetch that turned out to be damaged. They may have
// damaged bytes, and must not get the rest of the object to them, by a range of the same version.
func (f *flight) disown(ctx context.Context) error {
	f.mu.Lock()
	followed, info := f.followed, f.info
	f.mu.Unlock()
	if !followed {
		return nil
	}
	c := f.c
	leave, err := c.Enter(ctx, f.bucket.Name, f.key)
	if err != nil {
		return err
	}
	defer leave()
	c.seen.drop(objectKey{f.bucket.Name, f.key})
	here, err := c.here(f.bucket.Name, f.key)
	if err != nil || here.Version != info.Version || here.Kind != store.Stub || !here.Unread() {
		return err // who follows what has been read before knows its checksum
	}
	return c.Store.Forget(ctx, f.bucket.Name, f.key, here.Version)
}

func (f *flight) fly(ctx context.Context) error {
	c := f.c
	if err := c.slots.take(ctx, &f.ticket); err != nil {
		return err
	}
	base, err := c.known(ctx, f.bucket, f.key)
	if err != nil {
		return err
	}
	if isOwn(&base) {
		return errAgain // put meanwhile
	}
	defer f.giveRoom()
	if size, known := f.likely(&base); known { // else what the backend answers says it
		if err := f.takeRoom(ctx, size); err != nil {
			return err
		}
	}
	remote, err := c.Backends.Get(ctx, f.bucket)
	if err != nil {
		return err
	}
	var o backend.OpenOptions
	if f.pinned {
		tag, _ := tagOf(&base)
		o.Tag = asked(tag)
	}
	begun := time.Now()
	body, err := remote.Open(ctx, f.key, o)
	if gone(err) {
		return c.forget(ctx, f.bucket, f.key, &base, err)
	}
	if f.pinned && kindIs(err, backend.Changed) {
		return changedThere(f.bucket.Name, f.key, err)
	}
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }() // what is wrong with it, its reader has said
	info, err := f.expect(&base, body.Entry, begun)
	if changes(err) && !f.pinned { // it has another length under the same tag: who asks next gets what there is then
		_ = c.forget(ctx, f.bucket, f.key, &base, err) // which says that the object is gone, as this version is
	}
	if err != nil {
		return err
	}
	return f.keep(ctx, &base, info, body)
}

// expect says what the object will be, by what the backend says of it and what is known here.
func (f *flight) expect(base *store.Info, e backend.Entry, at time.Time) (store.Info, error) {
	c := f.c
	f.mu.Lock()
	if f.invalid { // what comes is of before a write
		f.mu.Unlock()
		return store.Info{}, errAgain
	}
	last := c.seen.put(objectKey{f.bucket.Name, f.key}, e, base, c.Version, at)
	f.mu.Unlock()
	if last.tag != originOf(&e) { // it has changed since this was asked for
		return store.Info{}, errAgain
	}
	tag, tagged := tagOf(base)
	if f.pinned && (!tagged || tag != last.tag) {
		return store.Info{}, changedThere(f.bucket.Name, f.key, fmt.Errorf("it has the tag %s there, not %s", last.tag, tag))
	}
	info := last.described(f.bucket.Name, f.key)
	if tagged && tag == last.tag {
		info = *base
		if e.ContentType != "" {
			info.ContentType = e.ContentType
		}
		if e.Size >= 0 && e.Size != base.Size {
			return info, changedThere(f.bucket.Name, f.key, fmt.Errorf("it has %d bytes there, not %d", e.Size, base.Size))
		}
	}
	return info, nil
}

// keep takes in the object, lets others follow it, and commits it.
func (f *flight) keep(ctx context.Context, base *store.Info, info store.Info, body *backend.Body) error {
	c := f.c
	staged, err := f.stage(ctx, base, info, body)
	if err != nil {
		return err
	}
	defer staged.Discard() //nolint:errcheck // after a commit it does nothing; else what is left is swept
	leave, err := c.Enter(ctx, f.bucket.Name, f.key)
	if err != nil {
		return err
	}
	defer leave()
	if err := c.stands(f.bucket); err != nil {
		return err
	}
	here, err := c.here(f.bucket.Name, f.key)
	if err != nil {
		return err
	}
	f.mu.Lock()
	invalid, unread := f.invalid, f.waiting == 0 || !f.ticket.wanted(&c.slots)
	f.mu.Unlock()
	if invalid || here.Version != base.Version && here.Version != info.Version {
		return errAgain
	}
	made, err := staged.Commit(info.Version, info.Created, store.Condition{})
	switch {
	case errors.Is(err, store.ErrSuperseded):
		return errAgain
	case errors.Is(err, store.ErrDiffers):
		return changedThere(f.bucket.Name, f.key, err)
	case err != nil:
		return err
	}
	f.mu.Lock()
	f.info = made
	f.mu.Unlock()
	c.usage.add(&made, unread)
	return nil
}

// stage takes in the bytes, once there is room for them.
func (f *flight) stage(ctx context.Context, base *store.Info, info store.Info, body *backend.Body) (*store.Staged, error) {
	c := f.c
	if err := f.takeRoom(ctx, max(info.Size, 0)); err != nil {
		return nil, err
	}
	o := store.PutOptions{
		Size: info.Size, ContentType: info.ContentType, Meta: map[string]string{store.OriginTag: info.Meta[store.OriginTag]},
		Archive: archive.FormatOf(f.key), Lenient: true, Created: info.Created,
		Follow: func(g *store.Growing) { f.open(info, g) },
	}
	if !info.Unread() {
		o.XXH3, o.CRC32 = &info.XXH3, &info.CRC32
	}
	counted := &countingReader{r: body, n: &c.meter.backendBytes, end: func() { c.slots.give(&f.ticket) }}
	staged, err := c.Store.Stage(ctx, f.bucket.Name, f.key, counted, o)
	var full *store.NoSpaceError
	if errors.As(err, &full) && counted.read == 0 && !f.isSpare() {
		if _, failed := c.MakeRoom(ctx, max(info.Size, 1)+info.Size/8, ""); failed != nil {
			return nil, failed
		}
		staged, err = c.Store.Stage(ctx, f.bucket.Name, f.key, counted, o)
	}
	if errors.As(err, &full) {
		return nil, errors.Join(ErrNoRoom, err)
	}
	var other *store.ChecksumError
	if errors.As(err, &other) {
		// The bytes of this version can't be had any more, or were never right: not every backend tells checksums. So who
		// asks next gets what there is then, as another version.
		_ = c.forget(ctx, f.bucket, f.key, base, err) // which says that the object is gone, as this version is
		return nil, changedThere(f.bucket.Name, f.key, err)
	}
	return staged, err
}

// open lets others follow what comes.
func (f *flight) open(info store.Info, g *store.Growing) {
	f.mu.Lock()
	f.info, f.growing = info, g
	f.mu.Unlock()
	select {
	case <-f.opened:
	default:
		close(f.opened)
	}
}

// likely is how long an object is, by what was said of it before.
func (f *flight) likely(base *store.Info) (size int64, known bool) {
	if _, tagged := tagOf(base); tagged && base.Kind != store.Tombstone {
		return base.Size, true
	}
	last, known := f.c.seen.get(objectKey{f.bucket.Name, f.key})
	return last.entry.Size, known && last.entry.Size >= 0
}

// takeRoom reserves room for so many bytes, instead of what was reserved before. Only run calls it.
func (f *flight) takeRoom(ctx context.Context, size int64) error {
	if f.room != nil && f.roomFor == size {
		return nil
	}
	f.giveRoom()
	f.sought = need{key: f.key, size: size, urgent: f.ticket.wanted(&f.c.slots), spare: f.isSpare()}
	done, err := f.c.room(ctx, f.bucket, f.sought)
	if err == nil {
		f.room, f.roomFor = done, size
	}
	return err
}

// isSpare says that nothing is to give way to what is fetched.
func (f *flight) isSpare() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.spare
}

func (f *flight) giveRoom() {
	if f.room != nil {
		f.room()
		f.room = nil
	}
}

// wanted says whether somebody waits for the ticket's fetch.
func (t *ticket) wanted(s *slots) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return t.urgent
}

// countingReader counts what is read.
type countingReader struct {
	r    io.Reader
	n    interface{ Add(int64) int64 }
	read int64
	end  func() // is called when all is read; nil: nothing is
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.read += int64(n)
	c.n.Add(int64(n))
	if c.end != nil && errors.Is(err, io.EOF) {
		c.end()
	}
	return n, err
}
