package cache

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/store"
)

// Reading is a read of an object, or of a part of it, of which not all is here. Close it.
type Reading struct {
	// Info describes the object as it will be here. Its checksums may not be known yet (see store.Info.Unread).
	Info store.Info
	// Offset and Size are of the part that Body has.
	Offset, Size int64
	Body         io.ReadCloser
}

// Get reads an object from its beginning: from here where it is (object), else while it is fetched (reading). It waits
// until the backend has said how long the object is, and for the whole of it where it has not.
func (c *Cache) Get(ctx context.Context, b *api.Bucket, key string) (object *store.Object, reading *Reading, err error) {
	var last error
	for range maxTries {
		here, err := c.peek(ctx, b, key)
		if err != nil {
			return nil, nil, err
		}
		if isOwn(&here) {
			object, err = c.Store.Open(b.Name, key) // its error says what is wrong with it
			return object, nil, err
		}
		if here.Kind == store.Whole {
			if object, err = c.open(b.Name, key, here.Version); err == nil {
				c.meter.hit(here.Size)
				return object, nil, nil
			}
		} else if object, reading, err = c.follow(ctx, b, key); err == nil {
			c.meter.miss()
			return object, reading, nil
		}
		if !again(err) {
			return nil, nil, err
		}
		last = err
	}
	return nil, nil, gaveUp(b.Name, key, last)
}

// follow reads an object while it is fetched.
func (c *Cache) follow(ctx context.Context, b *api.Bucket, key string) (*store.Object, *Reading, error) {
	if err := c.ahead(ctx, b); err != nil {
		return nil, nil, err
	}
	f, err := c.join(b, key, want{urgent: true}) //nolint:contextcheck // it outlives who asked first
	if err != nil {
		return nil, nil, err
	}
	select {
	case <-f.opened:
	case <-ctx.Done():
		f.leave()
		return nil, nil, context.Cause(ctx)
	}
	f.mu.Lock()
	info, growing := f.info, f.growing
	if f.ending {
		growing = nil
	}
	f.followed = f.followed || growing != nil && info.Size > withheld
	f.mu.Unlock()
	var follower *store.Follower
	if growing != nil && info.Size >= 0 {
		follower, _ = growing.Follow()
	}
	if follower != nil && info.Size > withheld {
		r := &following{f: f, follower: follower, ctx: ctx, size: info.Size, end: info.Size, info: info}
		return nil, &Reading{Info: info, Size: info.Size, Body: r}, nil
	}
	if follower != nil {
		_ = follower.Close()
	}
	defer f.leave()
	select {
	case <-f.done:
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	}
	switch {
	case f.err == nil:
		object, err := c.open(b.Name, key, f.info.Version)
		return object, nil, err
	case f.foundLess(want{urgent: true}):
		return nil, nil, errAgain
	case errors.Is(f.err, ErrNoRoom):
		reading, err := c.through(ctx, b, key)
		return nil, reading, err
	case f.pinned && changes(f.err):
		return nil, nil, errAgain
	}
	return nil, nil, f.err
}

// withheld is how much of an object's end waits until the whole has proved right and is committed. What is not longer
// than that comes in one piece.
const withheld = store.BlockSize

// following reads an object that is being fetched. It reads behind the fetch and never holds it up.
type following struct {
	f        *flight
	follower *store.Follower
	ctx      context.Context //nolint:containedctx // of the request whose body it is
	size     int64           // of the object
	end      int64           // of what is read
	info     store.Info
	off      int64
	object   *store.Object // once it is committed
	once     sync.Once
}

// Read implements io.Reader. It fails where the fetch does: who reads has got less than the whole then.
func (r *following) Read(p []byte) (int, error) {
	if r.off == r.end {
		return 0, io.EOF
	}
	n := int64(len(p))
	if r.object == nil {
		ready, err := r.ready()
		if err != nil {
			return 0, err
		}
		n = min(n, ready-r.off)
	}
	n = min(n, r.end-r.off)
	var read int
	var err error
	if r.object != nil {
		read, err = r.object.ReadAt(p[:n], r.off)
	} else {
		read, err = r.follower.ReadAt(p[:n], r.off)
	}
	r.off += int64(read)
	if errors.Is(err, io.EOF) && int64(read) == n {
		err = nil
	}
	return read, err
}

// ready waits until there is more to read, and says up to where.
func (r *following) ready() (int64, error) {
	most := r.size - withheld
	if r.off < most {
		written, err := r.follower.Wait(r.ctx, r.off)
		if err == nil {
			return min(written, most), nil
		}
		if !errors.Is(err, io.EOF) {
			return 0, r.failed(err)
		}
	}
	select {
	case <-r.f.done:
	case <-r.ctx.Done():
		return 0, context.Cause(r.ctx)
	}
	if r.f.err != nil {
		return 0, r.failed(r.f.err)
	}
	object, err := r.f.c.open(r.info.Bucket, r.info.Name, r.info.Version)
	if err == nil {
		r.object = object
		return r.size, nil
	}
	if again(err) { // evicted, or replaced, already: what was followed is what was committed
		return r.size, nil
	}
	return 0, err
}

// failed waits for what the fetch says of an error that its followers met.
func (r *following) failed(err error) error {
	select {
	case <-r.f.done:
		if r.f.err != nil {
			return r.f.err
		}
	case <-r.ctx.Done():
	}
	return err
}

// Close ends the reading.
func (r *following) Close() error {
	var err error
	r.once.Do(func() {
		err = r.follower.Close()
		if r.object != nil {
			err = errors.Join(err, r.object.Close())
		}
		r.f.leave()
	})
	return err
}
