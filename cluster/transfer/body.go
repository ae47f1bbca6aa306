package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"golang.org/x/time/rate"

	"github.com/shardstream/shardstream/core/backend"
)

// Body reads a file of a side for another side's Put. It can be read again, from anywhere: what is read must have the
// file's tag. Its last bytes are given out only when all of it has proven to be the file, so that nobody who is sent a
// damaged one can take it for whole.
type Body struct {
	mu     sync.Mutex      // a transport may go on reading after it has given up a request
	ctx    context.Context //nolint:containedctx // of the copy that the body is for; it bounds all reads
	side   Side
	file   File
	size   int64 // -1: not known
	at     int64 // of the next byte
	stream io.ReadCloser

	sums   *hasher
	hashed int64 // so many bytes from the beginning are in sums

	limit *rate.Limiter // nil: none
	moved func(int64)   // bytes that were read for the first time
	seen  int64

	// summedFirst says that the first pass is for checksums: what is moved is moved by the second.
	summedFirst bool
	stop        context.CancelCauseFunc // called with the first failure; nil: nobody
	failed      atomic.Pointer[error]
	closed      atomic.Bool
}

// burst is what may be read at once under a limit.
const burst = 256 << 10

func newBody(ctx context.Context, side Side, file File, withMD5 bool, limit *rate.Limiter, moved func(int64)) *Body {
	return &Body{ctx: ctx, side: side, file: file, size: file.Size, sums: newHasher(file.Sums, withMD5), limit: limit, moved: moved}
}

// Read implements io.Reader.
func (b *Body) Read(p []byte) (int, error) {
	n, err := b.locked(p)
	if b.closed.Load() {
		_ = b.Close() // which has not waited for this call
	}
	return n, err
}

func (b *Body) locked(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n, err := b.read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		b.failed.CompareAndSwap(nil, &err)
		if b.stop != nil {
			b.stop(err)
		}
	}
	return n, err
}

// failure is what went wrong with the source, if that was the reason that a Put failed.
func (b *Body) failure() error {
	if err := b.failed.Load(); err != nil {
		return *err
	}
	return nil
}

func (b *Body) read(p []byte) (int, error) {
	if err := context.Cause(b.ctx); err != nil {
		return 0, err
	}
	if len(p) == 0 {
		return 0, nil
	}
	if b.size >= 0 && b.at >= b.size {
		return 0, io.EOF
	}
	if b.stream == nil {
		stream, err := b.side.Open(b.ctx, b.file.Name, b.at, b.file.Tag)
		if err != nil {
			return 0, err
		}
		b.stream = stream
	}
	if b.limit != nil {
		p = p[:min(len(p), burst)]
	}
	if b.size >= 0 {
		p = p[:min(int64(len(p)), b.size-b.at)]
	}
	n, err := b.stream.Read(p)
	if n > 0 && b.limit != nil {
		if limitErr := b.limit.WaitN(b.ctx, n); limitErr != nil {
			b.closeStream() // these bytes are to be read again
			return 0, limitErr
		}
	}
	b.account(p[:n])
	switch {
	case b.size >= 0 && b.at == b.size: // before the last bytes are given out
		if endErr := b.end(err); endErr != nil {
			b.closeStream()
			b.at -= int64(n) // another Read must not find the end
			return 0, endErr
		}
		return n, nil
	case errors.Is(err, io.EOF) && b.size >= 0:
		return 0, b.broken(backend.Passing, fmt.Errorf("it ended after %d of %d bytes", b.at, b.size))
	case errors.Is(err, io.EOF):
		if sumErr := b.verify(); sumErr != nil {
			return 0, sumErr
		}
		return n, io.EOF
	}
	return n, err
}

// account takes note of bytes that were read.
func (b *Body) account(p []byte) {
	from, summing := b.at, b.summedFirst && b.hashed < b.size
	b.at += int64(len(p))
	if from <= b.hashed && b.at > b.hashed {
		b.sums.write(p[b.hashed-from:])
		b.hashed = b.at
	}
	if b.at > b.seen && !summing {
		b.moved(b.at - max(b.seen, from))
		b.seen = b.at
	}
}

// end makes sure that the file ends where it should, and lets its side have its own say.
func (b *Body) end(err error) error {
	var more [1]byte
	for err == nil {
		var n int
		if n, err = b.stream.Read(more[:]); n > 0 {
			return b.broken(backend.Changed, fmt.Errorf("it has more than its %d bytes", b.size))
		}
	}
	if !errors.Is(err, io.EOF) {
		return err
	}
	return b.verify()
}

// verify compares what was read with what is known of the file.
func (b *Body) verify() error {
	if b.hashed != b.at {
		return nil // read in parts and out of order: the side checks the parts
	}
	if _, difference := compareSums(b.sums.sums(), b.file.Sums); difference != "" {
		return b.broken(backend.Corrupt, errors.New(difference))
	}
	return nil
}

func (b *Body) broken(kind backend.Kind, err error) error {
	return failure(b.side, "read", b.file.Name, kind, err)
}

// Seek implements io.Seeker.
func (b *Body) Seek(offset int64, whence int) (int64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch whence {
	case io.SeekCurrent:
		offset += b.at
	case io.SeekEnd:
		if b.size < 0 {
			return 0, b.broken(backend.Failed, errors.New("its size is not known"))
		}
		offset += b.size
	}
	if offset < 0 {
		return 0, b.broken(backend.Failed, errors.New("seek before its beginning"))
	}
	if offset == 0 {
		b.failed.Store(nil) // it is read anew
	}
	if offset != b.at {
		b.at = offset
		local, ok := b.stream.(io.Seeker)
		if !ok {
			b.closeStream()
		} else if _, err := local.Seek(offset, io.SeekStart); err != nil {
			b.closeStream()
		}
	}
	return offset, nil
}

// position is how many bytes were read, in order.
func (b *Body) position() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.at
}

// length is the file's, once it was read.
func (b *Body) length() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.size >= 0 {
		return b.size
	}
	return b.at
}

// prefixSum is the checksum of what was read, in order.
func (b *Body) prefixSum() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return fmt.Sprintf("%016x", b.sums.xxh3.Sum64())
}

// skip takes what the destination has of the file already for read.
func (b *Body) skip(p []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sums.write(p)
	b.at += int64(len(p))
	b.hashed = b.at
	if b.at > b.seen {
		b.moved(b.at - b.seen)
		b.seen = b.at
	}
}

// restart forgets what was skipped.
func (b *Body) restart() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closeStream()
	b.sums, b.at, b.hashed = newHasher(b.file.Sums, b.sums.md5 != nil), 0, 0
}

// Sums are the checksums of the file, if all of it was read.
func (b *Body) Sums() (backend.Sums, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	whole := b.size < 0 || b.hashed == b.size
	return b.sums.sums(), whole
}

func (b *Body) closeStream() {
	if b.stream != nil {
		_ = b.stream.Close()
		b.stream = nil
	}
}

// Close ends the reading. It does not wait for a Read that hangs, as one of a pipe may for ever; that closes the body when
// it returns.
func (b *Body) Close() error {
	b.closed.Store(true)
	if b.mu.TryLock() {
		b.closeStream()
		b.mu.Unlock()
	}
	return nil
}
