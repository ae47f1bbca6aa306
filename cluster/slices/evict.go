package slices

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/copies"
	"github.com/shardstream/shardstream/cluster/heal"
	"github.com/shardstream/shardstream/core/store"
)

// errNoRoom says that there is nothing to evict.
var errNoRoom = errors.New("there is nothing left to evict")

// Evict takes away the whole copies that this target keeps of erasure-coded objects whose names begin with prefix: what
// is left of them are their slices. One stays whose slices are not all confirmed to be where they are to be.
func (k *Keeper) Evict(ctx context.Context, bucket, prefix string) (api.Evicted, error) {
	var done api.Evicted
	s := k.State()
	for last, more := "", true; more; {
		infos, next, err := k.Store.List(bucket, prefix, last, pageSize)
		if err != nil {
			return done, err
		}
		if more = next && len(infos) > 0; more {
			last = infos[len(infos)-1].Name
		}
		cached := slices.DeleteFunc(infos, func(i store.Info) bool { return !evictable(&i) })
		page, err := k.evict(ctx, s, bucket, cached)
		done.Add(page)
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

func evictable(i *store.Info) bool { return i.Kind == store.Whole && i.Data > 0 }

// evict takes away some whole copies of a bucket.
func (k *Keeper) evict(ctx context.Context, s heal.State, bucket string, cached []store.Info) (api.Evicted, error) {
	var done api.Evicted
	if len(cached) == 0 {
		return done, ctx.Err()
	}
	objects := make([]copies.ObjectVersion, len(cached))
	for i := range cached {
		objects[i] = copies.ObjectVersion{Name: cached[i].Name, Version: cached[i].Version}
	}
	held := k.findAll(ctx, s.Placer.Map.Targets(), bucket, objects)
	for i := range cached {
		one := &cached[i]
		a := Arrange(ids(List(s.Placer, bucket, one.Name, one.Data+one.Parity)), one.Data+one.Parity, held.of(i).Held)
		if !a.Complete() {
			done.Kept++
			continue
		}
		if err := k.Store.Evict(ctx, bucket, one.Name, one.Version); err != nil {
			return done, fmt.Errorf("evict %s: %w", api.Address(bucket, one.Name), err)
		}
		done.Objects++
		done.Bytes += one.Size
	}
	return done, ctx.Err()
}

// touched remembers when objects were last read.
type touched struct {
	mu   sync.Mutex
	last map[copies.ObjectName]time.Time
}

const maxTouched = 100_000

// Touch notes that an object's whole copy is in use.
func (k *Keeper) Touch(bucket, name string) {
	k.touched.mu.Lock()
	defer k.touched.mu.Unlock()
	if k.touched.last == nil || len(k.touched.last) >= maxTouched {
		k.touched.last = map[copies.ObjectName]time.Time{}
	}
	k.touched.last[copies.ObjectName{Bucket: bucket, Name: name}] = time.Now()
}

// idle orders copies by when they were last used, longest ago first; when they were written counts too.
func (t *touched) idle(cached []store.Info) {
	t.mu.Lock()
	defer t.mu.Unlock()
	last := func(i *store.Info) time.Time {
		used := t.last[copies.ObjectName{Bucket: i.Bucket, Name: i.Name}]
		if used.Before(i.Created) {
			return i.Created
		}
		return used
	}
	slices.SortFunc(cached, func(a, b store.Info) int {
		return cmp.Or(last(&a).Compare(last(&b)), cmp.Compare(a.Name, b.Name))
	})
}

// makeRoom evicts what was used longest ago until so many bytes are free again on any disk, and says how many.
func (k *Keeper) makeRoom(ctx context.Context, bytes int64) (int64, error) {
	return k.free(ctx, k.State(), bytes, func(*store.Info) bool { return true })
}

// againAfter is how long a disk that fills up is left alone where nothing could be evicted: finding that out means
// reading the whole index.
const againAfter = time.Minute

// watchRoom evicts what was used longest ago from disks that fill up. Only Run calls it.
func (k *Keeper) watchRoom(ctx context.Context, s heal.State) {
	const slack = 0.05 // below the watermark, so that it is not reached again at once
	for _, d := range k.Store.Disks() {
		over := d.Used - int64(k.EvictAbove*float64(d.Capacity))
		if d.Capacity == 0 || over < 0 || time.Now().Before(k.fruitless[d.ID].Add(againAfter)) {
			continue
		}
		on := func(i *store.Info) bool { return i.Disk == d.ID }
		n, err := k.free(ctx, s, over+int64(slack*float64(d.Capacity)), on)
		if err != nil {
			k.fruitless[d.ID] = time.Now()
		}
		if err != nil && !errors.Is(err, errNoRoom) && ctx.Err() == nil {
			k.Logger.Warn("a disk fills up and whole copies could not be evicted", "disk", d.ID, "error", err)
		}
		if n > 0 {
			k.Logger.Info("whole copies of erasure-coded objects were evicted, as their disk fills up", "disk", d.ID, "bytes", n)
		}
	}
}

// free evicts whole copies that which is for, until so many bytes are free.
func (k *Keeper) free(ctx context.Context, s heal.State, bytes int64, which func(*store.Info) bool) (int64, error) {
	var freed int64
	for i := range s.Buckets {
		b := &s.Buckets[i]
		var cached []store.Info
		for last, more := "", true; more; {
			infos, next, err := k.Store.List(b.Name, "", last, pageSize)
			if err != nil {
				return freed, err
			}
			if more = next && len(infos) > 0; more {
				last = infos[len(infos)-1].Name
			}
			for n := range infos {
				if evictable(&infos[n]) && which(&infos[n]) {
					cached = append(cached, infos[n])
				}
			}
		}
		k.touched.idle(cached)
		for len(cached) > 0 && freed < bytes {
			n, size := 0, int64(0)
			for n < len(cached) && n < pageSize && freed+size < bytes {
				size += cached[n].Size
				n++
			}
			done, err := k.evict(ctx, s, b.Name, cached[:n])
			freed += done.Bytes
			if err != nil {
				return freed, err
			}
			cached = cached[n:]
		}
	}
	if freed == 0 {
		return 0, errNoRoom
	}
	return freed, nil
}
