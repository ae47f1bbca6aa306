package loader

import (
	"context"
	"fmt"

	"github.com/zeebo/xxh3"

	"github.com/shardstream/shardstream/core/wire"
)

// readPiece is how much of a payload is read before the samples in it are verified: they are still in
// the cache then, and verification costs next to nothing.
const readPiece = 512 << 10

// taking is a frame on its way into its batch. Its buffers are reused from frame to frame.
type taking struct {
	frame   wire.Batch
	head    []byte
	payload int64
	dst     []int64 // of each item, in the batch's slot
	damaged []bool  // of each sample

	batch  *batch // nil where nothing of the frame is wanted
	placed bool   // in shared memory: the target knows where to write
}

// parse takes the head over and decodes it.
func (t *taking) parse(head *[]byte, payload int64) error {
	t.head, *head = *head, t.head
	t.payload, t.batch, t.placed = payload, nil, false
	return t.frame.Parse(t.head, payload)
}

// place claims the frame's samples in the batch and decides where their items go.
func (t *taking) place(b *batch) (err error) {
	if b == nil {
		t.dst = resize(t.dst, len(t.frame.Items))
		for i := range t.dst {
			t.dst[i] = nowhere
		}
		return nil
	}
	claimed := false
	if t.dst, claimed, err = b.place(&t.frame, t.dst); claimed {
		t.batch = b // which stays this batch as long as the claim is kept
	}
	t.damaged = resize(t.damaged, len(t.frame.Samples))
	clear(t.damaged)
	return err
}

// unclaim gives the places back after the payload did not arrive.
func (t *taking) unclaim() {
	if t.batch != nil {
		t.batch.unclaim(&t.frame, t.dst)
		t.batch = nil
	}
}

// acquire finds the frame's batch and places the frame in it; false where the batch has no slot yet, and
// the caller would not wait.
func (p *puller) acquire(ctx context.Context, t *taking, wait bool) (bool, error) {
	b, ok, err := p.it.acquire(ctx, t.frame.Index, wait)
	if err == nil && ok {
		err = t.place(b)
	}
	if err != nil {
		return false, permanentError{err}
	}
	return ok, nil
}

// commit records a frame whose payload has arrived.
func (p *puller) commit(ctx context.Context, t *taking, req *wire.ReadRequest) {
	samples, payload := int64(len(t.frame.Samples)), t.payload
	index := t.frame.Index
	if b := t.batch; b != nil {
		t.batch = nil
		p.it.count(func(c *counters) { // before another target's frame can complete the batch, so that what was delivered is counted
			c.target(p.node, func(t *TargetStats) { t.Samples += samples; t.Bytes += payload })
		})
		if b.commit(&t.frame, t.dst, t.damaged) {
			p.it.completed(index, p.node)
		}
	}
	if len(req.Slots) == 0 {
		p.advance(ctx, index+1)
	}
}

// source is where an inline payload is read from: the connection, or its decompressed blocks.
type source interface {
	// some reads at least one byte into p, which is not empty.
	some(p []byte) (int, error)
	discard(n int64) error
}

// inline reads a frame's payload off the connection to its places.
func (p *puller) inline(ctx context.Context, c *conn, t *taking, e wire.Encoding, req *wire.ReadRequest) error {
	from, before := c.payload(e, t.payload), c.taken
	if _, err := p.acquire(ctx, t, true); err != nil {
		return err
	}
	if t.batch == nil {
		if err := from.discard(t.payload); err != nil {
			return err
		}
	} else if err := t.read(from, t.batch.memory()); err != nil {
		t.unclaim()
		return err
	}
	if e == wire.LZ4 {
		p.it.count(func(n *counters) {
			n.target(p.node, func(s *TargetStats) { s.CompressedFrom += t.payload; s.CompressedTo += c.taken - before })
		})
	}
	p.commit(ctx, t, req)
	return nil
}

// read reads the items to their places, in runs of adjacent ones, and verifies each.
func (t *taking) read(c source, mem []byte) error {
	items := t.frame.Items
	for i := 0; i < len(items); {
		if t.dst[i] == nowhere {
			if err := c.discard(items[i].Size); err != nil {
				return err
			}
			i++
			continue
		}
		end := i + 1
		at := t.dst[i] + items[i].Size
		for end < len(items) && t.dst[end] == at {
			at += items[end].Size
			end++
		}
		if err := t.readRun(c, mem, i, end, at); err != nil {
			return err
		}
		i = end
	}
	return nil
}

// readRun reads items first..end-1, which lie back to back up to offset limit.
func (t *taking) readRun(c source, mem []byte, first, end int, limit int64) error {
	at, i := t.dst[first], first
	for at < limit {
		n, err := c.some(mem[at:min(at+readPiece, limit)])
		if err != nil {
			return err
		}
		at += int64(n)
		for i < end && t.dst[i]+t.frame.Items[i].Size <= at {
			t.verify(mem, i)
			i++
		}
	}
	for ; i < end; i++ { // empty items at the end of the run
		t.verify(mem, i)
	}
	return nil
}

func (t *taking) verify(mem []byte, i int) {
	it := &t.frame.Items[i]
	if xxh3.Hash(mem[t.dst[i]:t.dst[i]+it.Size]) != it.Sum {
		t.damaged[it.Sample] = true
	}
}

// verifyAll verifies items that arrived by themselves.
func (t *taking) verifyAll(mem []byte) {
	for i := range t.frame.Items {
		if t.dst[i] != nowhere {
			t.verify(mem, i)
		}
	}
}

// expect checks that a frame is one that was asked for and not answered yet.
func (p *puller) expect(t *taking, req *wire.ReadRequest) error {
	if first := max(req.From, p.progress.Load()); t.frame.Index < first || t.frame.Index >= req.To {
		return fmt.Errorf("%w: batch %d where %d to %d were to come", wire.ErrMalformed, t.frame.Index, first, req.To)
	}
	return nil
}
