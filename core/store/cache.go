package store

import (
	"container/list"
	"sync"
	"sync/atomic"

	"github.com/shardstream/shardstream/core/archive"
)

// objectKey names an object in memory.
type objectKey struct{ bucket, name string }

// handle is one version of an object that is open: its file, its block checksums and, once someone asked
// for it, its member index. The cache holds one reference, each Object another; the last closes the file.
type handle struct {
	info   Info
	disk   *disk
	file   File
	footer footer
	sums   []uint64

	refs  atomic.Int32
	index atomic.Pointer[archive.Index]
	load  sync.Mutex // one reads the index, the others wait for it

	place *list.Element // in the cache's order; nil: not in it. Guarded by the cache's lock, as is cost.
	cost  int64
}

func (h *handle) release() error {
	if h.refs.Add(-1) == 0 {
		return h.file.Close()
	}
	return nil
}

// cache keeps the handles that were used last, within a number of files and of bytes. The newest version
// of an object is in it or none: commits drop the old one before they become visible, and handles are
// put in under the lock of the object's stripe.
type cache struct {
	mu       sync.Mutex
	byKey    map[objectKey]*handle
	order    list.List // of *handle, used last first
	bytes    int64
	maxBytes int64
	maxFiles int
}

func newCache(maxFiles int, maxBytes int64) *cache {
	return &cache{byKey: map[objectKey]*handle{}, maxFiles: maxFiles, maxBytes: maxBytes}
}

// get finds a handle and adds a reference to it; nil: not here.
func (c *cache) get(key objectKey) *handle {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.byKey[key]
	if h == nil || h.disk.isOut() {
		return nil
	}
	h.refs.Add(1)
	c.order.MoveToFront(h.place)
	return h
}

// info describes an object that is in the cache.
func (c *cache) info(key objectKey) (Info, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h := c.byKey[key]; h != nil && !h.disk.isOut() {
		return h.info, true
	}
	return Info{}, false
}

// dropDisk forgets what lies on a disk.
func (c *cache) dropDisk(k *disk) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range c.byKey {
		if h.disk == k {
			c.remove(h)
		}
	}
}

// put adds a handle, with a reference of the cache's own.
func (c *cache) put(key objectKey, h *handle) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.byKey[key]; old != nil {
		c.remove(old)
	}
	h.refs.Add(1)
	h.cost = int64(8*len(h.sums)) + 1024
	h.place = c.order.PushFront(h)
	c.byKey[key] = h
	c.bytes += h.cost
	c.shrink()
}

// grow accounts for an index that a handle has loaded.
func (c *cache) grow(h *handle, bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h.place != nil {
		h.cost += bytes
		c.bytes += bytes
		c.shrink()
	}
}

// drop forgets an object.
func (c *cache) drop(key objectKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h := c.byKey[key]; h != nil {
		c.remove(h)
	}
}

func (c *cache) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.order.Len() > 0 {
		c.remove(c.oldest())
	}
}

func (c *cache) oldest() *handle {
	h, _ := c.order.Back().Value.(*handle)
	return h
}

func (c *cache) shrink() {
	for c.order.Len() > 1 && (c.order.Len() > c.maxFiles || c.bytes > c.maxBytes) {
		c.remove(c.oldest())
	}
}

func (c *cache) remove(h *handle) {
	c.order.Remove(h.place)
	h.place = nil
	c.bytes -= h.cost
	delete(c.byKey, objectKey{h.info.Bucket, h.info.Name})
	_ = h.release() // the file was only read: its close has nothing to tell
}
