package target

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/shardstream/shardstream/cluster/ahead"
	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/stream"
	"github.com/shardstream/shardstream/core/store"
	"github.com/shardstream/shardstream/core/wire"
)

const (
	maxReadRequest = 16 << 20 // of JSON: a repair may list every slot of a batch, a query of keys a shard for each
	maxStreams     = 1 << 14  // at once: each takes memory for batches under way; see docs/scale.md
	handshakeTime  = 30 * time.Second
)

// Streams serves sample streams on a target's listener.
type Streams struct {
	target *Target
	server *stream.Server
	ahead  *ahead.Manager

	mu      sync.Mutex
	stopped bool
	active  int
	running sync.WaitGroup
	mending map[string]bool // objects whose copies are being mended
}

// NewStreams adds the routes of streams and snapshots; snapshots are kept under dir, and streams take
// at most the given memory. Call it before Serve, and Wait after it, while the store is still open.
func NewStreams(t *Target, etls stream.ETLs, dir string, memory int64) (*Streams, error) {
	s := &Streams{target: t, mending: map[string]bool{}}
	snapshots, err := stream.NewSnapshots(dir, s.fetchSnapshot)
	if err != nil {
		return nil, err
	}
	snapshots.FetchPages = s.fetchPages
	part := &shares{target: t}
	s.ahead = t.readAhead(part.now)
	t.cache.SetFuture(s.ahead)
	s.server = &stream.Server{
		Node: t.id, Objects: held{t}, Share: part.now, Rebuild: t.openVersion, Ahead: s.ahead, Damaged: s.mend, ETLs: etls, Snapshots: snapshots,
		Meter: func() stream.Meter { return t.metrics.OpenStream() }, Budget: stream.NewBudget(memory), Logger: t.log,
	}
	if err := errors.Join(t.metrics.WatchStreams(s.server.Budget), s.ahead.Register(t.metrics.Register)); err != nil {
		return nil, err
	}
	t.Handle(http.MethodPost, "/v1/streams/{id}/read", s.read)
	s.handleSnapshots()
	t.Handle(http.MethodPost, "/v1/internal/keys", s.postKeys)
	t.Handle(http.MethodPost, "/v1/internal/buckets/{bucket}/describe", s.describe)
	return s, nil
}

// Run fetches what streams need from backends ahead of use, until the context ends.
func (s *Streams) Run(ctx context.Context) error {
	s.ahead.Run(ctx)
	return nil
}

// Wait returns when the streams have ended, which they do with the target's context.
func (s *Streams) Wait() {
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
	s.running.Wait()
}

// begin counts a stream, unless the target is stopping.
func (s *Streams) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.stopped {
		s.active++
		s.running.Add(1)
	}
	return !s.stopped
}

func (s *Streams) end() {
	s.mu.Lock()
	s.active--
	s.mu.Unlock()
	s.running.Done()
}

// full says that the target serves as many streams as it can.
func (s *Streams) full() (active int, full bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.active, s.active >= maxStreams || s.server.Budget.Full()
}

// read checks the request while it is still plain HTTP and then takes the connection over.
func (s *Streams) read(r *Request) error {
	if r.Header("Upgrade") != api.StreamProtocol {
		return api.Errorf(http.StatusUpgradeRequired, api.CodeBadRequest, "a stream is read over a connection upgraded to %s", api.StreamProtocol)
	}
	if n, full := s.full(); full {
		return api.Errorf(http.StatusTooManyRequests, api.CodeBusy, "this target serves %d streams already, as many as it has memory for (--stream-memory) or %d; end some, or try again later", n, maxStreams)
	}
	var req wire.ReadRequest
	if err := r.JSON(maxReadRequest, &req); err != nil {
		return err
	}
	ctx := r.Context()
	open, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	reader, err := s.server.Open(open, r.Param("id"), req)
	if err != nil {
		return err
	}
	r.SetStatusCode(http.StatusSwitchingProtocols)
	r.Response.Header.Set("Connection", "Upgrade")
	r.Response.Header.Set("Upgrade", api.StreamProtocol)
	client := r.RemoteAddr().String()
	r.Hijack(func(nc net.Conn) {
		if !s.begin() {
			return
		}
		defer s.end()
		if err := reader.Run(ctx, nc); err != nil {
			s.target.log.InfoContext(ctx, "stream ended early", "client", client, "reason", err)
		}
	})
	return nil
}

// maxMending bounds the copies that are mended at a time for streams.
const maxMending = 2

// mend has a copy mended that a stream found damaged, beside the stream: its loader asks the others meanwhile.
func (s *Streams) mend(damage *store.CorruptError) {
	t := s.target
	t.metrics.CorruptRead(damage.Disk)
	bucket, key := damage.Bucket, damage.Name
	if b, ok := t.members.View().Bucket(bucket); !ok || b.Copies() == 1 && b.Backend == nil {
		return // there is nothing to mend it by
	}
	about := keyOf(bucket, key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped || s.mending[about] || len(s.mending) >= maxMending {
		return // the next read that meets the damage comes back
	}
	s.mending[about] = true
	s.running.Go(func() {
		own, err := t.own(bucket, key)
		if err == nil {
			err = t.Mend(t.Context(), bucket, key, own.Version)
		}
		if err != nil {
			t.log.WarnContext(t.Context(), "a damaged copy could not be mended", "object", api.Address(bucket, key), "error", err)
		}
		s.mu.Lock()
		delete(s.mending, about)
		s.mu.Unlock()
	})
}

// held is what lies here of objects, for streams.
type held struct{ t *Target }

func (h held) Open(bucket, key string) (*store.Object, error) {
	object, err := h.t.store.Open(bucket, key)
	if err != nil {
		return nil, err
	}
	if info := object.Info(); info.Data > 0 {
		h.t.slices.Touch(bucket, key)
	} else {
		h.t.cache.Touch(&info)
	}
	return object, err
}

// postKeys says which samples a gateway means by their numbers.
func (s *Streams) postKeys(r *Request) error {
	var q api.KeyQuery
	if err := r.JSON(maxReadRequest, &q); err != nil {
		return err
	}
	answer, err := s.server.Keys(r.Context(), &q)
	if err != nil {
		return err
	}
	return r.WriteJSON(http.StatusOK, answer)
}
