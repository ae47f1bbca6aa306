package serve

import (
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"
)

const (
	drained = 8 << 20  // bytes of a request that are read though the function did not want them
	gather  = 64 << 10 // bytes that are sent together, unless they have waited for
	lull    = 50 * time.Millisecond
)

// answer is what a function writes. It gathers what is small, and commits itself to nothing before that is much.
type answer struct {
	w           http.ResponseWriter
	contentType string

	mu      sync.Mutex // functions may read in one goroutine and write in another
	waiting []byte
	since   time.Time // when something was last sent, or first written
	begun   bool
}

func (a *answer) Write(b []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	if a.since.IsZero() {
		a.since = now
	}
	if len(a.waiting)+len(b) < gather && now.Sub(a.since) < lull {
		a.waiting = append(a.waiting, b...)
		return len(b), nil
	}
	a.since = now
	if err := a.send(); err != nil {
		return 0, err
	}
	n, err := a.w.Write(b)
	if err == nil {
		err = http.NewResponseController(a.w).Flush()
	}
	return n, err
}

// idle sends what waits, since the function waits too: for more of a request that may depend on the answer.
func (a *answer) idle() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.begun && len(a.waiting) > 0 && a.send() == nil {
		_ = http.NewResponseController(a.w).Flush() // the next write says what is wrong
	}
}

// send sends what waits.
func (a *answer) send() error {
	if !a.begun {
		a.begun = true
		a.w.Header().Set("Content-Type", a.contentType)
		a.w.WriteHeader(http.StatusOK)
	}
	if len(a.waiting) == 0 {
		return nil
	}
	_, err := a.w.Write(a.waiting)
	a.waiting = a.waiting[:0]
	return err
}

// end sends the rest.
func (a *answer) end() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.begun {
		a.w.Header().Set("Content-Length", strconv.Itoa(len(a.waiting)))
	}
	return a.send()
}

// fail answers with an error, or breaks off what has begun: it has no end mark then, so that nobody takes it for whole.
func (a *answer) fail(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.begun {
		panic(http.ErrAbortHandler)
	}
	status := http.StatusUnprocessableEntity
	var (
		own  *httpError
		args *argsError
	)
	switch {
	case errors.As(err, &own):
		status = own.status
	case errors.As(err, &args):
		status = http.StatusBadRequest
	}
	a.begun = true
	a.w.Header().Del("Content-Length")
	a.w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	a.w.WriteHeader(status)
	_, _ = io.WriteString(a.w, err.Error()) //nolint:gosec // plain text, which nobody renders
}

// source is what a function reads. It remembers that it broke off, since functions forget.
type source struct {
	r      io.Reader
	answer *answer
	err    error
}

func (s *source) Read(b []byte) (int, error) {
	s.answer.idle()
	n, err := s.r.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}
