package archive

import (
	"bytes"
	"context"
	"sync"
)

// A scan's next read follows from the last: where a header is, only the one before it tells. So that it does not cost a round
// trip a member, others look for headers further on, in segments of the archive: the first block of a segment that looks
// like a header is taken for one, and what follows from it is read and kept. The scan itself goes through all headers in
// their order, as it would without, and takes the bytes that it needs from what was kept, where they are there. A guess
// that was wrong, in an archive within the archive perhaps, costs reads and nothing else.

// Bounds of what is read ahead.
const (
	minSegment = 8 << 20
	maxSegment = 64 << 20
	maxKept    = 1 << 20   // bytes of headers of a segment
	maxSearch  = 4 << 20   // bytes in which a segment's first header is looked for: larger members are few
	searchRead = 32 << 10  // what that begins with, and grows by
	searchMost = 256 << 10 // and grows to
)

// lookahead reads headers that a scan will come to.
type lookahead struct {
	read    ReadAt
	size    int64
	gap     int64
	length  int64 // of a segment
	count   int64 // of segments
	cancel  context.CancelFunc
	workers sync.WaitGroup

	at      int64    // the segment that the scan is in
	current *segment // nil: it reads this one itself

	mu     sync.Mutex
	moved  sync.Cond
	first  int64 // the scan's segment, for the others
	next   int64 // the first that nobody has begun with
	ended  bool
	begun  map[int64]*segment
	beyond int64 // how many segments may be begun before the scan comes to them
}

// segment is a part of the archive, and the headers that were found in it.
type segment struct {
	done  chan struct{}
	kept  []byte
	parts []part // in their order
}

// part is a piece of the archive that was kept.
type part struct {
	offset   int64
	from, to int // in kept
}

// look begins to read ahead of a scan; nil where that is of no use.
func look(ctx context.Context, read ReadAt, size int64, o ScanOptions, length int64) *lookahead {
	count := (size + length - 1) / length
	readers := min(int64(o.Readers)-1, count-1)
	if readers < 1 {
		return nil
	}
	l := &lookahead{read: read, size: size, gap: o.Gap, length: length, count: count, next: 1, begun: map[int64]*segment{}, beyond: 2 * readers}
	l.moved.L = &l.mu
	ctx, l.cancel = context.WithCancel(ctx)
	for range readers {
		l.workers.Go(func() { l.work(ctx) })
	}
	return l
}

// close ends the reading ahead.
func (l *lookahead) close() {
	l.cancel()
	l.mu.Lock()
	l.ended = true
	l.mu.Unlock()
	l.moved.Broadcast()
	l.workers.Wait()
}

// work reads one segment after the other.
func (l *lookahead) work(ctx context.Context) {
	for {
		n, s := l.begin()
		if s == nil {
			return
		}
		s.scan(ctx, l, n)
		close(s.done)
	}
}

// begin takes the next segment, once the scan has come near it; nil at the end.
func (l *lookahead) begin() (int64, *segment) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for !l.ended && l.next < l.count && l.next > l.first+l.beyond {
		l.moved.Wait()
	}
	if l.ended || l.next >= l.count {
		return 0, nil
	}
	n, s := l.next, &segment{done: make(chan struct{})}
	l.begun[n] = s
	l.next++
	return n, s
}

// bytes gives what was kept of the archive from at on; none where the scan is to read it itself.
func (l *lookahead) bytes(ctx context.Context, at int64) []byte {
	if n := at / l.length; n != l.at {
		l.at, l.current = n, l.enter(n)
		if l.current != nil {
			select {
			case <-l.current.done:
			case <-ctx.Done():
				l.current = nil
			}
		}
	}
	if l.current == nil {
		return nil
	}
	return l.current.find(at)
}

// enter says that the scan has come to a segment, and gives it where somebody has begun with it.
func (l *lookahead) enter(n int64) *segment {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.begun[n]
	for before := range l.begun {
		if before <= n {
			delete(l.begun, before)
		}
	}
	l.first, l.next = n, max(l.next, n+1)
	l.moved.Broadcast()
	return s
}

// find gives the bytes that were kept from at on.
func (s *segment) find(at int64) []byte {
	for len(s.parts) > 0 {
		p := s.parts[0]
		if end := p.offset + int64(p.to-p.from); at < end {
			if at < p.offset {
				return nil
			}
			return s.kept[p.from+int(at-p.offset) : p.to] // within the part
		}
		s.parts = s.parts[1:]
	}
	return nil
}

// scan keeps the headers of the nth segment. What it fails at, the scan itself will come to.
func (s *segment) scan(ctx context.Context, l *lookahead, n int64) {
	from, end := n*l.length, min((n+1)*l.length, l.size)
	r := scanner{read: l.read, size: l.size, gap: l.gap, cluster: firstRead}
	at, ok := r.search(ctx, from, min(end, from+maxSearch))
	x := NewIndexer(Tar)
	for x.at = at; ok && x.at < end && x.state != atEnd; {
		if n := min(x.skippable(), l.size-x.at); n > 0 {
			x.skip(n)
			continue
		}
		b, err := r.next(ctx, x.at)
		if err != nil {
			return
		}
		at := x.at
		taken := x.take(b)
		if x.err != nil || len(s.kept)+taken > maxKept {
			return
		}
		s.keep(at, b[:taken])
	}
}

func (s *segment) keep(at int64, b []byte) {
	from := len(s.kept)
	s.kept = append(s.kept, b...)
	if last := len(s.parts) - 1; last >= 0 && s.parts[last].offset+int64(s.parts[last].to-s.parts[last].from) == at {
		s.parts[last].to = len(s.kept)
		return
	}
	s.parts = append(s.parts, part{offset: at, from: from, to: len(s.kept)})
}

// search finds the first block from at on, and before end, that looks like a header.
func (s *scanner) search(ctx context.Context, at, end int64) (int64, bool) {
	for n := int64(searchRead); at < end; n = min(n+searchRead, searchMost) {
		if err := s.piece(ctx, at, min(n, s.size-at)); err != nil {
			return 0, false
		}
		for b := s.buf; len(b) >= blockSize; b = b[blockSize:] {
			if looksLikeHeader((*block)(b)) {
				s.start = at
				return at, true
			}
			at += blockSize
		}
		if len(s.buf)%blockSize != 0 {
			return 0, false
		}
	}
	return 0, false
}

// looksLikeHeader says that a block is a header by its checksum and its magic number, which headers of old lack.
func looksLikeHeader(b *block) bool {
	return bytes.Equal(b[257:262], magicUstar[:5]) && checksumOK(b)
}
