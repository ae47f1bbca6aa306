package target

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/jobs"
	"github.com/shardstream/shardstream/cluster/telemetry"
)

const (
	maxPartRequest = 1 << 20
	// partIdle is how long a part of a job goes on without being asked about: its gateway is gone then, and the next
	// one finds out by the outputs' marks what was done meanwhile.
	partIdle  = 15 * time.Second
	stopParts = 5 * time.Second // for what a part has in hand
	// jobMemory bounds what jobs hold of objects at a time, all together.
	jobMemory = 512 << 20
)

// Jobs works on this target's parts of the cluster's jobs, for the gateways that coordinate them.
type Jobs struct {
	target *Target
	etls   *ETLs
	meter  *telemetry.Jobs
	peers  *http.Client // for outputs, which take longer than short requests
	memory *semaphore.Weighted
	dir    string // for outputs in the making

	mu      sync.Mutex
	parts   map[string]*part // by job
	stopped bool
	running sync.WaitGroup
}

// NewJobs adds the routes that gateways use; large outputs lie in dir while they are made. Call it before Serve, and
// Wait after it, while the store is still open.
func NewJobs(t *Target, etls *ETLs, dir string) (*Jobs, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	meter, err := telemetry.NewJobs(t.metrics)
	if err != nil {
		return nil, err
	}
	j := &Jobs{
		target: t, etls: etls, meter: meter, memory: semaphore.NewWeighted(jobMemory), dir: dir, parts: map[string]*part{},
		peers: &http.Client{
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Transport: &http.Transport{
				DialContext:         (&net.Dialer{Timeout: 2 * time.Second}).DialContext,
				MaxIdleConnsPerHost: 32, IdleConnTimeout: 30 * time.Second, DisableCompression: true,
				WriteBufferSize: 256 << 10,
			},
		},
	}
	t.Handle(http.MethodPost, "/v1/internal/jobs/{id}/part", j.postPart)
	t.Handle(http.MethodPost, "/v1/internal/jobs/{id}/stop", j.postStop)
	return j, nil
}

// Wait returns when all parts have ended, which they do with the target's context.
func (j *Jobs) Wait() {
	j.mu.Lock()
	j.stopped = true
	j.mu.Unlock()
	j.running.Wait()
	j.peers.CloseIdleConnections()
}

// postPart starts the target's part of a job where it is not at work on it, and says how far it is.
func (j *Jobs) postPart(r *Request) error {
	var request jobs.PartRequest
	if err := r.JSON(maxPartRequest, &request); err != nil {
		return err
	}
	p, err := j.part(r.Param("id"), &request)
	if err != nil {
		return err
	}
	return r.WriteJSON(http.StatusOK, p.report(&request))
}

func (j *Jobs) part(id string, request *jobs.PartRequest) (*part, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.stopped || j.target.Context().Err() != nil {
		return nil, unavailable("target %s is stopping", j.target.id)
	}
	if p := j.parts[id]; p != nil {
		if p.ring != request.Ring {
			p.cancel(errPartStopped)
		}
		if p.ctx.Err() != nil {
			return nil, unavailable("target %s is bringing its part of job %s to an end; try again", j.target.id, id)
		}
		return p, nil
	}
	p, err := newPart(j, id, request)
	if err != nil {
		return nil, err
	}
	j.parts[id] = p
	j.running.Go(func() {
		defer j.meter.Begin()()
		p.run()
		j.mu.Lock()
		defer j.mu.Unlock()
		delete(j.parts, id)
	})
	return p, nil
}

// postStop ends the target's part of a job, and answers once nothing is under way any more.
func (j *Jobs) postStop(r *Request) error {
	j.mu.Lock()
	p := j.parts[r.Param("id")]
	j.mu.Unlock()
	if p != nil {
		p.cancel(errPartStopped)
		ctx, cancel := context.WithTimeout(r.Context(), stopParts)
		defer cancel()
		select {
		case <-p.ended:
		case <-ctx.Done():
			return api.Errorf(http.StatusServiceUnavailable, api.CodeBusy, "job %s still has an object in hand on %s", p.id, j.target.id)
		}
	}
	r.SetStatusCode(http.StatusNoContent)
	return nil
}

func newRun() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails: see crypto/rand
	return hex.EncodeToString(b[:])
}
