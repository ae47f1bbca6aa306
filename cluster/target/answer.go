package target

import (
	"io"
	"net"
	"sync"
)

// answerBody sends bytes that are no object's: those that are here, then those of a reader. It implements io.WriterTo,
// the fast way through the server whether the length is known or not; each write that it makes leaves at once. The
// server closes it once the answer is sent.
type answerBody struct {
	conn    net.Conn
	head    []byte    // read already
	rest    io.Reader // nil: nothing follows
	onClose func()
	broke   func(error) // told of an error of the reader

	pooled *[]byte // where head lies
	done   func(out int64, err error)
	sent   int64
	failed error
	once   sync.Once
}

var copyPool = sync.Pool{New: func() any { b := make([]byte, pieceBytes); return &b }}

// await reads until n bytes are here or the end is. size is that of the whole, -1 where it is not known; it is known
// when the end was met, and nothing follows then.
func (b *answerBody) await(n, size int64) (int64, error) {
	if b.rest == nil {
		return int64(len(b.head)), nil
	}
	if b.pooled == nil {
		b.pooled = wholePool.Get().(*[]byte) //nolint:forcetypeassert // the pool's own
		b.head = (*b.pooled)[:0]
	}
	whole := size >= 0 && size <= n
	if whole {
		n = size
	}
	n = min(n, maxWhole)
	for int64(len(b.head)) < n {
		m, err := b.rest.Read((*b.pooled)[len(b.head):n])
		b.head = (*b.pooled)[:len(b.head)+m]
		if isEOF(err) {
			if size >= 0 && int64(len(b.head)) < size {
				return size, io.ErrUnexpectedEOF
			}
			b.rest = nil
			return int64(len(b.head)), nil
		}
		if err != nil {
			return size, err
		}
	}
	if whole {
		b.rest = nil
	}
	return size, nil
}

// seek leaves out the next n bytes.
func (b *answerBody) seek(n int64) error {
	here := min(n, int64(len(b.head)))
	b.head = b.head[here:]
	if n -= here; n == 0 {
		return nil
	}
	if s, ok := b.rest.(io.Seeker); ok {
		_, err := s.Seek(n, io.SeekCurrent)
		return err
	}
	got, err := io.CopyN(io.Discard, b.rest, n)
	if isEOF(err) && got < n {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// WriteTo sends the body. An error ends the connection, so that the client can't take what it has for the whole.
func (b *answerBody) WriteTo(w io.Writer) (int64, error) {
	pieces := &pieceWriter{w: w, conn: b.conn}
	n, err := pieces.Write(b.head)
	b.sent = int64(n)
	if err == nil && b.rest != nil {
		var more int64
		buffer := copyPool.Get().(*[]byte) //nolint:forcetypeassert // the pool's own
		more, err = io.CopyBuffer(pieces, b.rest, *buffer)
		copyPool.Put(buffer)
		b.sent += more
	}
	b.fail(err, pieces.err)
	return b.sent, b.failed
}

// SupportsBodyWriteTo tells the server that WriteTo and Read send the same.
func (b *answerBody) SupportsBodyWriteTo() bool { return true }

// Read is what io.WriterTo is there to avoid; it serves writers that don't know it.
func (b *answerBody) Read(p []byte) (n int, err error) {
	switch {
	case len(b.head) > 0:
		n = copy(p, b.head)
		b.head = b.head[n:]
	case b.rest == nil:
		return 0, io.EOF
	default:
		n, err = b.rest.Read(p)
	}
	b.sent += int64(n)
	if !isEOF(err) {
		b.fail(err, nil)
	}
	return n, err
}

// fail notes an error; client is the one of the connection.
func (b *answerBody) fail(err, client error) {
	b.failed = err
	if err != nil && client == nil {
		b.broke(err)
	}
}

// Close ends the answer.
func (b *answerBody) Close() error {
	b.release()
	return nil
}

func (b *answerBody) whenDone(f func(out int64, err error)) { b.done = f }

// giveBack lets the memory of the head go.
func (b *answerBody) giveBack() {
	if b.pooled != nil {
		wholePool.Put(b.pooled)
		b.pooled, b.head = nil, nil
	}
}

func (b *answerBody) release() {
	b.once.Do(func() {
		b.giveBack()
		b.onClose()
		if b.done != nil {
			b.done(b.sent, b.failed)
		}
	})
}
