package stream

import (
	"context"
	"errors"
	"net"
	"runtime/debug"

	"golang.org/x/sync/errgroup"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/wire"
)

// pipeline is how many batches are in work at once: planned and transformed ahead of the one being sent.
const pipeline = 3

// Close frees what the reader holds; Run does so itself.
func (r *Reader) Close() { r.shards.close() }

// Run sends the stream on an upgraded connection and returns when all is sent, the client is gone or
// the context ends. It does not close the connection.
func (r *Reader) Run(ctx context.Context, nc net.Conn) error {
	defer r.Close()
	meter := r.srv.Meter()
	defer meter.Close()
	out, err := newSender(nc)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Ends a write that waits for a slow client.
	defer context.AfterFunc(ctx, out.interrupt)()

	free, ready := make(chan *job, pipeline), make(chan *job, pipeline)
	for range pipeline {
		free <- &job{}
	}
	group, gctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer close(ready)
		return r.plan(gctx, free, ready)
	})
	group.Go(func() error {
		debug.SetPanicOnFault(true)
		return r.send(gctx, out, meter, free, ready)
	})
	err = group.Wait()
	if err != nil && ctx.Err() == nil && !errors.Is(err, errClient) && !errors.Is(err, errCut) {
		err = errors.Join(err, r.abort(out, meter, err))
	}
	return err
}

// plan prepares the batches in order.
func (r *Reader) plan(ctx context.Context, free <-chan *job, ready chan<- *job) error {
	for index := r.req.From; index < r.req.To; index++ {
		select {
		case j := <-free:
			if err := r.fill(ctx, j, index); err != nil {
				r.release(j)
				return err
			}
			ready <- j // has room for every job
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// send writes prepared batches with their chunk marks, and the end mark.
func (r *Reader) send(ctx context.Context, out *sender, meter Meter, free chan<- *job, ready <-chan *job) error {
	var sinceMark, total int64
	for index := r.req.From; index < r.req.To; index++ {
		j, err := next(ctx, out, ready)
		if err != nil || j == nil {
			return err
		}
		n := int64(len(j.frame.Samples))
		if n > 0 {
			if err = out.batch(j); err == nil {
				meter.Sent(n, j.frame.Payload())
				j.countFailures(meter)
			}
		}
		r.release(j)
		free <- j
		if err != nil {
			return err
		}
		sinceMark, total = sinceMark+n, total+n
		if done := index + 1; (done-r.req.From)%int64(r.req.Chunk) == 0 || done == r.req.To {
			if err := out.mark(wire.FrameChunk, wire.Chunk{Next: done, Samples: sinceMark}); err != nil {
				return err
			}
			sinceMark = 0
		}
	}
	if err := out.mark(wire.FrameEnd, wire.Chunk{Next: r.req.To, Samples: total}); err != nil {
		return err
	}
	return out.flush()
}

// next takes a prepared batch; where none is ready yet, what is buffered goes out first, so that the
// client never waits for bytes that are here. It returns nil where plan has failed, whose error counts.
func next(ctx context.Context, out *sender, ready <-chan *job) (*job, error) {
	select {
	case j := <-ready:
		return j, nil
	default:
	}
	if err := out.flush(); err != nil {
		return nil, err
	}
	select {
	case j := <-ready:
		return j, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (j *job) countFailures(meter Meter) {
	for i := range j.frame.Samples {
		if s := &j.frame.Samples[i]; s.Failed {
			meter.Failed(string(s.Code))
		}
	}
}

// abort tells the client why the stream ends early.
func (r *Reader) abort(out *sender, meter Meter, cause error) error {
	code, message := failureOf(cause)
	if errors.Is(cause, context.Canceled) {
		code = api.CodeUnavailable
	}
	meter.Failed(code)
	if err := out.failure(wire.Failure{Code: code, Message: message}); err != nil {
		return err
	}
	return out.flush()
}
