// Package stream is a target's side of a sample stream: it walks the plan over the positions of a
// view, finds the samples whose shards lie on this target, transforms them where an ETL is asked for,
// and sends them in order. It holds no state between streams: what to send follows from the request,
// the snapshot and the disks, so any reconnect starts where the loader says.
package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/shardstream/shardstream/cluster/ahead"
	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/decode"
	"github.com/shardstream/shardstream/core/store"
	"github.com/shardstream/shardstream/core/wire"
	"github.com/shardstream/shardstream/etl"
	"github.com/shardstream/shardstream/sampler"
)

// Objects is what a stream reads from: the node's store.
type Objects interface {
	// Open pins one version of an object; errors.Is(err, store.ErrNotFound) where it is not on this node, and
	// store.ErrStub where all but its bytes is.
	Open(bucket, name string) (*store.Object, error)
}

// ETLs looks up what runs a deployed transformation; an *api.Error where there is none.
type ETLs interface {
	Runtime(name string) (etl.Runtime, error)
}

// Meter counts one stream.
type Meter interface {
	Sent(samples, bytes int64)
	Failed(code string)
	Close()
}

// Server serves streams from one node's store. All fields are set before the first Open.
type Server struct {
	Node    string
	Objects Objects
	// Share is what the node has to send under the map that it goes by; nil: all that it has.
	Share func() *Share
	// Rebuild makes an object whole of which the node has but the description (store.ErrStub), and pins it. It is asked for
	// where the node is its primary, or nobody else sent what is missing; nil: there are no such objects.
	Rebuild func(ctx context.Context, bucket, name string, version uint64) (*store.Object, error)
	// Ahead is told what streams are going to need; nil: nothing is fetched before it is needed.
	Ahead *ahead.Manager
	// Damaged is told of what a stream can't read, so that it may be mended; it does not block. nil: nobody is.
	Damaged   func(*store.CorruptError)
	ETLs      ETLs
	Snapshots *Snapshots
	Meter     func() Meter
	Budget    *Budget // nil: streams take what they need
	Logger    *slog.Logger

	memories memories // of loaders on this machine
	ioOnce   sync.Once
	io       *nodeIO // made with the first stream
	orders   orderCache
	known    knowledgeCache
	pinners  pinners
	decoders decoders
}

// Reader is one stream, checked and ready to run.
type Reader struct {
	srv    *Server
	req    wire.ReadRequest
	view   sampler.View
	order  sampler.Plan
	etls   []*transformation // by the order's parts; nil: samples as they lie
	fields map[string]bool   // nil: all
	shards *shards
	places []int   // of Slots; nil: all
	tenant *tenant // while Run runs
	growth float64 // most bytes that came out of a transformation for one that went in
	decode *decode.Plan
	work   sync.WaitGroup // batches that are being decoded
	course *ahead.Course  // while Run runs; nil where nothing is read ahead
	// expansion is how many bytes came out of a decoded one, at most.
	expansion atomic.Int64
}

// Open checks a request against the snapshot and the node's ETLs, so that refusals are plain HTTP
// errors; they are *api.Error.
func (s *Server) Open(ctx context.Context, snapshot string, req wire.ReadRequest) (*Reader, error) {
	if err := req.Validate(); err != nil {
		return nil, api.Errorf(400, api.CodeBadRequest, "%v", err)
	}
	snap, err := s.Snapshots.Get(ctx, snapshot)
	if err != nil {
		return nil, err
	}
	order, err := s.orders.plan(snap, &req)
	if err != nil {
		return nil, api.Errorf(400, api.CodeBadRequest, "%v", err)
	}
	view := sampler.View{
		Samples: order.Samples(), Start: req.Start, BatchSize: req.BatchSize, World: req.World, Rank: req.Rank,
		Workers: req.Workers, Worker: req.Worker, DropLast: req.DropLast,
	}
	if err := view.Validate(); err != nil {
		return nil, api.Errorf(400, api.CodeBadRequest, "%v", err)
	}
	if req.To > view.Batches() {
		return nil, api.Errorf(400, api.CodeBadRequest, "batch %d of a view of %d batches", req.To, view.Batches())
	}
	r := &Reader{srv: s, req: req, view: view, order: order, places: req.Slots, growth: 1}
	r.shards = s.newShards(snap, req.Objects, req.Slots != nil)
	if r.etls, err = s.transformations(&req); err != nil {
		return nil, err
	}
	if r.decode, err = decode.Parse(req.Decode); err != nil {
		return nil, api.Errorf(400, api.CodeBadRequest, "%v", err)
	}
	if len(req.Fields) > 0 {
		r.fields = make(map[string]bool, len(req.Fields))
		for _, f := range req.Fields {
			r.fields[f] = true
		}
	}
	return r, nil
}

// nodeIO is what all streams of the node count together.
func (s *Server) nodeIO() *nodeIO {
	s.ioOnce.Do(func() { s.io = openNodeIO() })
	return s.io
}

func (r *Reader) wants(field string) bool { return r.fields == nil || r.fields[field] }

// failureOf maps an error on a sample to its code and message.
func failureOf(err error) (code, message string) {
	var (
		ae      *api.Error
		corrupt *store.CorruptError
		user    *etl.UserError
		fault   *decode.Error
	)
	switch {
	case errors.As(err, &ae):
		return ae.Code, ae.Message
	case errors.As(err, &corrupt):
		return api.CodeCorrupt, corrupt.Error()
	case errors.As(err, &user):
		return api.CodeETLFailed, user.Error()
	case errors.As(err, &fault):
		return api.CodeDecodeFailed, err.Error()
	default:
		return api.CodeInternal, err.Error()
	}
}

// seedOf derives the seed that a transformation of a sample gets: a function of the run's seed, the
// pass over the data (the epoch, outside of mixtures) and the sample alone, so that augmentation is the
// same after a resume and on any cluster, and another one where a sample comes again. The mixing is splitmix64's (Steele, Lea, Flood 2014).
func seedOf(seed, pass uint64, sample int64) uint64 {
	h := seed
	for _, v := range [...]uint64{pass, uint64(sample)} {
		h += v*0x9e3779b97f4a7c15 + 0x9e3779b97f4a7c15
		h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
		h = (h ^ h>>27) * 0x94d049bb133111eb
		h ^= h >> 31
	}
	return h | 1 // 0 means unseeded
}

func shardError(s sampler.Shard, err error) error {
	return fmt.Errorf("shard ss://%s: %w", s.Name, err)
}
