package stream

import (
	"context"
	"errors"
	"net"
	"runtime"
	"runtime/debug"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/wire"
)

// pipeline is how many batches are in work at once: planned and transformed ahead of those being sent.
const pipeline = 4

// maxAhead is how many items a placed batch may have for the next head to be sent before it is filled: a
// socket takes the answers to two such heads, 32 KiB each, whether they are read or not.
const maxAhead = 4096

// Close frees what the reader holds; Run does so itself.
func (r *Reader) Close() { r.shards.close() }

// Run sends the stream on an upgraded connection and returns when all is sent, the client is gone or
// the context ends. It does not close the connection.
func (r *Reader) Run(ctx context.Context, nc net.Conn) error {
	defer r.Close()
	meter := r.srv.Meter()
	defer meter.Close()
	out, err := newSender(nc, r.req.Compress)
	if err != nil {
		return err
	}
	if uc, ok := out.conn.(*net.UnixConn); ok && r.req.Share {
		out.shared = newSharing(uc, &r.srv.memories)
		defer out.shared.close()
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if r.tenant, err = r.srv.Budget.admit(func() { cancel(errStalled) }); err != nil {
		return errors.Join(err, r.abort(out, meter, err))
	}
	defer r.tenant.leave()
	out.tenant = r.tenant
	// Ends a write that waits for a slow client.
	defer context.AfterFunc(ctx, out.interrupt)()

	r.follow()
	defer r.course.Close()
	defer r.work.Wait() // what is being decoded reads from shards
	depth := r.depth()
	free, ready := make(chan *job, depth), make(chan *job, depth)
	for range depth {
		free <- &job{damaged: r.srv.Damaged}
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
	if cause := context.Cause(ctx); errors.Is(cause, errStalled) {
		return cause
	}
	if err != nil && ctx.Err() == nil && !errors.Is(err, errClient) && !errors.Is(err, errCut) {
		err = errors.Join(err, r.abort(out, meter, err))
	}
	return err
}

// depth is how many batches are in work at once. Small batches that are decoded need more than others to
// keep all processors busy.
func (r *Reader) depth() int {
	if r.decode == nil {
		return pipeline
	}
	return max(pipeline, min(maxDepth, 2+2*runtime.GOMAXPROCS(0)/r.req.BatchSize))
}

// plan prepares the batches in order.
func (r *Reader) plan(ctx context.Context, free <-chan *job, ready chan<- *job) error {
	for index := r.req.From; index < r.req.To; index++ {
		select {
		case j := <-free:
			r.course.At(r.view.Batch(index).Start)
			err := r.fill(ctx, j, index)
			if err == nil && j.decoding == nil {
				err = r.keep(j)
			}
			if err != nil {
				r.release(j)
				return err
			}
			ready <- j // has room for every job
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if r.req.To > r.req.From {
		r.course.At(r.view.Batch(r.req.To - 1).Next)
	}
	return nil
}

// delivery is the sending half of a stream.
type delivery struct {
	r     *Reader
	out   *sender
	meter Meter
	free  chan<- *job
	ready <-chan *job

	// placed is the batch whose head is sent and whose items wait for their places: the next head goes out
	// before it is filled, so that the loader places one batch while another is being written.
	placed           *job
	sinceMark, total int64

	costs *ledger
	at    clock // of what the costs are made of
}

// send writes prepared batches with their chunk marks, and the end mark.
func (r *Reader) send(ctx context.Context, out *sender, meter Meter, free chan<- *job, ready <-chan *job) error {
	d := &delivery{r: r, out: out, meter: meter, free: free, ready: ready, costs: newLedger(r.srv.nodeIO()), at: startClock()}
	err := d.run(ctx)
	if d.placed != nil {
		r.release(d.placed)
	}
	return err
}

func (d *delivery) run(ctx context.Context) error {
	req := &d.r.req
	for index := req.From; index < req.To; index++ {
		j, err := d.next(ctx, index)
		if err != nil || j == nil {
			return err
		}
		if err := d.decoded(ctx, j); err != nil {
			return err
		}
		d.costs.work.Add(j.work)
		if err := d.batch(j); err != nil {
			return err
		}
		d.at.lap(&d.costs.work.Send)
		if done := index + 1; (done-req.From)%int64(req.Chunk) == 0 || done == req.To || d.costs.due() {
			if err := d.mark(done); err != nil {
				return err
			}
		}
	}
	if err := d.out.mark(wire.FrameEnd, wire.Chunk{Next: req.To, Samples: d.total}); err != nil {
		return err
	}
	return d.out.flush()
}

// batch sends one batch, or its head where its items are to be placed, and settles the one before.
func (d *delivery) batch(j *job) error {
	n := int64(len(j.frame.Samples))
	d.sinceMark, d.total = d.sinceMark+n, d.total+n
	if n == 0 {
		d.done(j)
		return nil
	}
	payload := j.frame.Payload()
	placed := d.out.places(payload)
	var err error
	// The loader takes a payload off the connection only once all is filled. And it reads no head while it
	// writes where many items go, of which the connection holds a part only: nobody would read then.
	if !placed || d.placed != nil && len(d.placed.segs) > maxAhead {
		err = d.settle()
	}
	if err == nil {
		err = d.out.batch(j, payload)
	}
	if err == nil {
		d.meter.Sent(n, payload)
		d.costs.node.sent.Add(payload)
		j.countFailures(d.meter)
		err = d.settle()
	}
	if err == nil && placed {
		d.placed = j
		return nil
	}
	d.done(j)
	return err
}

func (d *delivery) done(j *job) {
	d.r.release(j)
	d.free <- j
}

// settle fills the batch whose head was sent before.
func (d *delivery) settle() error {
	j := d.placed
	if j == nil {
		return nil
	}
	d.placed = nil
	err := d.out.fill(j)
	d.done(j)
	return err
}

// mark closes a chunk. What it counts as answered must be in its place.
func (d *delivery) mark(next int64) error {
	if err := d.settle(); err != nil {
		return err
	}
	d.at.lap(&d.costs.work.Send)
	d.costs.work.Full += d.out.takeFull()
	err := d.out.mark(wire.FrameChunk, wire.Chunk{Next: next, Samples: d.sinceMark, Work: d.costs.settle()})
	d.sinceMark = 0
	return err
}

// next takes a prepared batch; where none is ready yet, what is under way is finished first, so that the
// client never waits for bytes that are here. It returns nil where plan has failed, whose error counts. While a shard comes
// from its backend, which may take longer than a client waits for a target that says nothing, marks say that the stream lives.
func (d *delivery) next(ctx context.Context, index int64) (*job, error) {
	select {
	case j := <-d.ready:
		return j, nil
	default:
	}
	if err := errors.Join(d.settle(), d.out.flush()); err != nil {
		return nil, err
	}
	d.at.lap(&d.costs.work.Send)
	alive := time.NewTicker(markEvery)
	defer alive.Stop()
	for {
		select {
		case j := <-d.ready:
			d.at.lap(&d.costs.work.Idle)
			return j, nil
		case <-alive.C:
			if d.r.shards.waiting.Load() == 0 {
				continue
			}
			d.at.lap(&d.costs.work.Idle)
			if err := errors.Join(d.mark(index), d.out.flush()); err != nil {
				return nil, err
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// decoded waits until what a batch has to decode is, for which others are finished first, as in next.
func (d *delivery) decoded(ctx context.Context, j *job) error {
	if j.decoding == nil {
		return nil
	}
	if len(j.decoding) == 0 {
		if err := errors.Join(d.settle(), d.out.flush()); err != nil {
			return err
		}
	}
	select {
	case err := <-j.decoding:
		j.decoding = nil
		return err
	case <-ctx.Done():
		return ctx.Err()
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
