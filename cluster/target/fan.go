package target

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"
)

// A body on its way to other targets is handed on in pieces; a target that is slower than the rest has so many of them
// before it, and then all wait for it.
const (
	fanPiece  = 256 << 10
	fanPieces = 4
	// fanPause is how long one target may take nothing, and fanEnd how long it may take over the rest once all has been
	// handed on. A target that the network hides from this one only is not known to be down.
	fanPause = 30 * time.Second
	fanEnd   = 90 * time.Second
)

var fanPool = sync.Pool{New: func() any { b := make([]byte, fanPiece); return &b }}

// fan reads a body once, and hands it to several readers as it does.
type fan struct {
	ctx    context.Context //nolint:containedctx // of one body
	cancel context.CancelCauseFunc
	body   io.Reader
	legs   []*leg
	pause  time.Duration
	last   time.Duration // for the rest
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
	f := &fan{body: body, pause: fanPause, last: fanEnd}
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
		if err := f.hand(l, piece); err != nil {
			fanPool.Put(piece)
			return 0, err
		}
	}
	return n, err
}

// hand gives a piece to a reader.
func (f *fan) hand(l *leg, piece *[]byte) error {
	if f.ctx.Err() != nil {
		return f.failure(nil)
	}
	select {
	case l.pieces <- piece:
		return nil
	default:
	}
	late := time.NewTimer(f.pause)
	defer late.Stop()
	select {
	case l.pieces <- piece:
		return nil
	case <-l.done:
		return f.failure(l.err)
	case <-f.ctx.Done():
	case <-late.C:
		f.cancel(f.late(f.pause))
	}
	return f.failure(nil)
}

func (f *fan) late(after time.Duration) error {
	return unavailable("a target that is to have a copy took nothing for %v", after)
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
	late := time.AfterFunc(f.last, func() { f.cancel(f.late(f.last)) })
	defer late.Stop()
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
