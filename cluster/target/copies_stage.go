package target

import (
	"net/http"
	"sync"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/store"
)

const (
	// stageLife is how long a body waits for its commit: its primary commits at once when all others have staged it.
	stageLife = 60 * time.Second
	// maxStages bounds the bodies that wait.
	maxStages = 4096
)

// stages are the bodies of copies that wait for their commit. Those that nobody asks for are discarded after a while.
type stages struct {
	mu      sync.Mutex
	waiting map[string]*waitingStage
	closed  bool
}

type waitingStage struct {
	staged *store.Staged
	expiry *time.Timer
}

// add keeps a body under an id. Under the same id an earlier one is discarded.
func (s *stages) add(id string, staged *store.Staged) error {
	s.mu.Lock()
	if s.waiting == nil {
		s.waiting = map[string]*waitingStage{}
	}
	earlier := s.waiting[id]
	if s.closed || len(s.waiting) >= maxStages && earlier == nil {
		s.mu.Unlock()
		_ = staged.Discard() // it was refused: that is told
		return api.Errorf(http.StatusTooManyRequests, api.CodeBusy, "%d bodies of copies wait for their commit already", maxStages)
	}
	s.waiting[id] = &waitingStage{staged: staged, expiry: time.AfterFunc(stageLife, func() { s.discard(id) })}
	s.mu.Unlock()
	if earlier != nil {
		earlier.expiry.Stop()
		return earlier.staged.Discard()
	}
	return nil
}

// take removes a body for its commit; nil where there is none.
func (s *stages) take(id string) *store.Staged {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.waiting[id]
	if w == nil {
		return nil
	}
	w.expiry.Stop()
	delete(s.waiting, id)
	return w.staged
}

func (s *stages) discard(id string) {
	if staged := s.take(id); staged != nil {
		_ = staged.Discard() // what can't be removed is swept when the store opens
	}
}

// close discards all bodies; none are taken any more.
func (s *stages) close() {
	s.mu.Lock()
	s.closed = true
	ids := make([]string, 0, len(s.waiting))
	for id := range s.waiting {
		ids = append(ids, id)
	}
	s.mu.Unlock()
	for _, id := range ids {
		s.discard(id)
	}
}
