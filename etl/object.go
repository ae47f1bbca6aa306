package etl

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync/atomic"
	"time"
)

// objectCall is an object on its way through a worker. A function that takes bytes gets them in one piece, one that
// takes a file reads them as they come; what it returns comes back in one piece, or piece by piece while the
// function goes on. Then the worker is the caller's until the last piece has been read.
//
// The slot that serves the call answers it once, feeds pieces and ends it; the caller reads.
type objectCall struct {
	object Object
	ctx    context.Context //nolint:containedctx // of the request, which the body belongs to
	cancel context.CancelFunc

	answer   chan objectAnswer // one
	answered bool              // by the slot
	pieces   chan []byte
	err      error         // why the pieces ended; set before pieces is closed
	done     chan struct{} // closed when nothing of the call is touched any more

	data     []byte // the object, where it was read in one piece
	read     bool
	lent     bool   // data is a buffer of ours
	block    []byte // holds the answer, where that is in one piece and not the object itself
	in, out  int64
	failed   bool
	fed      atomic.Int64          // bytes of the object that were given to the worker
	seen     int64                 // of these, by the watch
	waits    atomic.Bool           // for the object's next bytes
	unread   atomic.Pointer[error] // why the object can't be read to its end
	missing  bool                  // a piece of the answer went nowhere: what was read of it is not the whole
	consumed atomic.Bool           // the object can't be read again
}

type objectAnswer struct {
	output *Output
	err    error
}

func newObjectCall(ctx context.Context, object Object) *objectCall {
	c := &objectCall{object: object, answer: make(chan objectAnswer, 1), pieces: make(chan []byte), done: make(chan struct{})}
	c.ctx, c.cancel = context.WithCancel(ctx)
	return c
}

// readAll reads the object into memory, once.
func (c *objectCall) readAll(limit int64) error {
	if c.read {
		return nil
	}
	if buffer, ok := c.object.Body.(*bytes.Buffer); ok && int64(buffer.Len()) == c.object.Size {
		c.data, c.read, c.in = buffer.Bytes(), true, c.object.Size // it is in memory
		return nil
	}
	data, err := readObject(c.object, limit)
	c.data, c.read, c.lent, c.in = data, true, true, int64(len(data))
	return err
}

// readObject reads an object of bounded size into memory.
func readObject(object Object, limit int64) ([]byte, error) {
	if object.Size > limit {
		return nil, &SizeError{Key: object.Name(), Size: object.Size, Limit: limit}
	}
	if object.Size >= 0 {
		data := takeBuffer(object.Size)
		_, err := io.ReadFull(object.Body, data)
		return data, err
	}
	data, err := io.ReadAll(io.LimitReader(object.Body, limit+1))
	if err == nil && int64(len(data)) > limit {
		return nil, &SizeError{Key: object.Name(), Size: int64(len(data)), Limit: limit}
	}
	return data, err
}

// whole answers with a result in one piece.
func (c *objectCall) whole(data []byte) {
	c.out = int64(len(data))
	c.answered = true
	c.answer <- objectAnswer{output: &Output{Body: &wholeBody{Reader: bytes.NewReader(data), call: c}, Size: int64(len(data))}}
}

// wholeBody is the body of an answer in one piece.
type wholeBody struct {
	*bytes.Reader
	call *objectCall
}

// Close gives the memory back. It waits for the slot, which may still look at the object.
func (b *wholeBody) Close() error {
	call := b.call
	if call == nil {
		return nil
	}
	<-call.done
	b.call = nil
	b.Reset(nil)
	giveBuffer(call.block)
	if call.lent {
		giveBuffer(call.data)
	}
	return nil
}

// alloc takes memory for an answer in one piece.
func (c *objectCall) alloc(n int64) []byte {
	c.block = takeBuffer(n)
	return c.block
}

// piece hands a piece to the caller; once the call is given up, pieces go nowhere.
func (c *objectCall) piece(data []byte) {
	c.out += int64(len(data))
	if !c.answered {
		c.answered = true
		c.answer <- objectAnswer{output: &Output{Body: &pieces{call: c}, Size: -1}}
	}
	select {
	case c.pieces <- data:
	case <-c.ctx.Done():
		c.missing = true
	}
}

// end ends the call: with err where that is not nil.
func (c *objectCall) end(err error) {
	switch {
	case c.answered:
		if c.err = err; err == nil && c.missing {
			c.err = context.Cause(c.ctx)
		}
	default:
		if err == nil { // no piece came: the answer is empty
			c.whole(nil)
		} else {
			c.answered = true
			c.answer <- objectAnswer{err: err}
		}
	}
	close(c.pieces)
	close(c.done)
}

// progressed says whether the function is fed, or waits for its object through no fault of its own.
func (c *objectCall) progressed() bool {
	if c == nil {
		return false
	}
	fed := c.fed.Load()
	moved := fed != c.seen
	c.seen = fed
	return moved || c.waits.Load()
}

// pieces is the body of an answer in the making.
type pieces struct {
	call    *objectCall
	current []byte
}

func (p *pieces) Read(b []byte) (int, error) {
	for len(p.current) == 0 {
		select {
		case next, ok := <-p.call.pieces:
			if ok {
				p.current = next
				continue
			}
			if p.call.err != nil {
				return 0, p.call.err
			}
			return 0, io.EOF
		case <-p.call.ctx.Done():
			return 0, context.Cause(p.call.ctx)
		}
	}
	n := copy(b, p.current)
	p.current = p.current[n:]
	return n, nil
}

// Close ends the function, if it still goes on, and waits until nothing of the call is touched any more.
func (p *pieces) Close() error {
	p.call.cancel()
	<-p.call.done
	return nil
}

// object runs a call on the worker. What the function makes of the object is delivered as it comes; failed is why there
// is nothing, or no more. After lost the process is no longer usable.
func (p *process) object(c *chunk, timeout time.Duration, closed <-chan struct{}) (l *lost, failed error) {
	call := c.object
	p.seq++
	w := p.watch(c, timeout, closed)
	size := int64(len(c.args)) + requestHead
	send := func(*atomic.Bool) error { return p.sendWhole(c) }
	if p.stream {
		w.n, size = 0, sendAtOnce+1
		send = func(stop *atomic.Bool) error { return p.sendPieces(c, stop) }
	} else if n := len(call.data); n < sharedFrom || n > arenaHalf {
		size += int64(n)
	}
	ended, err := p.exchange(w, size, send, func() (err error) {
		failed, err = p.receiveObject(c, w)
		return err
	})
	if err != nil {
		l = p.diagnose(err, ended, w)
		if p.inHand() == p.seq {
			l.blame = 0
		}
		return l, nil
	}
	if unread := call.unread.Load(); unread != nil {
		failed = *unread // whatever the function made of it
	}
	return nil, failed
}

func (p *process) sendWhole(c *chunk) error {
	err := p.begin(c, c.args)
	if err == nil {
		err = p.writer.request(requestObject, flagFirst|flagFlush, p.seq, &Sample{Fields: []Field{{Name: "data", Value: BytesValue(c.object.data)}}})
	}
	if err == nil {
		err = p.writer.flush()
	}
	return err
}

// sendPieces sends the object as it can be read and the worker takes it, until the function has answered.
func (p *process) sendPieces(c *chunk, stop *atomic.Bool) error {
	call := c.object
	err := p.begin(c, c.args)
	if err == nil {
		err = p.writer.control(requestStream, flagFirst|flagFlush, p.seq, nil)
	}
	if err == nil {
		err = p.writer.flush()
	}
	buf := make([]byte, maxPiece)
	for err == nil && !stop.Load() {
		call.consumed.Store(true)
		call.waits.Store(true)
		n, readErr := call.object.Body.Read(buf)
		call.waits.Store(false)
		if n > 0 {
			if err = p.writer.control(requestPiece, 0, p.seq, buf[:n]); err == nil {
				err = p.writer.flush()
			}
			call.fed.Add(int64(n))
		}
		switch {
		case errors.Is(readErr, io.EOF):
			stop.Store(true)
		case readErr != nil:
			call.unread.Store(&readErr)
			return errors.Join(err, p.lastPiece(flagLast|flagAbort))
		}
	}
	return errors.Join(err, p.lastPiece(flagLast))
}

func (p *process) lastPiece(flags uint8) error {
	if err := p.writer.control(requestPiece, flags, p.seq, nil); err != nil {
		return err
	}
	return p.writer.flush()
}

// receiveObject delivers what the worker answers. The error returned is one of the process.
func (p *process) receiveObject(c *chunk, w *watch) (failed, err error) {
	call := c.object
	given := func(sample, field int) (Value, bool) {
		return BytesValue(call.data), sample == 0 && field == 0 && call.read
	}
	p.frames.alloc = call.alloc
	defer func() { p.frames.alloc = allocate }()
	for {
		res, err := p.frames.next(0, given)
		if err == nil && res.seq != p.seq {
			err = frameError("answer %d where %d was due", res.seq, p.seq)
		}
		if err != nil {
			return nil, err
		}
		switch res.kind {
		case resultPiece:
			w.n = 0
			if call.out+int64(len(res.piece)) > p.mostOut {
				return nil, frameError("more than %d bytes of an object", p.mostOut)
			}
			call.piece(res.piece)
			w.since = time.Now() // how long the caller took is not the function's fault
			continue
		case resultDone:
			return nil, nil
		case resultError:
			c.refused(&res, p.etl)
			return &UserError{ETL: p.etl, Key: call.object.Name(), Summary: res.summary, Traceback: res.traceback}, nil
		case resultSample:
			if len(res.fields) != 1 || call.answered {
				return nil, frameError("%d fields for an object", len(res.fields))
			}
			if call.unread.Load() == nil {
				call.whole(res.fields[0].Value.Data)
			}
			return nil, nil
		}
		return nil, frameError("kind %d for an object", res.kind)
	}
}

// serveObject works on a chunk that is one object. It is tried again where a process died before the function had it,
// as long as the object can be read again.
func (s *slot) serveObject(c *chunk) error {
	call := c.object
	for attempt := 1; ; attempt++ {
		if err := s.ready(c); err != nil {
			return err
		}
		if !s.proc.stream {
			if err := call.readAll(s.pool.spawn.opts.MaxSample); err != nil {
				return err
			}
		}
		l, failed := s.proc.object(c, s.pool.def.Timeout, s.pool.ctx.Done())
		if l == nil {
			s.deaths = 0
			call.failed = failed != nil
			if c.fault != nil {
				return c.fault
			}
			return failed
		}
		s.retire()
		if l.err != nil {
			return l.err
		}
		c.deaths++
		s.mourn(l)
		if l.blame < 0 && attempt <= maxStalls && !call.answered && !call.consumed.Load() {
			continue
		}
		call.failed = true
		return &UserError{ETL: s.pool.def.Name, Key: call.object.Name(), Summary: l.summary, Traceback: l.tail}
	}
}
