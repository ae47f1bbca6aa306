package loader

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/wire"
)

const (
	// maxGarbled is how often malformed frames at one place are put down to the wire.
	maxGarbled = 4
	// excuseAfter is how often in a row a target may fail before the others are asked for what it should have sent.
	excuseAfter = 2
)

// puller reads one target's stream. Its buffers are its own; only placing and committing a frame take
// the batch's lock.
type puller struct {
	it       *iteration
	node     string
	snapshot string
	peer     atomic.Pointer[api.Node] // a restarted node may listen elsewhere
	progress atomic.Int64             // all batches below are answered
	away     away

	notShared int // streams over shared memory that broke; too many, and TCP is used

	head  []byte
	takes [2]taking
	// In shared memory: the frame that the target is filling or about to, and the one behind it.
	pending, queued *taking
}

func newPuller(it *iteration, n api.Node, snapshot string) *puller {
	p := &puller{it: it, node: n.ID, snapshot: snapshot}
	p.takes[0].frame.Most, p.takes[1].frame.Most = it.l.cfg.BatchSize, it.l.cfg.BatchSize
	p.peer.Store(&n)
	return p
}

// run streams all batches of the view, reconnecting at the first one that was not answered whole. A target that
// can't be reached is tried again until all batches are there: others may have what it has (see away.go), and
// where they don't, repairs say that it is missing.
func (p *puller) run(ctx context.Context) error {
	retry := newBackoff(p.it.l.cfg.Timeout)
	stuck := 0
	for {
		from := p.it.resume(p)
		// A stream that twice broke at one place may break on a bad disk: verified, it names the sample.
		err := p.stream(ctx, wire.ReadRequest{From: from, To: p.it.batches, Verify: stuck >= 2})
		if err == nil {
			p.advance(ctx, p.it.batches)
			return p.it.settle(ctx)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if p.it.isWhole() {
			return nil
		}
		if err := p.it.mend(ctx, err); err != nil {
			return err
		}
		if p.progress.Load() > from {
			retry.reset()
			stuck = 0
		}
		if stuck++; stuck > maxGarbled && errors.Is(err, wire.ErrMalformed) {
			return api.Errorf(502, api.CodeInternal, "%s (%s) sends what is no stream (another version, or another server?): %v", p.node, p.peer.Load().Addr, err)
		}
		p.it.count(func(c *counters) {
			c.retries++
			c.target(p.node, func(t *TargetStats) { t.Reconnects++ })
		})
		p.it.l.cfg.Logger.Info("stream interrupted", "target", p.node, "batch", p.progress.Load(), "reason", err)
		if stuck >= excuseAfter || errors.Is(err, os.ErrDeadlineExceeded) {
			p.it.excuse(ctx, p, err)
		}
		if p.away.excused.Load() {
			p.it.checkHoles(ctx) // what it was filling when it was given up is nobody's now
		}
		if !retry.pause(ctx, p.it.whole) {
			return ctx.Err() // nil where nothing is missing any more
		}
		p.it.refreshMap(ctx)
	}
}

func (p *puller) unreachable(err error) *api.Error {
	hint := "see `shardstream status`"
	if etl := p.it.l.cfg.ETL; etl != "" {
		hint += fmt.Sprintf(", or raise the timeout if %.80q takes that long", etl)
	}
	return api.Errorf(503, codeTimeout, "no progress from %s (%s) for %v: %v; %s", p.node, p.peer.Load().Addr, p.it.l.cfg.Timeout, err, hint)
}

// advance publishes progress and looks for places that nobody will fill any more.
func (p *puller) advance(ctx context.Context, next int64) {
	if p.progress.Swap(next) < next && p.away.excused.Load() {
		p.it.welcome(p)
	}
	p.it.checkHoles(ctx)
}

// connect opens a stream: through shared memory where the target runs on this machine, else over TCP.
func (p *puller) connect(ctx context.Context, req *wire.ReadRequest) (*conn, error) {
	peer, timeout := p.peer.Load(), p.it.l.cfg.Timeout
	if p.it.l.cfg.SharedMemory && p.notShared < maxSharedFailures {
		uc, err := dialShared(ctx, p.it.cluster, peer)
		if err == nil {
			req.Share = true
			return open(ctx, uc, peer.Addr, p.snapshot, *req, timeout)
		}
		if ctx.Err() != nil {
			return nil, err
		}
	}
	req.Share = false
	nc, err := dialTCP(ctx, peer.Addr)
	if err != nil {
		return nil, err
	}
	return open(ctx, nc, peer.Addr, p.snapshot, *req, timeout)
}

// begin opens the connection of a stream; whoever finds that the target hangs may cut it from then on.
func (p *puller) begin(ctx context.Context, req *wire.ReadRequest) (*conn, error) {
	p.it.describe(req)
	dial, cancel := context.WithCancel(ctx)
	defer cancel()
	p.away.cuts(cancel)
	c, err := p.connect(dial, req)
	if err != nil {
		if req.Share {
			p.notShared++
		}
		return nil, err
	}
	p.away.cuts(c.interrupt)
	if len(req.Slots) == 0 {
		p.it.greet(p)
	}
	return c, nil
}

// stream opens a connection and reads frames until the end mark.
func (p *puller) stream(ctx context.Context, req wire.ReadRequest) (err error) {
	if req.From >= req.To {
		return nil
	}
	defer p.away.cuts(nil)
	c, err := p.begin(ctx, &req)
	if err != nil {
		return err
	}
	transport := c.transport()
	p.it.count(func(n *counters) { n.target(p.node, func(t *TargetStats) { t.Transport = transport }) })
	defer c.close()
	// A cancelled context ends a blocked read.
	defer context.AfterFunc(ctx, c.interrupt)()
	defer func() {
		if err != nil && c.shared != nil {
			p.notShared++
		}
		p.abandon(c)
	}()

	var sinceMark, total int64
	for {
		h, err := p.next(c)
		if err != nil {
			return err
		}
		switch h.Type {
		case wire.FrameBatch:
			n, err := p.batch(ctx, c, h, &req)
			if err != nil {
				return err
			}
			sinceMark, total = sinceMark+n, total+n
		case wire.FrameFilled:
			m, err := wire.ParseChunk(p.head)
			if err != nil {
				return err
			}
			if err := p.filled(ctx, c, m, &req); err != nil {
				return err
			}
		case wire.FrameChunk:
			if err := p.mark(ctx, sinceMark, &req); err != nil {
				return err
			}
			sinceMark = 0
		case wire.FrameEnd:
			return p.end(total, &req)
		case wire.FrameError:
			f, err := wire.ParseFailure(p.head)
			if err != nil {
				return err
			}
			if f.Code == wire.CodeUnshared {
				p.notShared = maxSharedFailures
			}
			return remoteError(f)
		}
	}
}

// next reads a frame's header and head.
func (p *puller) next(c *conn) (wire.Header, error) {
	h, err := c.header()
	if err != nil {
		return h, err
	}
	if p.head, err = c.head(p.head[:0], h.Head); err != nil {
		return h, err
	}
	return h, h.CheckHead(p.head)
}

// batch takes one frame, or its head where its items are to be placed, and returns how many samples it
// describes.
func (p *puller) batch(ctx context.Context, c *conn, h wire.Header, req *wire.ReadRequest) (int64, error) {
	t := &p.takes[0]
	if t == p.pending {
		t = &p.takes[1]
	}
	if t == p.queued {
		return 0, fmt.Errorf("%w: a third frame before the first is filled", wire.ErrMalformed)
	}
	if err := t.parse(&p.head, h.Payload); err != nil {
		return 0, err
	}
	samples := int64(len(t.frame.Samples))
	if err := p.expect(t, req); err != nil {
		return 0, err
	}
	if h.Encoding == wire.Placed {
		return samples, p.offer(ctx, c, t, req)
	}
	if p.pending != nil {
		return 0, fmt.Errorf("%w: batch %d before %d is filled", wire.ErrMalformed, t.frame.Index, p.pending.frame.Index)
	}
	if len(req.Slots) == 0 && t.frame.Index > p.progress.Load() {
		p.advance(ctx, t.frame.Index)
	}
	return samples, p.inline(ctx, c, t, h.Encoding, req)
}

// mark checks the end of a chunk.
func (p *puller) mark(ctx context.Context, samples int64, req *wire.ReadRequest) error {
	m, err := wire.ParseChunk(p.head)
	if err != nil {
		return err
	}
	oneShot := len(req.Slots) > 0
	switch {
	case !oneShot && (m.Next < p.progress.Load() || m.Next > req.To):
		return fmt.Errorf("%w: a chunk up to batch %d among %d to %d", wire.ErrMalformed, m.Next, p.progress.Load(), req.To)
	case m.Samples != samples:
		return fmt.Errorf("%w: a chunk of %d samples arrived as %d", wire.ErrMalformed, m.Samples, samples)
	case p.pending != nil:
		return fmt.Errorf("%w: a chunk ends before batch %d is filled", wire.ErrMalformed, p.pending.frame.Index)
	}
	p.it.marked(p.node, m.Work)
	if !oneShot {
		p.advance(ctx, m.Next)
	}
	return nil
}

// end checks the end mark.
func (p *puller) end(total int64, req *wire.ReadRequest) error {
	m, err := wire.ParseChunk(p.head)
	if err != nil {
		return err
	}
	if m.Next != req.To || m.Samples != total || p.pending != nil {
		return fmt.Errorf("%w: the end mark counts %d samples to batch %d, %d to %d arrived", wire.ErrMalformed, m.Samples, m.Next, total, req.To)
	}
	return nil
}
