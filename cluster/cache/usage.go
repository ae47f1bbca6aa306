package cache

import (
	"sync"
	"time"

	"github.com/shardstream/shardstream/core/store"
)

// usage knows what is cached here, of each bucket: what eviction goes by. It is read from the store when it is first
// needed, and again now and then, as copies also come and go by other ways than the cache's.
type usage struct {
	store *store.Store

	mu      sync.Mutex
	buckets map[string]*held
}

// held is what is cached of a bucket.
type held struct {
	mu       sync.Mutex // of reading it, and of making room in it: one at a time
	read     time.Time
	objects  map[string]*item
	bytes    int64
	reserved int64            // for fetches under way
	changed  map[string]*item // while it is read: what has come since, and nil for what has gone
}

// item is a cached object.
type item struct {
	version uint64
	size    int64
	disk    string
	used    time.Time
	fetched time.Time
	unread  bool // since it was fetched
}

// readAgain is how long what was read of the store is gone by.
const readAgain = 10 * time.Minute

// of gives what is cached of a bucket; the caller holds its lock until it calls done.
func (u *usage) of(bucket string) (h *held, done func(), err error) {
	u.mu.Lock()
	if u.buckets == nil {
		u.buckets = map[string]*held{}
	}
	if h = u.buckets[bucket]; h == nil {
		h = &held{objects: map[string]*item{}}
		u.buckets[bucket] = h
	}
	u.mu.Unlock()
	h.mu.Lock()
	if time.Since(h.read) > readAgain {
		err = u.fill(bucket, h)
	}
	return h, h.mu.Unlock, err
}

// fill reads what is cached of a bucket from the store.
func (u *usage) fill(bucket string, h *held) error {
	found := map[string]*item{}
	var bytes int64
	u.mu.Lock()
	h.changed = map[string]*item{}
	u.mu.Unlock()
	err := eachOf(u.store, bucket, "", func(i *store.Info) error {
		if _, tagged := tagOf(i); !tagged || i.Kind != store.Whole {
			return nil
		}
		one := &item{version: i.Version, size: i.Size, disk: i.Disk}
		u.mu.Lock()
		if before := h.objects[i.Name]; before != nil && before.version == i.Version {
			one.used, one.fetched, one.unread = before.used, before.fetched, before.unread
		}
		u.mu.Unlock()
		found[i.Name] = one
		bytes += i.Size
		return nil
	})
	u.mu.Lock()
	defer u.mu.Unlock()
	changed := h.changed
	h.changed = nil
	if err != nil {
		return err
	}
	for key, one := range changed {
		if old := found[key]; old != nil {
			bytes -= old.size
			delete(found, key)
		}
		if one != nil {
			bytes += one.size
			found[key] = one
		}
	}
	h.objects, h.bytes, h.read = found, bytes, time.Now()
	return nil
}

// eachOf visits what a store has of a bucket.
func eachOf(s *store.Store, bucket, prefix string, visit func(*store.Info) error) error {
	for last, more := "", true; more; {
		infos, next, err := s.List(bucket, prefix, last, 1000)
		if err != nil {
			return err
		}
		if more = next && len(infos) > 0; more {
			last = infos[len(infos)-1].Name
		}
		for i := range infos {
			if err := visit(&infos[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// touch notes that an object is in use.
func (u *usage) touch(i *store.Info) {
	u.mu.Lock()
	defer u.mu.Unlock()
	h := u.buckets[i.Bucket]
	if h == nil {
		return
	}
	if one := h.objects[i.Name]; one != nil && one.version == i.Version {
		one.used, one.unread = time.Now(), false
	}
}

// add notes that an object is here.
func (u *usage) add(i *store.Info, unread bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	h := u.buckets[i.Bucket]
	if h == nil {
		return // what reads the bucket first will find it
	}
	if old := h.objects[i.Name]; old != nil {
		h.bytes -= old.size
	}
	now := time.Now()
	one := &item{version: i.Version, size: i.Size, disk: i.Disk, used: now, fetched: now, unread: unread}
	h.objects[i.Name] = one
	h.bytes += i.Size
	if h.changed != nil {
		h.changed[i.Name] = one
	}
}

// remove notes that an object is not here any more.
func (u *usage) remove(bucket, key string) (gone item) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.buckets[bucket].remove(key)
}

// evicted is remove for an object that is not here any more in a version; another may have come meanwhile.
func (u *usage) evicted(bucket, key string, version uint64) (gone item) {
	u.mu.Lock()
	defer u.mu.Unlock()
	h := u.buckets[bucket]
	if h != nil && h.objects[key] != nil && h.objects[key].version != version {
		return item{}
	}
	return h.remove(key)
}

// remove forgets an object. The caller holds the usage's lock.
func (h *held) remove(key string) (gone item) {
	if h == nil {
		return item{}
	}
	if h.changed != nil {
		h.changed[key] = nil
	}
	if one := h.objects[key]; one != nil {
		gone = *one
		h.bytes -= gone.size
		delete(h.objects, key)
	}
	return gone
}

// drop forgets a bucket.
func (u *usage) drop(bucket string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.buckets, bucket)
}

// reserve changes what fetches under way have of a bucket's room.
func (u *usage) reserve(h *held, bytes int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	h.reserved += bytes
}

// taken is how many bytes a bucket has, with those that are on their way, beside an object that is going to be replaced.
func (u *usage) taken(h *held, beside string) int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	taken := h.bytes + h.reserved
	if one := h.objects[beside]; one != nil {
		taken -= one.size
	}
	return taken
}

// hold has what is cached of a bucket be known from now on.
func (u *usage) hold(bucket string) {
	_, done, _ := u.of(bucket) // an error comes again where room is made
	done()
}
