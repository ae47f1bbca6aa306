package target

import (
	"io"
	"net"
	"sync"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/shardstream/shardstream/core/store"
)

// maxWhole is the largest body that is read and verified before its status is sent: damage in it
// becomes an error that names it. Damage in a larger one can only cut the answer short.
const maxWhole = 4 << 20

// maxWholes bounds the bodies that are in memory at a time: slow clients may hold them for long. Those beyond it are sent in
// pieces, as larger ones are.
const maxWholes = 32

// firstPiece is what is verified of a larger body before its status is sent: at least as much as the
// store reads and verifies at once.
const firstPiece = 1 << 20

var wholePool = sync.Pool{New: func() any { b := make([]byte, maxWhole); return &b }}

// sectionBody sends a range of an object. It implements io.WriterTo, which fasthttp calls with the
// connection's own writer where the length is known: the fast way. It holds the object open until it
// is closed, which fasthttp does once the answer is sent.
type sectionBody struct {
	object *store.Object
	off, n int64
	data   []byte  // of a small body, read and verified
	pooled *[]byte // where data lies
	conn   net.Conn
	target *Target
	done   func(out int64, err error)

	sent   int64
	failed error
	once   sync.Once
}

// newSectionBody prepares a body; a small one is read here. On an error the object stays open.
func newSectionBody(r *Request, object *store.Object, off, n int64) (*sectionBody, error) {
	b := &sectionBody{object: object, off: off, n: n, conn: r.Conn(), target: r.Target}
	if n > maxWhole || !r.Target.takeWhole() {
		// The head leaves with the first piece: damage in that would otherwise be an answer without one.
		if err := object.VerifyRange(off, min(n, firstPiece)); err != nil {
			return nil, err
		}
		// The server's limit for whole answers would end a slow download; each piece gets its own.
		return b, r.SetWriteDeadline(time.Now().Add(downloadPause))
	}
	b.pooled = wholePool.Get().(*[]byte) //nolint:forcetypeassert // the pool's own
	b.data = (*b.pooled)[:n]
	if err := readFull(object, b.data, off); err != nil {
		b.giveBack()
		return nil, err
	}
	return b, nil
}

// takeWhole says that there is room for one more body in memory; giveBack makes it.
func (t *Target) takeWhole() bool {
	if t.wholes.Add(1) <= maxWholes {
		return true
	}
	t.wholes.Add(-1)
	return false
}

func (b *sectionBody) giveBack() {
	wholePool.Put(b.pooled)
	b.pooled, b.data = nil, nil
	b.target.wholes.Add(-1)
}

// sum is the checksum of a small body, or the known one.
func (b *sectionBody) sum(known *uint64) *uint64 {
	if known != nil {
		return known
	}
	sum := xxh3.Hash(b.data)
	return &sum
}

// WriteTo sends the body. An error ends the connection, so that the client can't take what it has for
// the whole.
func (b *sectionBody) WriteTo(w io.Writer) (int64, error) {
	if b.data != nil {
		n, err := w.Write(b.data)
		b.sent, b.failed = int64(n), err
		return b.sent, err
	}
	pieces := &pieceWriter{w: w, conn: b.conn}
	b.sent, b.failed = b.object.WriteRange(pieces, b.off, b.n)
	if b.failed != nil && pieces.err == nil {
		b.target.readFailed(b.object.Info(), b.failed)
	}
	return b.sent, b.failed
}

// Read is what io.WriterTo is there to avoid; it serves writers that don't know it.
func (b *sectionBody) Read(p []byte) (int, error) {
	if b.sent == b.n {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), b.n-b.sent)]
	n := len(p)
	if b.data != nil {
		copy(p, b.data[b.sent:])
	} else if err := readFull(b.object, p, b.off+b.sent); err != nil {
		b.failed = err
		b.target.readFailed(b.object.Info(), err)
		return 0, err
	}
	b.sent += int64(n)
	return n, nil
}

// Close ends the answer.
func (b *sectionBody) Close() error {
	b.release()
	return nil
}

func (b *sectionBody) whenDone(f func(out int64, err error)) { b.done = f }

func (b *sectionBody) release() {
	b.once.Do(func() {
		if b.pooled != nil {
			b.giveBack()
		}
		if err := b.object.Close(); err != nil {
			b.target.log.Warn("closing an object failed", "error", err)
		}
		if b.done != nil {
			b.done(b.sent, b.failed)
		}
	})
}

// readFailed records damage that came to light while a body was sent.
func (t *Target) readFailed(info store.Info, err error) {
	if info.Kind == store.Slice {
		t.slices.Damaged(store.SliceKey{Bucket: info.Bucket, Name: info.Name, Version: info.Version, Slice: info.Slice}, err)
	} else {
		t.suspects.add(info.Bucket, info.Name, info.Version)
	}
	t.metrics.CorruptRead(info.Disk)
	t.log.Error("reading an object failed; the answer was cut short", "error", err)
}

// pieceWriter gives each piece of a long answer a deadline of its own.
type pieceWriter struct {
	w    io.Writer
	conn net.Conn
	err  error
}

const pieceBytes = 256 << 10

func (p *pieceWriter) Write(data []byte) (int, error) {
	written := 0
	for len(data) > 0 {
		if p.err = p.conn.SetWriteDeadline(time.Now().Add(downloadPause)); p.err != nil {
			return written, p.err
		}
		piece := data[:min(len(data), pieceBytes)]
		var n int
		n, p.err = p.w.Write(piece)
		written += n
		if p.err != nil {
			return written, p.err
		}
		data = data[n:]
	}
	return written, nil
}

// readFull reads and verifies len(p) bytes.
func readFull(object *store.Object, p []byte, off int64) error {
	n, err := object.ReadAt(p, off)
	if n == len(p) {
		return nil // io.EOF at the end of the object is no failure
	}
	if err == nil || isEOF(err) {
		err = io.ErrUnexpectedEOF
	}
	return err
}
