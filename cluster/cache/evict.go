package cache

import (
	"cmp"
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/store"
)

const (
	// watchEvery is how often disks are looked at.
	watchEvery = 2 * time.Second
	// recently used objects are not evicted for the sake of a watermark, nor for what nobody waits for.
	recently = 30 * time.Second
	// many is how many objects a bucket has of which one is not worth to be picked alone.
	many = 10_000
)

// need is what room is wanted for.
type need struct {
	key    string
	size   int64
	urgent bool // somebody waits for it
	spare  bool // nothing is evicted for it
}

// victim is a cached object that may be evicted.
type victim struct {
	bucket, key string
	item
	order   float64 // when a stream needs it next
	planned bool
}

// room makes sure that a bucket has room for an object within its quota, by evicting others, and reserves it until done
// is called. ErrNoRoom where that can't be.
func (c *Cache) room(ctx context.Context, b *api.Bucket, n need) (done func(), err error) {
	h, unlock, err := c.usage.of(b.Name)
	defer unlock()
	if err != nil {
		return nil, err
	}
	if n.spare && c.diskFillsUp() {
		return nil, ErrNoRoom
	}
	if quota := c.quota(b); quota > 0 {
		over := c.usage.taken(h, n.key) + n.size - quota
		if n.size > quota || over > 0 && n.spare {
			return nil, ErrNoRoom
		}
		if over > 0 {
			list := c.victims(b, h, n, "")
			if total(list) < over {
				return nil, ErrNoRoom // what is here stays then
			}
			free := over
			if len(list) > many { // sorting them pays for several fetches
				free = max(over, quota/256)
			}
			freed, err := c.free(ctx, list, free, "quota")
			if err != nil {
				return nil, err
			}
			if freed < over {
				return nil, ErrNoRoom
			}
		}
	}
	c.usage.reserve(h, n.size)
	return func() { c.usage.reserve(h, -n.size) }, nil
}

// quota is this target's part of a bucket's; 0: none.
func (c *Cache) quota(b *api.Bucket) int64 {
	if b.Backend == nil || b.Backend.Quota <= 0 {
		return 0
	}
	return max(1, int64(math.Ceil(float64(b.Backend.Quota)*c.Share())))
}

// victims are the objects of a bucket that may give way to another, those first that are needed least: what no stream
// plans to use, longest unused first, then what is needed last. What somebody waits for may displace anything else that is
// not pinned, at last what is needed now: that is open already. What is fetched ahead displaces only what is needed later.
func (c *Cache) victims(b *api.Bucket, h *held, n need, disk string) []victim {
	pinned := pins(b)
	order, planned := c.nextUse(b.Name, n.key)
	list := c.candidates(b.Name, h, disk)
	now := time.Now()
	list = slices.DeleteFunc(list, func(v victim) bool {
		switch {
		case v.key == n.key, c.flying(b.Name, v.key), pinned.match(v.key):
			return true
		case n.urgent:
			return false
		case v.planned: // by a stream: only for what it, or another, needs sooner
			return !planned || v.order <= order
		}
		return !planned && now.Sub(v.used) < recently
	})
	slices.SortFunc(list, func(a, b victim) int {
		switch {
		case a.planned != b.planned:
			if b.planned {
				return -1
			}
			return 1
		case a.planned && a.order != b.order:
			return cmp.Compare(b.order, a.order)
		}
		return cmp.Or(a.used.Compare(b.used), cmp.Compare(a.key, b.key))
	})
	return list
}

func total(list []victim) (bytes int64) {
	for i := range list {
		bytes += list[i].size
	}
	return bytes
}

// candidates are the cached objects of a bucket, on one disk where it is named.
func (c *Cache) candidates(bucket string, h *held, disk string) []victim {
	c.usage.mu.Lock()
	list := make([]victim, 0, len(h.objects))
	for key, one := range h.objects {
		if disk == "" || one.disk == disk {
			list = append(list, victim{bucket: bucket, key: key, item: *one})
		}
	}
	c.usage.mu.Unlock()
	for i := range list {
		list[i].order, list[i].planned = c.nextUse(bucket, list[i].key)
	}
	return list
}

// free evicts victims in their order until so many bytes are free. Those on a disk that takes no changes stay.
func (c *Cache) free(ctx context.Context, list []victim, bytes int64, why string) (freed int64, err error) {
	var failed error
	bad := map[string]bool{}
	for i := range list {
		if freed >= bytes {
			break
		}
		v := &list[i]
		if bad[v.disk] {
			continue
		}
		if err := c.Store.Evict(ctx, v.bucket, v.key, v.version); err != nil {
			if errors.Is(err, store.ErrSole) {
				c.usage.evicted(v.bucket, v.key, v.version)
				continue
			}
			if errors.Is(err, store.ErrDiskFailed) {
				failed, bad[v.disk] = err, true
				continue
			}
			return freed, err
		}
		gone := c.usage.evicted(v.bucket, v.key, v.version)
		freed += v.size
		c.meter.evicted(why, v.size, gone.unread)
	}
	if freed < bytes && failed != nil {
		return freed, errors.Join(ErrNoRoom, failed)
	}
	return freed, nil
}

// MakeRoom evicts cached objects until so many bytes are free again, on one disk or any (""), and says how many are.
func (c *Cache) MakeRoom(ctx context.Context, bytes int64, disk string) (int64, error) {
	return c.makeRoom(ctx, bytes, disk, "no space", func(*victim) bool { return true })
}

func (c *Cache) makeRoom(ctx context.Context, bytes int64, disk, why string, may func(*victim) bool) (freed int64, err error) {
	var all []victim
	for _, name := range c.Buckets() {
		b, ok := c.Bucket(name)
		if !ok || b.Backend == nil {
			continue
		}
		h, unlock, err := c.usage.of(name)
		if err == nil {
			all = append(all, c.victims(b, h, need{urgent: true}, disk)...)
		}
		unlock()
		if err != nil {
			return 0, err
		}
	}
	all = slices.DeleteFunc(all, func(v victim) bool { return !may(&v) })
	slices.SortStableFunc(all, func(a, b victim) int { // buckets' plans can't be compared with each other
		switch {
		case a.planned != b.planned && b.planned:
			return -1
		case a.planned != b.planned:
			return 1
		case a.planned:
			return 0
		}
		return a.used.Compare(b.used)
	})
	return c.free(ctx, all, bytes, why)
}

// diskFillsUp says whether anything is evicted from a disk, or is about to be.
func (c *Cache) diskFillsUp() bool {
	return slices.ContainsFunc(c.Store.Disks(), c.fillsUp)
}

func (c *Cache) fillsUp(d store.DiskUsage) bool {
	return d.Capacity > 0 && float64(d.Used) >= c.High*float64(d.Capacity)
}

// watchDisks evicts from disks that fill up. What was used a moment ago stays: where other things than the cache fill a
// disk, evicting all of it would not help.
func (c *Cache) watchDisks(ctx context.Context) {
	for _, d := range c.Store.Disks() {
		if !c.fillsUp(d) {
			continue
		}
		now := time.Now()
		over := d.Used - int64(c.Low*float64(d.Capacity))
		freed, err := c.makeRoom(ctx, over, d.ID, "watermark", func(v *victim) bool { return !v.planned && now.Sub(v.used) > recently })
		if err != nil && ctx.Err() == nil {
			c.Logger.WarnContext(ctx, "a disk fills up and cached objects could not be evicted", "disk", d.ID, "error", err)
		}
		if freed > 0 {
			c.Logger.InfoContext(ctx, "cached objects were evicted, as their disk fills up", "disk", d.ID, "bytes", freed)
		}
	}
}

// ErrPinned is returned by Evict for an object that the bucket's properties keep.
var ErrPinned = errors.New("the object is pinned")

// Evict takes an object's bytes away, if the backend has them too, and says how many they were. 0 where they are not here.
// store.ErrSole for the cluster's own, ErrPinned for a pinned one.
func (c *Cache) Evict(ctx context.Context, bucket, key string) (int64, error) {
	b, ok := c.Bucket(bucket)
	if !ok || b.Backend == nil {
		return 0, store.ErrSole
	}
	here, err := c.here(bucket, key)
	switch {
	case err != nil || here.Kind == store.Tombstone:
		return 0, err
	case isOwn(&here):
		return 0, store.ErrSole
	case here.Kind != store.Whole:
		return 0, nil
	case pins(b).match(key):
		return 0, ErrPinned
	}
	if err := c.Store.Evict(ctx, bucket, key, here.Version); err != nil {
		return 0, err
	}
	gone := c.usage.evicted(bucket, key, here.Version)
	c.meter.evicted("asked", here.Size, gone.unread)
	return here.Size, nil
}
