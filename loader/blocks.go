package loader

import (
	"fmt"

	"github.com/shardstream/shardstream/core/wire"
)

// blocks reads an LZ4 payload. Its buffers are the connection's, reused from frame to frame.
type blocks struct {
	c      *conn
	left   int64 // decoded bytes of the payload that are in blocks to come
	stored []byte
	raw    []byte // of the block at hand
	r      int
}

// payload is the source of a frame's payload of n decoded bytes.
func (c *conn) payload(e wire.Encoding, n int64) source {
	if e != wire.LZ4 {
		return c
	}
	if c.blocks == nil {
		c.blocks = &blocks{c: c, stored: make([]byte, wire.BlockSize), raw: make([]byte, 0, wire.BlockSize)}
	}
	c.blocks.left, c.blocks.raw, c.blocks.r = n, c.blocks.raw[:0], 0
	return c.blocks
}

func (b *blocks) some(p []byte) (int, error) {
	if b.r == len(b.raw) {
		if err := b.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, b.raw[b.r:])
	b.r += n
	return n, nil
}

func (b *blocks) discard(n int64) error {
	for n > 0 {
		if b.r == len(b.raw) {
			if err := b.next(); err != nil {
				return err
			}
		}
		k := min(n, int64(len(b.raw)-b.r))
		b.r += int(k)
		n -= k
	}
	return nil
}

// next decodes the next block.
func (b *blocks) next() error {
	header := b.stored[:wire.BlockHeaderSize]
	if err := b.c.read(header); err != nil {
		return err
	}
	k, err := wire.ParseBlock(header)
	if err != nil {
		return err
	}
	if int64(k.Raw) > b.left {
		return fmt.Errorf("%w: blocks are larger than the payload", wire.ErrMalformed)
	}
	b.left -= int64(k.Raw)
	stored := b.stored[:k.Stored]
	if err := b.c.read(stored); err != nil {
		return err
	}
	b.raw, b.r = b.raw[:k.Raw], 0
	return k.Decode(b.raw, stored)
}
