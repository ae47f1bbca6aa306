package target

import (
	"context"
	"errors"
	"io"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/cache"
	"github.com/shardstream/shardstream/core/store"
)

// meetsOrigin evaluates the condition of a write of a bucket with a backend against what there is, here and there.
func (t *Target) meetsOrigin(ctx context.Context, p *placed, c store.Condition) cache.Meets {
	return func(entered bool) error {
		if c == (store.Condition{}) {
			return nil
		}
		info, exists, err := t.cache.Exists(ctx, &p.bucket.Bucket, p.key, entered)
		if err != nil {
			return err
		}
		return checkCondition(c, api.Address(p.bucket.Name, p.key), info.ETag(), exists)
	}
}

// keepBy stores an object as its bucket says: with its backend, or in the cluster alone.
func (t *Target) keepBy(ctx context.Context, p placed, body io.Reader, o store.PutOptions) (kept, error) {
	if p.bucket.Backend != nil {
		return t.keepThrough(ctx, p, body, o)
	}
	return t.keep(ctx, p, body, o)
}

// keepThrough stores an object of a bucket with a backend, where the bucket's policy says.
func (t *Target) keepThrough(ctx context.Context, p placed, body io.Reader, o store.PutOptions) (kept, error) {
	if err := cache.CheckWrite(&p.bucket.Bucket); err != nil {
		return kept{}, err
	}
	meets := t.meetsOrigin(ctx, &p, o.Condition)
	o.Condition = store.Condition{}
	if err := meets(false); err != nil { // which spares a body that would be refused anyway
		return kept{}, err
	}
	if p.bucket.Backend.Write == api.WriteThrough {
		info, err := t.cache.Put(ctx, &p.bucket.Bucket, p.key, body, o, meets)
		t.makeRoom(ctx, o.Size, err)
		return kept{Info: info, made: 1, wanted: 1}, err
	}
	info, err := t.putOwn(ctx, p, body, o, meets)
	t.makeRoom(ctx, o.Size, err)
	return kept{Info: info, made: 1, wanted: 1}, err
}

// putOwn stores an object that only the cluster has, in a bucket whose other objects its backend has.
func (t *Target) putOwn(ctx context.Context, p placed, body io.Reader, o store.PutOptions, meets cache.Meets) (store.Info, error) {
	if !t.isCertain(&p) {
		k, err := t.putCopies(ctx, p, body, o)
		if err == nil {
			t.cache.Replaced(p.bucket.Name, p.key)
		}
		return k.Info, err
	}
	o.Admit = func() (func(), error) {
		unlock, err := t.locks.lock(ctx, p.bucket.Name, p.key)
		if err != nil {
			return nil, err
		}
		var leave func()
		if err = meets(true); err == nil {
			leave, err = t.enter(ctx, &p)
		}
		if err != nil {
			unlock()
			return nil, err
		}
		return func() { leave(); unlock() }, nil
	}
	info, err := t.store.Put(ctx, p.bucket.Name, p.key, body, o)
	if err == nil {
		t.cache.Replaced(p.bucket.Name, p.key)
		err = t.stillThere(ctx, p.bucket, info)
	}
	return info, err
}

// eraseThrough deletes an object of a bucket with a backend, as the bucket's policy says.
func (t *Target) eraseThrough(ctx context.Context, p placed, c store.Condition) error {
	if err := cache.CheckDelete(&p.bucket.Bucket); err != nil {
		return err
	}
	own, err := t.cache.Delete(ctx, &p.bucket.Bucket, p.key, t.meetsOrigin(ctx, &p, c))
	if err != nil || !own {
		return err
	}
	if err := t.erase(ctx, p, c); err != nil {
		return err
	}
	t.cache.Replaced(p.bucket.Name, p.key)
	return nil
}

// makeRoom evicts cached objects where a write has found no room, for whoever sends it again.
func (t *Target) makeRoom(ctx context.Context, size int64, err error) {
	var full *store.NoSpaceError
	if !errors.As(err, &full) {
		return
	}
	freed, err := t.cache.MakeRoom(ctx, max(size, 1<<20), full.Disk)
	if err == nil && freed == 0 {
		freed, err = t.cache.MakeRoom(ctx, max(size, 1<<20), "")
	}
	if err != nil || freed > 0 {
		t.log.InfoContext(ctx, "cached objects were evicted for a write that found no room", "disk", full.Disk, "bytes", freed, "error", err)
	}
}
