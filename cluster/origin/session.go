package origin

import (
	"context"
	"errors"
	"io"
	"iter"
	"sync"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/backend"
)

// renewEvery bounds how often a backend that refuses its credentials is opened anew.
const renewEvery = 10 * time.Second

var errClosed = errors.New("the node is stopping, or the bucket was changed; try again")

// session is a backend that is opened again when it refuses credentials which may have been renewed: those of a secret
// that was changed, or of a vendor's chain. Each call then has one more attempt.
type session struct {
	url  string
	open func(ctx context.Context, again bool) (backend.Backend, error)
	turn chan struct{} // held while it is opened

	mu      sync.Mutex
	current *opened // nil: to be opened
	renewed time.Time
	closed  bool
}

// opened is closed by the last who uses it once it was given up.
type opened struct {
	backend.Backend
	users   int
	given   bool // up
	session *session
}

func newSession(url string, open func(ctx context.Context, again bool) (backend.Backend, error)) *session {
	return &session{url: url, open: open, turn: make(chan struct{}, 1)}
}

// prepare opens the backend.
func (s *session) prepare(ctx context.Context) error {
	o, err := s.acquire(ctx)
	if err == nil {
		o.release()
	}
	return err
}

func (s *session) take() (*opened, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return nil, false, errClosed
	case s.current != nil:
		s.current.users++
		return s.current, false, nil
	}
	return nil, !s.renewed.IsZero(), nil
}

// acquire is the open backend, for its caller to release.
func (s *session) acquire(ctx context.Context) (*opened, error) {
	if o, _, err := s.take(); o != nil || err != nil {
		return o, err
	}
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	o, again, err := s.take()
	if o != nil || err != nil {
		return o, err
	}
	b, err := s.open(ctx, again)
	if err != nil {
		return nil, err
	}
	o = &opened{Backend: b, users: 1, session: s}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errors.Join(errClosed, b.Close())
	}
	s.current = o
	return o, nil
}

func (o *opened) release() {
	o.session.mu.Lock()
	o.users--
	last := o.given && o.users == 0
	o.session.mu.Unlock()
	if last {
		_ = o.Backend.Close() // nobody is left to be told
	}
}

// giveUp has the backend closed once nobody uses it; s.mu is held.
func (s *session) giveUp() (end func() error) {
	o := s.current
	s.current = nil
	if o == nil {
		return func() error { return nil }
	}
	o.given = true
	if o.users > 0 {
		return func() error { return nil }
	}
	return o.Backend.Close
}

// renew tells whether a call that was denied has another attempt.
func (s *session) renew(o *opened, err error) bool {
	if err == nil || backend.KindOf(err) != backend.Denied {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return false
	case s.current != o:
		return true
	case time.Since(s.renewed) < renewEvery:
		return false
	}
	s.renewed = time.Now()
	_ = s.giveUp() // its caller uses it still, and closes it
	return true
}

// with makes a call, and again where the credentials may have been renewed.
func (s *session) with(ctx context.Context, op, name string, call func(*opened) error) error {
	for second := false; ; second = true {
		o, err := s.acquire(ctx)
		if err != nil {
			return s.unopened(op, name, err)
		}
		err = call(o)
		again := !second && s.renew(o, err)
		o.release()
		if !again {
			return err
		}
	}
}

// unopened is the error of a call whose backend could not be opened.
func (s *session) unopened(op, name string, err error) error {
	var known *backend.Error
	if errors.As(err, &known) {
		return err
	}
	kind := backend.Passing // etcd, which has the secret, does not answer
	var answer *api.Error
	switch {
	case errors.As(err, &answer):
		kind = backend.Denied
	case errors.Is(err, errClosed):
		kind = backend.Failed
	}
	return &backend.Error{Backend: s.url, Op: op, Name: name, Kind: kind, Err: err}
}

func (s *session) Stat(ctx context.Context, name string) (e backend.Entry, err error) {
	err = s.with(ctx, "stat", name, func(b *opened) (err error) {
		e, err = b.Stat(ctx, name)
		return err
	})
	return e, err
}

func (s *session) Delete(ctx context.Context, name string) error {
	return s.with(ctx, "delete", name, func(b *opened) error { return b.Delete(ctx, name) })
}

func (s *session) Put(ctx context.Context, name string, body io.ReadSeeker, size int64, o backend.PutOptions) (e backend.Entry, err error) {
	start, err := body.Seek(0, io.SeekCurrent)
	if err != nil {
		return e, err
	}
	err = s.with(ctx, "put", name, func(b *opened) (err error) {
		if _, err = body.Seek(start, io.SeekStart); err == nil {
			e, err = b.Put(ctx, name, body, size, o)
		}
		return err
	})
	return e, err
}

// Open keeps the backend open as long as the body is.
func (s *session) Open(ctx context.Context, name string, o backend.OpenOptions) (body *backend.Body, err error) {
	err = s.with(ctx, "open", name, func(b *opened) (err error) {
		body, err = b.Open(ctx, name, o)
		if err != nil {
			return err
		}
		b.hold()
		body.ReadCloser = &heldBody{ReadCloser: body.ReadCloser, release: b.release}
		return nil
	})
	return body, err
}

// hold adds a user to a backend that is in use.
func (o *opened) hold() {
	o.session.mu.Lock()
	defer o.session.mu.Unlock()
	o.users++
}

type heldBody struct {
	io.ReadCloser
	once    sync.Once
	release func()
}

func (h *heldBody) Close() error {
	err := h.ReadCloser.Close()
	h.once.Do(h.release)
	return err
}

func (s *session) List(ctx context.Context, prefix, after string) iter.Seq2[backend.Entry, error] {
	return func(yield func(backend.Entry, error) bool) {
		err := s.with(ctx, "list", "", func(b *opened) error {
			for e, err := range b.List(ctx, prefix, after) {
				if err != nil {
					return err
				}
				after = e.Name
				if !yield(e, nil) {
					return nil
				}
			}
			return nil
		})
		if err != nil {
			yield(backend.Entry{}, err)
		}
	}
}

// busy says that somebody uses the backend, such as a body that is read for hours.
func (s *session) busy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current != nil && s.current.users > 0
}

// Close gives the backend up; who uses it still may go on.
func (s *session) Close() error {
	s.mu.Lock()
	s.closed = true
	closing := s.giveUp()
	s.mu.Unlock()
	return closing()
}
