package calls

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// Stall watches whether the other side makes progress: bytes that it takes or gives. Time in which this side is what is
// waited for, a disk or a slow client, does not count.
type Stall struct {
	limit time.Duration
	fire  func(error)

	mu      sync.Mutex
	timer   *time.Timer
	reading bool // an answer is waited for
	feeding bool // the source is being read
	stopped bool
}

// StallError says that nothing came for too long.
type StallError struct{ Limit time.Duration }

func (e *StallError) Error() string { return fmt.Sprintf("no progress within %s", e.Limit) }

// NewStall makes one that calls fire when nothing has moved for so long. It runs while Await is in progress.
func NewStall(limit time.Duration, fire func(error)) *Stall {
	s := &Stall{limit: limit, fire: fire}
	s.timer = time.AfterFunc(limit, s.expired)
	s.timer.Stop()
	return s
}

func (s *Stall) expired() {
	s.mu.Lock()
	due := s.reading && !s.feeding && !s.stopped
	s.stopped = s.stopped || due
	s.mu.Unlock()
	if due {
		s.fire(&StallError{s.limit})
	}
}

// set updates what is waited for and begins the time anew.
func (s *Stall) set(reading, feeding *bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if reading != nil {
		s.reading = *reading
	}
	if feeding != nil {
		s.feeding = *feeding
	}
	if s.reading && !s.feeding && !s.stopped {
		s.timer.Reset(s.limit)
	} else {
		s.timer.Stop()
	}
}

// Await says whether an answer is being waited for.
func (s *Stall) Await(on bool) { s.set(&on, nil) }

// Stop ends the watch.
func (s *Stall) Stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	s.timer.Stop()
}

// Source is a reader of what is sent; reading it is progress.
func (s *Stall) Source(r io.Reader) io.Reader { return &stallReader{s, r, true} }

// Answer is a reader of what is received.
func (s *Stall) Answer(r io.Reader) io.Reader { return &stallReader{s, r, false} }

type stallReader struct {
	stall  *Stall
	reader io.Reader
	source bool
}

func (r *stallReader) Read(p []byte) (int, error) {
	yes, no := true, false
	if r.source {
		r.stall.set(nil, &yes)
		defer r.stall.set(nil, &no)
	} else {
		r.stall.set(&yes, nil)
		defer r.stall.set(&no, nil)
	}
	return r.reader.Read(p)
}
