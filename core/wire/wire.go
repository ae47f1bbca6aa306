// Package wire is the sample stream's codec: the frames that a target writes and a loader reads
// after an HTTP upgrade, and the request that opens them. It knows nothing of stores, plans or
// sockets, so that both ends and the fuzzer share one implementation.
//
// A stream is a sequence of frames, each a fixed header, a head and a payload:
//
//	"SSF1" | type u8, encoding u8, 2 zero bytes | head length u32 | zero u32 | payload length u64 | xxh3(head) u64
//
// A FrameBatch describes samples of one batch in its head (lengths first) and carries their bytes as
// payload, in the order in which the head lists its items. Its encoding says how the payload travels:
// as it is (Inline), in compressed blocks (LZ4, see block.go), or not at all (Placed): between processes
// of one machine the loader answers such a head with a Placement, the target writes the items into the
// loader's memory, and says so with a FrameFilled. A FrameChunk closes a chunk of batches and
// counts its samples, a FrameEnd closes the stream: a short answer can't look whole. A FrameError ends
// a stream that can't go on. All integers are little-endian; varints are unsigned LEB128.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/zeebo/xxh3"
)

// FrameType tells frames apart.
type FrameType uint8

// The frame types.
const (
	FrameBatch FrameType = 1 + iota
	FrameChunk
	FrameEnd
	FrameError
	FrameFilled
)

// Encoding says how a FrameBatch's payload travels.
type Encoding uint8

// The encodings. The payload length in the header is that of the items, whatever their encoding takes.
const (
	Inline Encoding = iota
	LZ4
	Placed
	numEncodings
)

// CodeUnshared is the code of a FrameError where a target can't reach the loader's memory: the loader asks
// again over TCP.
const CodeUnshared = "unshared"

// Bounds that a decoder enforces before it allocates.
const (
	HeaderSize = 32
	MaxHead    = 64 << 20 // bytes of a head
	MaxPayload = 1 << 40  // bytes of a payload
	MaxSamples = 1 << 22  // samples in a frame
	MaxItems   = MaxSamples * 4
	MaxFields  = 1 << 12 // fields in a frame
	MaxDims    = 8       // dimensions of an array
	MaxName    = 1 << 13 // bytes of a key or field name
	maxMessage = 1 << 20 // bytes of an error message
)

// ErrMalformed is wrapped by every decoding error: the peer is broken or hostile, or bytes were damaged.
var ErrMalformed = errors.New("malformed frame")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

// Header is a frame's fixed part.
type Header struct {
	Type     FrameType
	Encoding Encoding
	Head     int   // bytes of head
	Payload  int64 // bytes of payload, decoded
	Sum      uint64
}

// AppendHeader appends the header of a frame whose head is given and whose payload, if any, is Inline.
func AppendHeader(dst []byte, t FrameType, head []byte, payload int64) []byte {
	return appendHeader(dst, t, Inline, head, payload)
}

// AppendBatchHeader appends the header of a FrameBatch.
func AppendBatchHeader(dst []byte, e Encoding, head []byte, payload int64) []byte {
	return appendHeader(dst, FrameBatch, e, head, payload)
}

func appendHeader(dst []byte, t FrameType, e Encoding, head []byte, payload int64) []byte {
	dst = append(dst, 'S', 'S', 'F', '1', byte(t), byte(e), 0, 0)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(head)))
	dst = append(dst, 0, 0, 0, 0)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(payload))
	return binary.LittleEndian.AppendUint64(dst, xxh3.Hash(head))
}

// ParseHeader decodes and bounds a header of HeaderSize bytes.
func ParseHeader(b []byte) (Header, error) {
	if len(b) < HeaderSize || string(b[:4]) != "SSF1" {
		return Header{}, malformed("bad magic")
	}
	h := Header{
		Type: FrameType(b[4]), Encoding: Encoding(b[5]),
		Head:    int(binary.LittleEndian.Uint32(b[8:])),
		Payload: int64(binary.LittleEndian.Uint64(b[16:])),
		Sum:     binary.LittleEndian.Uint64(b[24:]),
	}
	switch {
	case h.Type < FrameBatch || h.Type > FrameFilled:
		return Header{}, malformed("unknown type %d", b[4])
	case h.Encoding >= numEncodings || h.Encoding != Inline && h.Type != FrameBatch:
		return Header{}, malformed("unknown encoding %d of a frame of type %d", b[5], b[4])
	case b[6]|b[7]|b[12]|b[13]|b[14]|b[15] != 0:
		return Header{}, malformed("reserved bytes are set")
	case h.Head > MaxHead:
		return Header{}, malformed("head of %d bytes", h.Head)
	case h.Payload < 0 || h.Payload > MaxPayload:
		return Header{}, malformed("payload of %d bytes", h.Payload)
	case h.Type != FrameBatch && h.Payload != 0:
		return Header{}, malformed("payload in a frame of type %d", b[4])
	}
	return h, nil
}

// CheckHead verifies a head against its header's checksum.
func (h Header) CheckHead(head []byte) error {
	if len(head) != h.Head || xxh3.Hash(head) != h.Sum {
		return malformed("checksum of the head differs")
	}
	return nil
}

// Chunk is the head of a FrameChunk, for the whole stream of a FrameEnd, and for one batch of a FrameFilled.
type Chunk struct {
	Next    int64 // all batches below this index are answered; of a FrameFilled, the batch
	Samples int64 // samples sent since the last mark (FrameChunk) or in all (FrameEnd), failed ones included
	Work    Work  // since the last mark
}

// Work is what a target spent on a stream: nanoseconds of the goroutine that prepares batches and of the one
// that sends them, which run side by side. The loader tells from it what bounds the run.
type Work struct {
	Plan int64 // finding the samples of a batch and opening their shards
	Read int64 // reading stored bytes, to verify or to transform them
	ETL  int64 // waiting for the transformation
	Send int64 // sending, Full included; what the page cache lacks is read meanwhile
	Full int64 // waiting for the connection to take more
	Idle int64 // nothing to send yet
	// Stored and Sent are bytes of the whole node meanwhile: read from its disks, sent on its streams.
	Stored, Sent int64
}

// MaxMark is the most that an encoded Chunk takes.
const MaxMark = 10 * binary.MaxVarintLen64

// Append encodes c.
func (c Chunk) Append(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(c.Next))
	dst = binary.AppendUvarint(dst, uint64(c.Samples))
	for _, v := range c.Work.parts() {
		dst = binary.AppendUvarint(dst, uint64(*v))
	}
	return dst
}

// ParseChunk decodes a Chunk.
func ParseChunk(head []byte) (Chunk, error) {
	d := decoder{b: head}
	c := Chunk{Next: d.int(), Samples: d.int()}
	for _, v := range c.Work.parts() {
		*v = d.int()
	}
	return c, d.finish()
}

// Add adds what was spent elsewhere, or later.
func (w *Work) Add(o Work) {
	for i, v := range w.parts() {
		*v += *o.parts()[i]
	}
}

// Sub takes away what was spent earlier.
func (w *Work) Sub(o Work) {
	for i, v := range w.parts() {
		*v -= *o.parts()[i]
	}
}

// parts lists the numbers in the order in which they travel.
func (w *Work) parts() [8]*int64 {
	return [...]*int64{&w.Plan, &w.Read, &w.ETL, &w.Send, &w.Full, &w.Idle, &w.Stored, &w.Sent}
}

// Failure is the head of a FrameError and the status of a failed sample.
type Failure struct {
	Code    string
	Message string
}

// Append encodes f.
func (f Failure) Append(dst []byte) []byte {
	dst = appendString(dst, clip(f.Code, MaxName))
	return appendString(dst, clip(f.Message, maxMessage))
}

// ParseFailure decodes a Failure.
func ParseFailure(head []byte) (Failure, error) {
	d := decoder{b: head}
	f := Failure{Code: string(d.bytes(MaxName)), Message: string(d.bytes(maxMessage))}
	return f, d.finish()
}

func clip(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}

func appendString(dst []byte, s string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

// decoder reads varints and strings off b; after a fault everything reads as zero and finish reports it.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = malformed(format, args...)
	}
	d.b = nil
}

func (d *decoder) int() int64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 || v > 1<<62 {
		d.fail("bad varint")
		return 0
	}
	d.b = d.b[n:]
	return int64(v)
}

func (d *decoder) count(limit int, what string) int {
	v := d.int()
	if v > int64(limit) {
		d.fail("%d %s, at most %d", v, what, limit)
		return 0
	}
	return int(v)
}

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.fail("short head")
		return 0
	}
	v := d.b[0]
	d.b = d.b[1:]
	return v
}

func (d *decoder) uint64() uint64 {
	if len(d.b) < 8 {
		d.fail("short head")
		return 0
	}
	v := binary.LittleEndian.Uint64(d.b)
	d.b = d.b[8:]
	return v
}

// bytes returns a length-prefixed string as a view on the head.
func (d *decoder) bytes(limit int) []byte {
	n := d.count(limit, "bytes of text")
	if n > len(d.b) {
		d.fail("text runs past the head")
		return nil
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) finish() error {
	if d.err == nil && len(d.b) != 0 {
		d.fail("%d bytes left over", len(d.b))
	}
	return d.err
}
