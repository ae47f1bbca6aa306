package target

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/cache"
	"github.com/shardstream/shardstream/core/store"
)

// meetsOrigin evaluates the condition of a write of a bucket with a backend against what there is, here and there.
func (t *Target) meetsOrigin(ctx context.Context, p *placed, c store.Condition) func() error {
	return func() error {
		if c == (store.Condition{}) {
			return nil
		}
		info, exists, err := t.cache.Exists(ctx, &p.bucket.Bucket, p.key)
		if err != nil {
			return err
		}
		return checkCondition(c, api.Address(p.bucket.Name, p.key), info.ETag(), exists)
	}
}

// keepThrough stores an object of a bucket with a backend, where the bucket's policy says.
func (t *Target) keepThrough(ctx context.Context, p placed, body io.Reader, o store.PutOptions) (kept, error) {
	if err := cache.CheckWrite(&p.bucket.Bucket); err != nil {
		return kept{}, err
	}
	meets := t.meetsOrigin(ctx, &p, o.Condition)
	o.Condition = store.Condition{}
	if err := meets(); err != nil { // which spares a body that would be refused anyway
		return kept{}, err
	}
	if p.bucket.Backend.Write == api.WriteThrough {
		info, err := t.cache.Put(ctx, &p.bucket.Bucket, p.key, body, o, meets)
		return kept{Info: info, made: 1, wanted: 1}, err
	}
	var full *store.NoSpaceError
	info, err := t.putOwn(ctx, p, body, o, meets)
	if errors.As(err, &full) { // for whoever sends it again
		_, _ = t.cache.MakeRoom(ctx, max(o.Size, 1), "")
	}
	return kept{Info: info, made: 1, wanted: 1}, err
}

// putOwn stores an object that only the cluster has, in a bucket whose other objects its backend has.
func (t *Target) putOwn(ctx context.Context, p placed, body io.Reader, o store.PutOptions, meets func() error) (store.Info, error) {
	if !t.isCertain(&p) {
		k, err := t.putCopies(ctx, p, body, o)
		return k.Info, err
	}
	o.Admit = func() (func(), error) {
		leave, err := t.enterAlone(ctx, &p)
		if err != nil {
			return nil, err
		}
		if err := meets(); err != nil {
			leave()
			return nil, err
		}
		return leave, nil
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

// discardDamaged takes a damaged copy away that is fetched again by the next who reads it; false where it is not of that
// kind.
func (t *Target) discardDamaged(ctx context.Context, bucket, key string, version uint64) (bool, error) {
	info, ok, err := t.store.State(bucket, key)
	if err != nil || !ok || info.Version != version || info.Kind != store.Whole {
		return false, err
	}
	if _, cached := info.Origin(); !cached {
		return false, nil
	}
	if err := t.store.Quarantine(ctx, bucket, key, version); err != nil {
		return true, fmt.Errorf("put a damaged copy aside: %w", err)
	}
	t.cache.Replaced(bucket, key)
	t.log.WarnContext(ctx, "a damaged copy was put aside; it is fetched from its backend again when it is read",
		"object", api.Address(bucket, key), "version", version)
	return true, nil
}
