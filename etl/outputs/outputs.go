// Package outputs keeps what transformations made, on disk and within a quota, so that the same object read through
// the same transformations again costs one read.
//
// An entry is a file that is written aside and renamed when it is whole. It carries its identity and a checksum for
// every block: what can't be verified is dropped, never served, so nothing here needs to survive a power cut. A cache
// that can't keep something says so (*NoRoomError) and the caller does without.
package outputs

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxEntries bounds what the index takes of memory: some hundred bytes for each.
	maxEntries = 1 << 18
	// touchAfter is how old the time of an entry's last use may be on disk. A restart finds the order by it.
	touchAfter = time.Minute
	// maxLarge bounds how many outputs are known to be too large.
	maxLarge = 1 << 10
	// unit is what the smallest file takes of a disk.
	unit = 4096
)

// NoRoomError says that an output is not kept: it is too large, or the disk has no room.
type NoRoomError struct{ Reason string }

func (e *NoRoomError) Error() string { return "the output is not kept: " + e.Reason }

// Options describe a cache.
type Options struct {
	Dir    string
	Quota  int64 // bytes on disk
	Logger *slog.Logger
	// Usage says how many bytes the disk has left for us and how many it has; nil asks the system. A twentieth of
	// the disk stays free.
	Usage func() (free, capacity int64, err error)
}

// Stats are a cache's counts since it was opened, and what it holds.
type Stats struct {
	Hits, Misses       int64
	Evictions, Corrupt int64
	Entries, Bytes     int64
	BytesServed        int64 // read from what is kept
}

// Cache keeps outputs. It is safe for concurrent use by one process.
type Cache struct {
	dir, aside string
	quota      int64
	log        *slog.Logger
	usage      func() (free, capacity int64, err error)

	served atomic.Int64

	mu       sync.Mutex
	entries  map[Key]*list.Element
	recent   *list.List // of *entry, the last used first
	reserved int64      // bytes that entries hold or are being written
	flights  map[Key]*flight
	large    map[Key]bool // which are not written again only to be found too large
	stats    Stats
}

// entry is a file that is there.
type entry struct {
	key     Key
	id      Identity // without arguments: there are many entries
	size    int64    // on disk
	touched time.Time
}

// flight is an output that is being made.
type flight struct {
	done chan struct{}
	err  error
}

// Open makes the directory where it is not there yet and removes what was being written when the node died. What it
// holds is served at once; it counts against the quota once Load has seen it.
func Open(o Options) (*Cache, error) {
	c := &Cache{
		dir: o.Dir, aside: filepath.Join(o.Dir, "aside"), quota: o.Quota, log: o.Logger, usage: o.Usage,
		entries: map[Key]*list.Element{}, recent: list.New(), flights: map[Key]*flight{}, large: map[Key]bool{},
	}
	if c.log == nil {
		c.log = slog.Default()
	}
	if c.usage == nil {
		c.usage = func() (int64, int64, error) { return usage(c.dir) }
	}
	if err := os.RemoveAll(c.aside); err != nil {
		return nil, fmt.Errorf("clear what was being written: %w", err)
	}
	if err := os.MkdirAll(c.aside, 0o700); err != nil {
		return nil, fmt.Errorf("output cache: %w", err)
	}
	return c, nil
}

// Aside is a directory on the cache's disk that is cleared when it is opened.
func (c *Cache) Aside() string { return c.aside }

func (c *Cache) path(k Key) string {
	name := k.String()
	return filepath.Join(c.dir, name[:2], name[2:])
}

// Get opens an output; nil where there is none. The caller closes it.
func (c *Cache) Get(id Identity) *Output {
	out := c.open(id)
	c.mu.Lock()
	defer c.mu.Unlock()
	if out != nil {
		c.stats.Hits++
	}
	return out
}

// Do opens an output, made by produce where there is none. Of callers that want the same one at a time the first makes
// it and the others wait; they share its error, unless that is the end of its own context. produce must stop on an
// error of the writer. A *NoRoomError says that produce may have worked but nothing was kept.
func (c *Cache) Do(ctx context.Context, id Identity, produce func(ctx context.Context, w io.Writer) (contentType string, err error)) (out *Output, hit bool, err error) {
	for {
		if out := c.Get(id); out != nil {
			return out, true, nil
		}
		f, leads := c.join(id.Key())
		if leads {
			return c.lead(ctx, id, f, produce)
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
		if err := f.err; err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
			return nil, false, err
		}
	}
}

// join finds who makes an output, or begins to.
func (c *Cache) join(k Key) (f *flight, leads bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f = c.flights[k]; f != nil {
		return f, false
	}
	f = &flight{done: make(chan struct{}), err: errors.New("the output was not finished")} // which a panic leaves
	c.flights[k] = f
	return f, true
}

func (c *Cache) lead(ctx context.Context, id Identity, f *flight, produce func(context.Context, io.Writer) (string, error)) (out *Output, hit bool, err error) {
	defer func() {
		c.mu.Lock()
		delete(c.flights, id.Key())
		c.mu.Unlock()
		close(f.done)
	}()
	if out = c.Get(id); out != nil { // made between the look and the lead
		f.err = nil
		return out, true, nil
	}
	c.mu.Lock()
	c.stats.Misses++
	c.mu.Unlock()
	if f.err = c.write(ctx, id, produce); f.err != nil {
		return nil, false, f.err
	}
	if out = c.open(id); out == nil { // evicted, or damaged, before anybody read it
		return nil, false, &NoRoomError{"it was gone before it was read"}
	}
	return out, false, nil
}

// open opens and checks an entry's file; one that is no good is dropped.
func (c *Cache) open(id Identity) *Output {
	k := id.Key()
	file, err := os.Open(c.path(k))
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			c.log.Warn("an output can't be read", "error", err)
		}
		return nil
	}
	out, err := read(file, k)
	if err != nil {
		_ = file.Close()
		c.corrupt(k, err)
		return nil
	}
	out.cache = c
	c.use(k, out)
	return out
}

// use notes that an entry is wanted.
func (c *Cache) use(k Key, out *Output) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := c.entries[k]
	if at == nil {
		if !c.holds(k, out) {
			return // evicted since it was opened: whoever reads it has the last of it
		}
		at = c.add(&entry{key: k, id: out.meta.origin(), size: out.onDisk})
	}
	c.recent.MoveToFront(at)
	e := at.Value.(*entry) //nolint:forcetypeassert // nothing else is in the list
	if now := time.Now(); now.Sub(e.touched) > touchAfter {
		e.touched = now
		_ = os.Chtimes(c.path(k), now, now) // costs its place after a restart, no more
	}
}

// holds says whether the file that was opened is there still. The caller holds mu.
func (c *Cache) holds(k Key, out *Output) bool {
	opened, err := out.file.Stat()
	if err != nil {
		return false
	}
	there, err := os.Lstat(c.path(k))
	return err == nil && os.SameFile(opened, there)
}

// add takes an entry into the index. The caller holds mu.
func (c *Cache) add(e *entry) *list.Element {
	c.reserved += e.size
	c.stats.Entries++
	c.stats.Bytes += e.size
	at := c.recent.PushFront(e)
	c.entries[e.key] = at
	return at
}

// forget takes an entry out of the index and off the disk. Readers that have it open go on. The caller holds mu.
func (c *Cache) forget(k Key) {
	if err := os.Remove(c.path(k)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.log.Warn("an output can't be removed", "error", err)
	}
	at := c.entries[k]
	if at == nil {
		return
	}
	e := c.recent.Remove(at).(*entry) //nolint:forcetypeassert // nothing else is in the list
	delete(c.entries, k)
	c.reserved -= e.size
	c.stats.Entries--
	c.stats.Bytes -= e.size
}

// corrupt drops an entry whose bytes are not what they were.
func (c *Cache) corrupt(k Key, reason error) {
	c.log.Warn("a damaged output was dropped", "key", k.String(), "reason", reason)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats.Corrupt++
	c.forget(k)
}

// reserve makes room for n more bytes, at the expense of what was not used for longest.
func (c *Cache) reserve(n int64) error {
	free, capacity, err := c.usage()
	if err != nil {
		return &NoRoomError{err.Error()}
	}
	spare := free - capacity/20 - n
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reserved-c.stats.Bytes+n > c.quota { // what is being written fills it
		return &NoRoomError{fmt.Sprintf("the quota is %d bytes", c.quota)}
	}
	for c.reserved+n > c.quota || spare < 0 || len(c.entries) >= maxEntries {
		oldest := c.recent.Back()
		if oldest == nil {
			return &NoRoomError{fmt.Sprintf("the disk has %d bytes left", free)}
		}
		e := oldest.Value.(*entry) //nolint:forcetypeassert // nothing else is in the list
		spare += e.size
		c.stats.Evictions++
		c.forget(e.key)
	}
	c.reserved += n
	return nil
}

func (c *Cache) release(n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reserved -= n
}

// Stats counts.
func (c *Cache) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	s.BytesServed = c.served.Load()
	return s
}
