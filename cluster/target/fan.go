package target

import (
	"context"
	"errors"
	"io"
	"sync"
)

// A body on its way to other targets is handed on in pieces; a target that is slower than the rest has so many of them
// before it, and then all wait for it.
const (
	fanPiece  = 256 << 10
	fanPieces = 4
)

var fanPool = sync.Pool{New: func() any { b := make([]byte, fanPiece); return &b }}

// fan reads a body once, and hands it to several readers as it does.
type fan struct {
	ctx    context.Context //nolint:containedctx // of one body
	cancel context.CancelCauseFunc
	body   io.Reader
	legs   []*leg
}

// leg is one of those readers.
type leg struct {
	pieces chan *[]byte
	rest   []byte
	piece  *[]byte
	ctx    context.Context //nolint:containedctx // of the fan
	done   chan struct{}
	err    error // once done is closed
}

func newFan(ctx context.Context, body io.Reader) *fan {
	f := &fan{body: body}
	f.ctx, f.cancel = context.WithCancelCause(ctx)
	return f
}

// add starts one more reader. If it fails, so does the whole.
func (f *fan) add(read func(context.Context, io.Reader) error) {
	l := &leg{pieces: make(chan *[]byte, fanPieces), ctx: f.ctx, done: make(chan struct{})}
	f.legs = append(f.legs, l)
	go func() { // ends with end
		defer close(l.done)
		if l.err = read(f.ctx, l); l.err != nil {
			f.cancel(l.err)
		}
	}()
}

// Read reads the body and hands on what it read.
func (f *fan) Read(p []byte) (int, error) {
	n, err := f.body.Read(p[:min(len(p), fanPiece)])
	for _, l := range f.legs {
		if n == 0 {
			break
		}
		piece := fanPool.Get().(*[]byte) //nolint:forcetypeassert // the pool's own
		*piece = append((*piece)[:0], p[:n]...)
		select {
		case l.pieces <- piece:
		case <-l.done:
			fanPool.Put(piece)
			return 0, f.failure(l.err)
		case <-f.ctx.Done():
			fanPool.Put(piece)
			return 0, f.failure(nil)
		}
	}
	return n, err
}

func (f *fan) failure(err error) error {
	if cause := context.Cause(f.ctx); cause != nil {
		return cause
	}
	if err == nil {
		err = errors.New("it stopped reading before the end")
	}
	return err
}

// end waits for all readers. err is how reading the body ended: they see its end only if it is nil.
func (f *fan) end(err error) error {
	if err != nil {
		f.cancel(err)
	}
	for _, l := range f.legs {
		close(l.pieces)
	}
	for _, l := range f.legs {
		<-l.done
	}
	defer f.cancel(nil)
	if cause := context.Cause(f.ctx); cause != nil {
		return cause
	}
	return nil
}

// Read gives what the fan has read. It ends cleanly only where the body has.
func (l *leg) Read(p []byte) (int, error) {
	if len(l.rest) == 0 {
		if l.piece != nil {
			fanPool.Put(l.piece)
			l.piece = nil
		}
		select {
		case piece, more := <-l.pieces:
			if !more {
				if err := context.Cause(l.ctx); err != nil {
					return 0, err
				}
				return 0, io.EOF
			}
			l.piece, l.rest = piece, *piece
		case <-l.ctx.Done():
			return 0, context.Cause(l.ctx)
		}
	}
	n := copy(p, l.rest)
	l.rest = l.rest[n:]
	return n, nil
}
