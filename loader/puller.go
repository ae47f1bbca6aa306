package loader

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/wire"
)

// readPiece is how much of a payload is read before the samples in it are verified: they are still in
// the cache then, and verification costs next to nothing.
const readPiece = 512 << 10

// maxGarbled is how often malformed frames at one place are put down to the wire.
const maxGarbled = 4

// puller reads one target's stream. Its buffers are its own; only placing and committing a frame take
// the batch's lock.
type puller struct {
	it       *iteration
	node     string
	snapshot string
	addr     atomic.Value // string; a restarted node may listen elsewhere
	progress atomic.Int64 // all batches below are answered

	waited time.Duration // in this stream, for the consumer to make room

	frame   wire.Batch
	head    []byte
	dst     []int64
	damaged []bool
}

func newPuller(it *iteration, n api.Node, snapshot string) *puller {
	p := &puller{it: it, node: n.ID, snapshot: snapshot}
	p.addr.Store(n.Addr)
	return p
}

// run streams all batches of the view, reconnecting at the first one that was not answered whole.
func (p *puller) run(ctx context.Context) error {
	retry := newBackoff(p.it.l.cfg.Timeout)
	stuck := 0
	for {
		from := p.progress.Load()
		// A stream that twice broke at one place may break on a bad disk: verified, it names the sample.
		err := p.stream(ctx, wire.ReadRequest{From: from, To: p.it.batches, Verify: stuck >= 2})
		if err == nil {
			p.advance(ctx, p.it.batches)
			return p.it.settle(ctx)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := p.it.mend(ctx, err); err != nil {
			return err
		}
		retry.excuse(p.waited) // a slow consumer is not the target's delay
		if p.progress.Load() > from {
			retry.reset()
			stuck = 0
		}
		if stuck++; stuck > maxGarbled && errors.Is(err, wire.ErrMalformed) {
			return api.Errorf(502, api.CodeInternal, "%s (%s) sends what is no stream (another version, or another server?): %v", p.node, p.addr.Load(), err)
		}
		p.it.count(func(c *counters) {
			c.retries++
			c.target(p.node, func(t *TargetStats) { t.Reconnects++ })
		})
		p.it.l.cfg.Logger.Info("stream interrupted", "target", p.node, "batch", p.progress.Load(), "reason", err)
		if !retry.wait(ctx) {
			return p.unreachable(err)
		}
		p.it.refreshMap(ctx)
	}
}

func (p *puller) unreachable(err error) error {
	return api.Errorf(503, codeTimeout, "no progress from %s (%s) for %v: %v; see `shardstream status`", p.node, p.addr.Load(), p.it.l.cfg.Timeout, err)
}

// advance publishes progress and looks for places that nobody will fill any more.
func (p *puller) advance(ctx context.Context, next int64) {
	p.progress.Store(next)
	p.it.checkHoles(ctx)
}

// stream opens a connection and reads frames until the end mark.
func (p *puller) stream(ctx context.Context, req wire.ReadRequest) error {
	if req.From >= req.To {
		return nil
	}
	p.it.describe(&req)
	c, err := dial(ctx, p.addr.Load().(string), p.snapshot, req, p.it.l.cfg.Timeout)
	if err != nil {
		return err
	}
	defer c.close()
	// A cancelled context closes the socket, which ends a blocked read.
	defer context.AfterFunc(ctx, c.close)()

	p.waited = 0
	oneShot := len(req.Slots) > 0
	var sinceMark, total int64
	for {
		h, err := c.header()
		if err != nil {
			return err
		}
		p.head = resize(p.head, h.Head)
		if err := c.read(p.head); err != nil {
			return err
		}
		if err := h.CheckHead(p.head); err != nil {
			return err
		}
		switch h.Type {
		case wire.FrameBatch:
			n, err := p.batch(ctx, c, h, &req)
			if err != nil {
				return err
			}
			sinceMark, total = sinceMark+n, total+n
		case wire.FrameChunk:
			m, err := wire.ParseChunk(p.head)
			if err != nil {
				return err
			}
			if !oneShot && (m.Next < p.progress.Load() || m.Next > req.To) {
				return fmt.Errorf("%w: a chunk up to batch %d among %d to %d", wire.ErrMalformed, m.Next, p.progress.Load(), req.To)
			}
			if m.Samples != sinceMark {
				return fmt.Errorf("%w: a chunk of %d samples arrived as %d", wire.ErrMalformed, m.Samples, sinceMark)
			}
			sinceMark = 0
			if !oneShot {
				p.advance(ctx, m.Next)
			}
		case wire.FrameEnd:
			m, err := wire.ParseChunk(p.head)
			if err != nil {
				return err
			}
			if m.Next != req.To || m.Samples != total {
				return fmt.Errorf("%w: the end mark counts %d samples to batch %d, %d to %d arrived", wire.ErrMalformed, m.Samples, m.Next, total, req.To)
			}
			return nil
		case wire.FrameError:
			f, err := wire.ParseFailure(p.head)
			if err != nil {
				return err
			}
			return remoteError(f)
		}
	}
}

// batch takes one frame into its batch and returns how many samples it described.
func (p *puller) batch(ctx context.Context, c *conn, h wire.Header, req *wire.ReadRequest) (int64, error) {
	f := &p.frame
	if err := f.Parse(p.head, h.Payload); err != nil {
		return 0, err
	}
	oneShot := len(req.Slots) > 0
	if first := max(req.From, p.progress.Load()); f.Index < first || f.Index >= req.To {
		return 0, fmt.Errorf("%w: batch %d where %d to %d were to come", wire.ErrMalformed, f.Index, first, req.To)
	}
	if !oneShot && f.Index > p.progress.Load() {
		p.advance(ctx, f.Index)
	}
	samples := int64(len(f.Samples))
	began := time.Now()
	b, err := p.it.acquire(ctx, f.Index)
	p.waited += time.Since(began)
	if err != nil {
		return 0, permanentError{err}
	}
	if b == nil {
		return samples, c.discard(h.Payload)
	}
	if p.dst, err = b.place(f, p.dst); err != nil {
		return 0, permanentError{err}
	}
	p.damaged = resize(p.damaged, len(f.Samples))
	clear(p.damaged)
	if err := p.payload(c, b.memory()); err != nil {
		b.unclaim(f)
		return 0, err
	}
	complete := b.commit(f, p.dst, p.damaged)
	p.it.count(func(c *counters) {
		c.target(p.node, func(t *TargetStats) { t.Samples += samples; t.Bytes += h.Payload })
	})
	if complete {
		p.it.completed(f.Index)
	}
	if !oneShot {
		p.advance(ctx, f.Index+1)
	}
	return samples, nil
}

// payload reads the items to their places, in runs of adjacent ones, and verifies each.
func (p *puller) payload(c *conn, mem []byte) error {
	items := p.frame.Items
	for i := 0; i < len(items); {
		if p.dst[i] == nowhere {
			if err := c.discard(items[i].Size); err != nil {
				return err
			}
			i++
			continue
		}
		end := i + 1
		at := p.dst[i] + items[i].Size
		for end < len(items) && p.dst[end] == at {
			at += items[end].Size
			end++
		}
		if err := p.readRun(c, mem, i, end, at); err != nil {
			return err
		}
		i = end
	}
	return nil
}

// readRun reads items first..end-1, which lie back to back up to offset limit.
func (p *puller) readRun(c *conn, mem []byte, first, end int, limit int64) error {
	at, i := p.dst[first], first
	for at < limit {
		n, err := c.some(mem[at:min(at+readPiece, limit)])
		if err != nil {
			return err
		}
		at += int64(n)
		for i < end && p.dst[i]+p.frame.Items[i].Size <= at {
			p.verify(mem, i)
			i++
		}
	}
	for ; i < end; i++ { // empty items at the end of the run
		p.verify(mem, i)
	}
	return nil
}

func (p *puller) verify(mem []byte, i int) {
	it := &p.frame.Items[i]
	if xxh3.Hash(mem[p.dst[i]:p.dst[i]+it.Size]) != it.Sum {
		p.damaged[it.Sample] = true
	}
}
