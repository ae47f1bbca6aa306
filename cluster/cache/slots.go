package cache

import (
	"context"
	"slices"
	"sync"
)

// slots let a bounded number of fetches go on at a time, of the node and of each bucket. Those that somebody waits for
// go first, each kind in the order in which it came.
type slots struct {
	mu         sync.Mutex
	total      int
	background int
	buckets    map[string]int
	late       map[string]int // of background, by bucket
	waiting    []*ticket
}

// ticket is a fetch that waits for a slot, or has one.
type ticket struct {
	bucket string
	urgent bool
	ready  chan struct{} // closed once it has a slot
	has    bool
	late   bool // it has a slot as one that nobody waited for
}

// take waits for a slot. promote may make the ticket urgent meanwhile.
func (s *slots) take(ctx context.Context, t *ticket) error {
	s.mu.Lock()
	t.ready = make(chan struct{})
	s.waiting = append(s.waiting, t)
	s.grant()
	s.mu.Unlock()
	select {
	case <-t.ready:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !t.has {
		s.waiting = slices.DeleteFunc(s.waiting, func(o *ticket) bool { return o == t })
		return context.Cause(ctx)
	}
	return nil
}

// promote makes a ticket one that somebody waits for.
func (s *slots) promote(t *ticket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.urgent {
		return
	}
	t.urgent = true
	if t.has && t.late {
		s.hurry(t)
	}
	s.grant()
}

// hurry takes a fetch off the account of those that nobody waits for.
func (s *slots) hurry(t *ticket) {
	t.late = false
	s.background--
	if s.late[t.bucket]--; s.late[t.bucket] == 0 {
		delete(s.late, t.bucket)
	}
}

// give gives a slot back, where the ticket has one.
func (s *slots) give(t *ticket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !t.has {
		return
	}
	t.has = false
	s.total--
	if t.late {
		s.hurry(t)
	}
	if s.buckets[t.bucket]--; s.buckets[t.bucket] == 0 {
		delete(s.buckets, t.bucket)
	}
	s.grant()
}

// grant gives slots to those that wait, as far as there are any.
func (s *slots) grant() {
	if s.buckets == nil {
		s.buckets, s.late = map[string]int{}, map[string]int{}
	}
	for _, urgent := range []bool{true, false} {
		s.waiting = slices.DeleteFunc(s.waiting, func(t *ticket) bool {
			if t.urgent != urgent || s.total >= maxFetches || s.buckets[t.bucket] >= maxBucketFetches {
				return false
			}
			if !urgent && (s.background >= maxBackground || s.late[t.bucket] >= maxBucketLate) {
				return false
			}
			t.has, t.late = true, !urgent
			s.total++
			s.buckets[t.bucket]++
			if !urgent {
				s.background++
				s.late[t.bucket]++
			}
			close(t.ready)
			return true
		})
	}
}
