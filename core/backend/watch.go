package backend

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"
)

// watch ends a context when nothing has happened for too long while it was armed.
type watch struct {
	limit  time.Duration
	timer  *time.Timer
	cancel context.CancelCauseFunc
}

func newWatch(ctx context.Context, limit time.Duration) (context.Context, *watch) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &watch{limit: limit, cancel: cancel}
	w.timer = time.AfterFunc(limit, func() { cancel(errStalled) })
	w.timer.Stop()
	return ctx, w
}

func (w *watch) arm()    { w.timer.Reset(w.limit) }
func (w *watch) disarm() { w.timer.Stop() }

func (w *watch) stop() {
	w.timer.Stop()
	w.cancel(nil)
}

// lentBody lends a body to one attempt, which is alive as long as it reads. A transport may read on after it has given
// up a request; the next attempt must have the body to itself.
type lentBody struct {
	mu     sync.Mutex
	source io.ReadSeeker // nil once it was taken back
	start  int64         // of the body within the source: its 0
	watch  *watch
}

// Await says that nothing of a body is read for so long, as whoever has received it may take that to answer: WithRetries
// would take the put for one that hangs.
func Await(body io.ReadSeeker, d time.Duration) {
	l, ok := body.(*lentBody)
	if !ok {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.source != nil {
		l.watch.timer.Reset(d)
	}
}

var errTakenBack = errors.New("the request that this body was for has ended")

func (l *lentBody) Read(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.source == nil {
		return 0, errTakenBack
	}
	l.watch.arm()
	return l.source.Read(p)
}

func (l *lentBody) Seek(offset int64, whence int) (int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.source == nil {
		return 0, errTakenBack
	}
	l.watch.arm()
	if whence == io.SeekStart {
		offset += l.start
	}
	at, err := l.source.Seek(offset, whence)
	return at - l.start, err
}

// takeBack returns when nobody reads the body any more, nor will.
func (l *lentBody) takeBack() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.source = nil
}
