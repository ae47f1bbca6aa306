package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// ReadAt reads from an archive that lies somewhere else, as io.ReaderAt does. Each call may cost a request.
type ReadAt func(ctx context.Context, p []byte, off int64) (n int, err error)

// ScanOptions say how Scan weighs requests against bytes.
type ScanOptions struct {
	// Gap is how many bytes are rather read than skipped, to save a request; 0: 32 KiB.
	Gap int64
	// Readers is how many reads may be under way at once; 0: one. The first follows the headers, the others look for headers
	// further on, which costs some reads more. ReadAt is called by several goroutines then.
	Readers int
}

// Bounds of the pieces in which an archive is read that is scanned.
const (
	defaultGap  = 32 << 10
	firstRead   = 2 << 10 // what a read begins with that follows a skip: some headers, and small members between them
	maxScanRead = 1 << 20
)

// Scan makes the index of a tar of that size by reading its headers alone, with small reads: the bytes of members are
// skipped, but where members are so small that reading on costs less than another request. It refuses what an Indexer
// refuses. Checksums of members are not known then (see Index.Checked).
func Scan(ctx context.Context, read ReadAt, size int64, o ScanOptions) (*Index, error) {
	segment := min(max(size/int64(2*max(o.Readers, 1)), minSegment), maxSegment) &^ (blockSize - 1)
	return scan(ctx, read, size, o, segment)
}

func scan(ctx context.Context, read ReadAt, size int64, o ScanOptions, segment int64) (*Index, error) {
	if o.Gap <= 0 {
		o.Gap = defaultGap
	}
	ahead := look(ctx, read, size, o, segment)
	if ahead != nil {
		defer ahead.close()
	}
	s := scanner{read: read, size: size, gap: o.Gap, cluster: firstRead}
	x := NewIndexer(Tar)
	for x.at < size {
		if n := min(x.skippable(), size-x.at); n > 0 {
			x.skip(n)
			continue
		}
		var b []byte
		if ahead != nil {
			b = ahead.bytes(ctx, x.at)
		}
		if len(b) == 0 {
			var err error
			if b, err = s.next(ctx, x.at); err != nil {
				return nil, err
			}
		}
		if x.take(b); x.err != nil {
			return nil, x.err
		}
	}
	index, err := x.Finish()
	if err != nil {
		return nil, err
	}
	index.sums, index.unchecked = nil, true
	return index, nil
}

// scanner reads what is needed of an archive, in pieces whose size follows from what was needed before.
type scanner struct {
	read ReadAt
	size int64
	gap  int64

	buf     []byte
	from    int64 // where buf begins
	cluster int64 // bytes that are needed together behind a skip that pays, as far as is known
	start   int64 // where those that are needed now begin
	used    int64 // and end
	n       int64 // of the last read
}

// next gives the bytes from at on, one at least.
func (s *scanner) next(ctx context.Context, at int64) ([]byte, error) {
	end := s.from + int64(len(s.buf))
	if at < s.from || at >= end {
		if err := s.fill(ctx, at, end); err != nil {
			return nil, err
		}
	}
	s.used = at + blockSize
	return s.buf[at-s.from:], nil
}

// fill reads from at on. After a skip that paid as much is read as was needed after the last ones; where the distance is
// short, twice as much as before.
func (s *scanner) fill(ctx context.Context, at, end int64) error {
	if at-end > s.gap {
		fading := (s.cluster*15/16 + blockSize - 1) &^ (blockSize - 1)
		s.cluster = min(max(s.used-s.start, fading, blockSize), maxScanRead)
		s.start, s.n = at, s.cluster
	} else {
		s.n = min(max(2*s.n, firstRead), maxScanRead)
	}
	return s.piece(ctx, at, min(s.n, s.size-at))
}

// piece reads n bytes from at on.
func (s *scanner) piece(ctx context.Context, at, n int64) error {
	if int64(cap(s.buf)) < n {
		s.buf = make([]byte, n, max(n, 16<<10))
	}
	s.buf, s.from = s.buf[:n], at
	got, err := s.read(ctx, s.buf, at)
	switch {
	case got == len(s.buf):
		return nil
	case err == nil || errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read %d bytes from %d of an archive of %d: %w", n, at, s.size, err)
}
