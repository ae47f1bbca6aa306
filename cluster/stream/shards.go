package stream

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zeebo/xxh3"
	"golang.org/x/sys/unix"

	"github.com/shardstream/shardstream/cluster/ahead"
	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/archive"
	"github.com/shardstream/shardstream/core/store"
	"github.com/shardstream/shardstream/sampler"
)

// Bounds of the shards that one stream keeps open; each pins a file and an index. All streams together
// keep about allPinned, so where there are thousands each has fewer.
const (
	maxPinned = 512
	minPinned = 8
	allPinned = 1 << 16
)

// pinners counts the streams of a node that have shards open.
type pinners struct{ count atomic.Int64 }

// share is the number of shards that each may keep open.
func (p *pinners) share() int {
	return int(min(max(allPinned/max(p.count.Load(), 1), minPinned), maxPinned))
}

// maxTries bounds the search for a shard to close: where a batch reads from all of them, there is none.
const maxTries = 64

// shard is an open shard of the snapshot, or the reason why there is none.
type shard struct {
	number int
	object *store.Object
	index  *archive.Index
	err    error     // every sample of the shard fails with it
	failed time.Time // when it did, where trying again may help
	absent bool      // another target's
	share  *Share    // under which it is this node's to send
	mem    []byte    // the payload, mapped when the first small item is sent; the sender's
	refs   int       // jobs that still read from it
	used   bool      // since the clock hand last passed

	// plain says that the object is no archive but one sample: small ones are read into the memory of all
	// such shards, as each is read once an epoch and a mapping costs more than that.
	plain *[]byte

	probed, shrinks bool // whether its bytes compress; the sender's

	cached atomic.Bool // the payload was in the page cache when it was last looked at
	look   time.Time   // when that is to be looked at again; the planner's
}

// lookEvery is how long a shard is taken to be in the page cache, or not to be, after a look.
const lookEvery = time.Second

// warm says whether the whole payload was in the page cache lately: there is nothing to read ahead then.
func (sh *shard) warm(now time.Time) bool {
	if now.After(sh.look) {
		sh.cached.Store(cached(int(sh.object.File().Fd()), sh.object.Info().Size))
		sh.look = now.Add(lookEvery)
	}
	return sh.cached.Load()
}

// cached asks the kernel (6.5 and later) whether a file's first size bytes are in the page cache.
func cached(fd int, size int64) bool {
	var stat unix.Cachestat_t
	if err := unix.Cachestat(uint(fd), &unix.CachestatRange{Off: 0, Len: uint64(size)}, &stat, 0); err != nil {
		return false
	}
	page := int64(os.Getpagesize())
	return int64(stat.Cache) >= (size+page-1)/page
}

// shards opens and pins the snapshot's shards as the plan reaches them. One goroutine gets them.
type shards struct {
	server  *Server
	snap    *sampler.Snapshot
	known   *knowledge // shared with other streams
	any     bool       // whatever is here is wanted: nobody sent it who should have
	lean    bool       // what is in slices is put together by its primary only
	plain   bool       // the shards are objects that are one sample each
	scratch []byte     // where small ones of these are read to

	mu     sync.Mutex
	open   map[int]*shard
	pinned []*shard // those with an object, in clock order
	hand   int

	course  *ahead.Course
	waiting atomic.Int32 // 1 while a shard comes from somewhere else
}

// newShards are those that the node sends of a snapshot; or any that it has, for which it looks anew.
func (s *Server) newShards(snap *sampler.Snapshot, plain, whatever bool) *shards {
	sh := &shards{server: s, snap: snap, plain: plain, any: whatever, open: make(map[int]*shard)}
	if whatever {
		sh.known = newKnowledge(s.share(), snap)
	} else {
		sh.follow(time.Now())
	}
	return sh
}

// follow goes by the map of now.
func (s *shards) follow(now time.Time) {
	if s.any {
		return
	}
	if share := s.server.share(); s.known == nil || share.Map != s.known.share.Map || now.After(s.known.until) {
		s.known = s.server.known.of(s.snap, share, now)
	}
}

// get returns a shard with a reference that release gives back; nil where it is another target's.
func (s *shards) get(ctx context.Context, number int) *shard {
	s.mu.Lock()
	sh := s.open[number]
	if sh != nil && sh.again() {
		delete(s.open, number)
		sh = nil
	}
	if sh != nil && sh.share.Map != s.known.share.Map && !s.any {
		if s.known.role(s.snap, number) == Other {
			s.giveUp(sh)
			s.mu.Unlock()
			return nil
		}
		sh.share = s.known.share
	}
	if sh != nil {
		sh.refs++
		sh.used = true
	}
	s.mu.Unlock()
	if sh != nil {
		return sh
	}
	role := s.known.role(s.snap, number)
	if role == Other && !s.any || s.known.absent.has(number) {
		return nil
	}
	sh = s.load(ctx, number, role) // which may take long: the sender goes on
	if sh.absent {
		s.known.absent.add(number)
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	sh.refs, sh.used, sh.share = 1, true, s.known.share
	s.open[number] = sh
	if sh.object != nil {
		if s.pinned == nil {
			s.server.pinners.count.Add(1)
		}
		s.pinned = append(s.pinned, sh)
		s.evict()
	}
	return sh
}

// tryAgain is how long the samples of a shard fail that its backend did not give.
const tryAgain = 10 * time.Second

// again says that it is time to try again to open a shard.
func (sh *shard) again() bool {
	return !sh.failed.IsZero() && sh.refs == 0 && time.Since(sh.failed) > tryAgain
}

// giveUp closes a shard that is another target's by now, if no job reads it: its file shall not stay for it.
func (s *shards) giveUp(sh *shard) {
	if sh.refs > 0 {
		return
	}
	if sh.object == nil {
		delete(s.open, sh.number)
		return
	}
	i := slices.Index(s.pinned, sh)
	s.pinned[i] = s.pinned[len(s.pinned)-1]
	s.pinned = s.pinned[:len(s.pinned)-1]
	s.drop(sh)
}

func (s *shards) release(sh *shard) {
	s.mu.Lock()
	sh.refs--
	s.mu.Unlock()
}

// load opens a shard at the snapshot's version. An older version than that is as good as none: the newer is with
// another target. A newer one is not: its samples fail, as the order they were planned in is gone; unless the primary
// may know better.
func (s *shards) load(ctx context.Context, number int, role Role) *shard {
	decides := role == Primary || s.any
	want := s.snap.Shard(number)
	sh := &shard{number: number}
	bucket, name, _ := strings.Cut(want.Name, "/")
	object, err := s.server.Objects.Open(bucket, name)
	waited := false
	if errors.Is(err, store.ErrStub) && (role == Primary || s.any && !s.lean) && s.server.Rebuild != nil {
		waited = true
		s.waiting.Store(1)
		object, err = s.server.Rebuild(ctx, bucket, name, want.Version)
		s.waiting.Store(0)
	}
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrStub) {
		sh.absent = true
		return sh
	}
	if err != nil {
		if sh.err = err; waited {
			sh.failed = time.Now()
		}
		return sh
	}
	if version := object.Info().Version; version < want.Version || version > want.Version && !decides {
		_ = object.Close()
		sh.absent = true
		return sh
	}
	var index *archive.Index
	info := object.Info()
	if info.Version != want.Version {
		sh.err = api.Errorf(409, api.CodeChanged, "shard ss://%s was overwritten after the stream was opened (version %d, now %d); open a new stream", want.Name, want.Version, info.Version)
	} else if s.plain {
		if sh.plain = &s.scratch; want.Samples == 1 {
			index = archive.Single(info.Name, info.Size, info.XXH3)
		}
		if index == nil {
			sh.err = api.Errorf(500, api.CodeInternal, "object ss://%s is not one sample", want.Name)
		}
	} else if index, err = object.Index(); err != nil {
		sh.err = err
	} else if index == nil || int64(index.NumSamples()) != want.Samples {
		sh.err = api.Errorf(500, api.CodeInternal, "shard ss://%s has no index of %d samples", want.Name, want.Samples)
	}
	if sh.err != nil {
		_ = object.Close()
		return sh
	}
	// Only now: a snapshot that counts more samples than there are must not reach into the index.
	sh.object, sh.index = object, index
	if _, cached := info.Origin(); cached {
		s.course.Used(bucket, name, waited)
	}
	return sh
}

// bytes returns a range of the payload through a mapping: for small items a copy out of the page cache
// costs a fifth of a pread(2). Only the sender calls it, for shards that its job holds.
func (sh *shard) bytes(off, size int64) ([]byte, error) {
	if sh.plain != nil {
		if int64(cap(*sh.plain)) < size {
			*sh.plain = make([]byte, size)
		}
		b := (*sh.plain)[:size]
		_, err := sh.object.File().ReadAt(b, off)
		return b, err
	}
	if sh.mem == nil {
		mem, err := unix.Mmap(int(sh.object.File().Fd()), 0, int(sh.object.Info().Size), unix.PROT_READ, unix.MAP_SHARED)
		if err != nil {
			return nil, err
		}
		sh.mem = mem
	}
	if off < 0 || size < 0 || off+size > int64(len(sh.mem)) {
		return nil, io.ErrUnexpectedEOF
	}
	return sh.mem[off : off+size], nil
}

// sample reads a sample in one piece, verified; member m of it begins at Member(m).Offset - base.
func (sh *shard) sample(index int, buf []byte) (span []byte, base int64, err error) {
	if sh.plain == nil {
		return sh.object.ReadSample(index, buf)
	}
	m := sh.index.Member(0)
	if int64(cap(buf)) < m.Size {
		buf = make([]byte, m.Size)
	}
	span = buf[:m.Size]
	if _, err = sh.object.File().ReadAt(span, 0); err == nil && xxh3.Hash(span) == m.Sum {
		return span, 0, nil
	}
	if err = damageOf(sh, 0, m.Size, m.Sum); err == nil {
		err = corrupt(sh, 0, "it reads differently each time")
	}
	return nil, 0, err
}

// evict closes shards that no job reads and that were not used lately (a clock, second chance).
func (s *shards) evict() {
	most := s.server.pinners.share()
	for tries := maxTries; len(s.pinned) > most && tries > 0; tries-- {
		s.hand %= len(s.pinned)
		sh := s.pinned[s.hand]
		if sh.refs > 0 || sh.used {
			sh.used = false
			s.hand++
			continue
		}
		s.drop(sh)
		s.pinned[s.hand] = s.pinned[len(s.pinned)-1]
		s.pinned = s.pinned[:len(s.pinned)-1]
	}
}

func (s *shards) drop(sh *shard) {
	delete(s.open, sh.number)
	if sh.mem != nil {
		_ = unix.Munmap(sh.mem)
	}
	_ = sh.object.Close() // opened for reading
}

// close unpins everything; no job runs any more.
func (s *shards) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sh := range s.pinned {
		s.drop(sh)
	}
	if s.pinned != nil {
		s.server.pinners.count.Add(-1)
	}
	s.pinned = nil
}
