package wire

import (
	"encoding/binary"
	"fmt"

	"github.com/pierrec/lz4/v4"
)

// An LZ4 payload is a sequence of blocks until the frame's payload is complete:
//
//	decoded length u32 | stored length u32 | stored bytes
//
// A block whose two lengths are equal is stored as it is. Items may cross blocks; integrity is the
// items' checksums'.
const (
	// BlockSize is the most that a block holds, decoded: enough for lz4's 64 kB window to pay.
	BlockSize       = 256 << 10
	BlockHeaderSize = 8
)

// BlockWriter compresses blocks. Its zero value is ready; it is reused and not for concurrent use.
type BlockWriter struct {
	lz4 lz4.Compressor
	buf []byte
}

// Encode returns a block with its header, valid until the next call; raw has 1 to BlockSize bytes.
func (w *BlockWriter) Encode(raw []byte) []byte {
	if w.buf == nil {
		w.buf = make([]byte, BlockHeaderSize+BlockSize)
	}
	// With no room for more than the input, what does not shrink comes back as 0.
	n, err := w.lz4.CompressBlock(raw, w.buf[BlockHeaderSize:BlockHeaderSize+len(raw)])
	if err != nil || n == 0 || n >= len(raw) {
		n = copy(w.buf[BlockHeaderSize:], raw)
	}
	binary.LittleEndian.PutUint32(w.buf, uint32(len(raw)))
	binary.LittleEndian.PutUint32(w.buf[4:], uint32(n))
	return w.buf[:BlockHeaderSize+n]
}

// Block is a block's header.
type Block struct {
	Raw, Stored int
}

// ParseBlock decodes and bounds a block's header of BlockHeaderSize bytes.
func ParseBlock(b []byte) (Block, error) {
	if len(b) < BlockHeaderSize {
		return Block{}, malformed("short block")
	}
	raw, stored := binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:])
	if raw == 0 || raw > BlockSize || stored == 0 || stored > raw {
		return Block{}, malformed("a block of %d bytes stored as %d", raw, stored)
	}
	return Block{Raw: int(raw), Stored: int(stored)}, nil
}

// Decode writes the block's bytes to dst, which has Raw bytes.
func (k Block) Decode(dst, stored []byte) error {
	if k.Raw == k.Stored {
		copy(dst, stored)
		return nil
	}
	n, err := lz4.UncompressBlock(stored, dst)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if n != len(dst) {
		return malformed("a block of %d bytes decodes to %d", len(dst), n)
	}
	return nil
}

// probePiece is how much of a place is compressed to find out whether a shard's bytes shrink, and
// shrinks the fraction below which they do.
const (
	probePiece = 4 << 10
	shrinks    = 0.93
)

// Compressible says whether pieces taken from several places of some data shrink enough for lz4 to pay.
// It takes some 10 us a piece.
func Compressible(pieces ...[]byte) bool {
	var c lz4.Compressor
	var in, out int
	var dst [probePiece]byte
	for _, p := range pieces {
		p = p[:min(len(p), probePiece)]
		n, err := c.CompressBlock(p, dst[:len(p)])
		if err != nil || n == 0 {
			n = len(p)
		}
		in, out = in+len(p), out+n
	}
	return in > 0 && float64(out) < shrinks*float64(in)
}
