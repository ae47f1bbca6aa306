package cache

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/backend"
	"github.com/shardstream/shardstream/core/store"
)

// CheckWrite says by an error that a bucket's objects are not written here.
func CheckWrite(b *api.Bucket) error {
	if b.Backend.Write == api.WriteReadOnly || b.Backend.Write == "" {
		return refused("bucket %s is a read-only cache of %s: write there, or give the bucket another policy (bucket set %s --write write-through, or cache-only)",
			b.Name, b.Backend.URL, b.Name)
	}
	return nil
}

// CheckDelete says by an error that a bucket's objects are not deleted here.
func CheckDelete(b *api.Bucket) error {
	if b.Backend.Delete == api.DeleteRefused || b.Backend.Delete == "" {
		return refused("bucket %s deletes nothing: delete at %s, evict what is cached (shardstream evict), or give the bucket another policy (bucket set %s --delete cache, or through)",
			b.Name, b.Backend.URL, b.Name)
	}
	return nil
}

// Exists says what there is of an object, for the condition of a write: here, or at its backend now. entered: the caller
// has the object's lock, so that nothing else can be done about it here.
func (c *Cache) Exists(ctx context.Context, b *api.Bucket, key string, entered bool) (info store.Info, exists bool, err error) {
	if !entered {
		info, err = c.look(ctx, b, key, true)
	} else if info, err = c.here(b.Name, key); err == nil && !isOwn(&info) {
		info, err = c.compared(ctx, b, key)
	}
	if gone(err) {
		return info, false, nil
	}
	return info, err == nil, err
}

// Meets says by an error that the condition of a write is not met. entered: nothing else can change the object here any more,
// see Exists.
type Meets func(entered bool) error

// Put stores an object at the backend, and here as what is cached of it: what is acknowledged is in both.
func (c *Cache) Put(ctx context.Context, b *api.Bucket, key string, body io.Reader, o store.PutOptions, meets Meets) (store.Info, error) {
	if err := c.ahead(ctx, b); err != nil {
		return store.Info{}, err
	}
	var growing *store.Growing
	o.Follow = func(g *store.Growing) { growing = g }
	done, err := c.room(ctx, b, need{key: key, size: max(o.Size, 0), urgent: true})
	if err == nil {
		defer done()
	} else if !errors.Is(err, ErrNoRoom) { // it may well be put, and is evicted next
		return store.Info{}, err
	}
	staged, err := c.Store.Stage(ctx, b.Name, key, body, o)
	if err != nil {
		return store.Info{}, err
	}
	defer staged.Discard() //nolint:errcheck // after a commit it does nothing; else what is left is swept
	payload, ok := growing.Follow()
	if !ok {
		return store.Info{}, store.ErrDiscarded
	}
	defer func() { _ = payload.Close() }() // only read
	if err := meets(false); err != nil {   // before the upload, and again under the lock
		return store.Info{}, err
	}
	enter, unlock, err := c.Lock(ctx, b.Name, key)
	if err != nil {
		return store.Info{}, err
	}
	defer unlock()
	if err := meets(true); err != nil {
		return store.Info{}, err
	}
	if err := c.drop(ctx, b.Name, key, enter); err != nil { // a crash behind the upload must not show what it replaces
		return store.Info{}, err
	}
	entry, err := c.upload(ctx, b, key, payload, staged.Info())
	c.invalidate(b.Name, key) // what was asked for meanwhile may be of before; and what an upload that failed has left, nobody knows
	if err != nil {
		return store.Info{}, err
	}
	leave, err := enter()
	if err != nil {
		return store.Info{}, err
	}
	defer leave()
	info, err := c.commitPut(staged, entry)
	if err != nil {
		return store.Info{}, err
	}
	c.seen.put(objectKey{b.Name, key}, entry, &info, c.Version, time.Now())
	c.usage.add(&info, false)
	return info, nil
}

// upload stores what is staged at the backend.
func (c *Cache) upload(ctx context.Context, b *api.Bucket, key string, payload io.ReaderAt, info store.Info) (backend.Entry, error) {
	remote, err := c.Backends.Get(ctx, b)
	if err != nil {
		return backend.Entry{}, err
	}
	meta := map[string]string{}
	for name, value := range info.Meta {
		if !api.IsReservedMeta(name) {
			meta[name] = value
		}
	}
	o := backend.PutOptions{ContentType: info.ContentType, Meta: meta, Sums: backend.Sums{XXH3: &info.XXH3}}
	entry, err := remote.Put(ctx, key, io.NewSectionReader(payload, 0, info.Size), info.Size, o)
	if err == nil {
		c.meter.uploaded.Add(info.Size)
	}
	return entry, err
}

// commitPut makes what is staged the object as it is cached, under the tag that the backend gave it.
func (c *Cache) commitPut(staged *store.Staged, entry backend.Entry) (store.Info, error) {
	created := entry.Modified
	if created.IsZero() {
		created = time.Now()
	}
	staged.SetOrigin(originOf(&entry))
	return staged.Commit(c.Version(), created, store.Condition{})
}

// drop forgets what is cached of an object. The caller has its lock.
func (c *Cache) drop(ctx context.Context, bucket, key string, enter func() (leave func(), err error)) error {
	leave, err := enter()
	if err != nil {
		return err
	}
	defer leave()
	c.invalidate(bucket, key)
	here, err := c.here(bucket, key)
	if err != nil || here.Kind == store.Tombstone {
		return err
	}
	if _, tagged := tagOf(&here); !tagged { // the cluster's own: only what replaces it takes it away
		return nil
	}
	c.usage.remove(bucket, key)
	return c.Store.Forget(ctx, bucket, key, here.Version)
}

// invalidate has a fetch that is under way come to nothing, and what was seen be looked at again.
func (c *Cache) invalidate(bucket, key string) {
	if f := c.current(bucket, key); f != nil {
		f.mu.Lock()
		f.invalid = true
		f.mu.Unlock()
	}
	c.stats.outdate(objectKey{bucket, key})
	c.seen.drop(objectKey{bucket, key})
}

// Delete deletes an object as the bucket's policy says: what is cached of it, or the backend's too. own: it is one of the
// cluster's own, which the caller is to delete where it is.
func (c *Cache) Delete(ctx context.Context, b *api.Bucket, key string, meets Meets) (own bool, err error) {
	info, err := c.look(ctx, b, key, b.Backend.Delete == api.DeleteThrough)
	if err != nil {
		return false, err
	}
	own = isOwn(&info)
	if own && b.Backend.Delete == api.DeleteCached {
		return true, nil
	}
	if b.Backend.Delete == api.DeleteCached {
		if err := meets(false); err != nil {
			return false, err
		}
		if info.Kind != store.Whole {
			return false, nil
		}
		if err := c.Store.Evict(ctx, b.Name, key, info.Version); err != nil {
			return false, err
		}
		c.meter.evicted("asked", info.Size, c.usage.evicted(b.Name, key, info.Version).unread)
		return false, nil
	}
	remote, err := c.Backends.Get(ctx, b)
	if err != nil {
		return false, err
	}
	enter, unlock, err := c.Lock(ctx, b.Name, key)
	if err != nil {
		return false, err
	}
	defer unlock()
	if err := meets(true); err != nil {
		return false, err
	}
	if err := c.drop(ctx, b.Name, key, enter); err != nil {
		return false, err
	}
	err = remote.Delete(ctx, key)
	c.invalidate(b.Name, key)
	return own && err == nil, err
}

// Dropped notes that a bucket was deleted: another may have its name next.
func (c *Cache) Dropped(bucket string) {
	c.mu.Lock()
	var flying []*flight
	for about, f := range c.flights {
		if about.bucket == bucket {
			flying = append(flying, f)
		}
	}
	c.mu.Unlock()
	for _, f := range flying {
		f.mu.Lock()
		f.invalid = true
		f.mu.Unlock()
		f.cancel(errAgain)
	}
	c.seen.dropBucket(bucket)
	c.usage.drop(bucket)
}

// Replaced notes that an object was replaced, or taken away, past the cache.
func (c *Cache) Replaced(bucket, key string) {
	c.invalidate(bucket, key)
	c.usage.remove(bucket, key)
}
