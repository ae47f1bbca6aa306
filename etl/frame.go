package etl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
)

// Frames between a pool and its workers, little-endian; the package worker/shardstream_worker is the other side.
//
//	request: "SSQ2" kind u8, flags u8, fields u16, seq u64, seed u64, meta u32, key u32, data u64 | key | fields | bytes
//	result:  "SSR2" kind u8, flags u8, fields u16, seq u64,           meta u32, key u32, data u64 | key | fields | bytes
//	field:   name u16, dtype u8, dimensions u8, bytes u64, place u64 | i64 per dimension | name
//
// The place of a field's bytes is their offset in the sender's half of the arena, or behind the frame, in order, or in a
// result those of a field of the request that come back unchanged. Data counts the bytes behind the frame.
//
// A worker answers in the order of the requests, each with its seq; a batch is several requests with one answer, to
// the last of them. In an error result the place of the key holds the summary and that of the fields the
// traceback. Objects may come and go in pieces: see object.go.
const (
	requestHead = 40
	resultHead  = 32
	fieldHead   = 20

	requestInit   = 1
	requestSample = 2
	requestObject = 3
	requestBatch  = 4
	requestArgs   = 5 // of the requests that follow
	requestStream = 6 // an object whose bytes follow in pieces
	requestPiece  = 7

	resultReady   = 1
	resultBroken  = 2
	resultSample  = 3
	resultError   = 4
	resultColumns = 5 // fields have a row for each sample of a batch
	resultPiece   = 6
	resultDone    = 7 // after the last piece

	flagFlush = 1 // no more requests follow for now: send what is pending
	flagFirst = 2 // answers before this one have been read: their half of the arena is free
	flagLast  = 4 // of a batch, or of the pieces of an object
	flagAbort = 8 // the object can't be read to its end

	flagStreams = 1 // of ready: the function reads its object as a file
	flagFinal   = 1 // of an error: giving the function fewer samples at a time would not help
	flagArgs    = 2 // of an error: the arguments do not fit the function

	placeInline = math.MaxUint64
	placeEcho   = 1 << 63 // with sample << 16 | field
	dtypeRows   = 255     // of a column: one value for each sample follows

	maxFields   = 4096
	maxName     = 1000 // bytes of the name of a field
	maxMeta     = 8 << 20
	keptMeta    = 256 << 10 // of memory for descriptions
	maxKey      = 64 << 10
	maxPiece    = 256 << 10 // bytes of an object in one frame
	sharedFrom  = 4 << 10   // smaller payloads go inline, larger ones over the arena
	copyBelow   = 8 << 10   // smaller inline payloads are copied next to their heads, larger ones go out from where they are
	flushAbove  = 256 << 10 // bytes gathered before a write
	maxInterned = 1024
	// internedName is the longest name that is kept: a worker may make up as long ones as frames take.
	internedName = 256
)

var errFrame = errors.New("malformed frame from an etl worker")

func frameError(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errFrame, fmt.Sprintf(format, args...))
}

// frameWriter gathers requests and sends them with few system calls, large payloads by the shared memory.
type frameWriter struct {
	conn    io.Writer
	area    []byte      // the node's half of the arena
	used    int         // of area, since the last reset
	small   []byte      // heads and small payloads since the last cut
	buffers net.Buffers // what to send, in order
	cut     int         // bytes of small that are in buffers
	size    int         // bytes in buffers
	shared  int         // bytes put into area since the last flush
}

// reset makes the area free again: every request has been answered.
func (w *frameWriter) reset() { w.used = 0 }

// drop forgets what was gathered.
func (w *frameWriter) drop() {
	clear(w.buffers) // drop the references to callers' payloads
	w.buffers, w.small, w.cut, w.size, w.shared = w.buffers[:0], w.small[:0], 0, 0, 0
}

// place puts a payload into the area, if it is large enough and there is room.
func (w *frameWriter) place(payload []byte) uint64 {
	if len(payload) < sharedFrom || len(payload) > len(w.area)-w.used {
		return placeInline
	}
	at := w.used
	w.used = min((at+copy(w.area[at:], payload)+arenaStep-1)&^(arenaStep-1), len(w.area))
	w.shared += len(payload)
	return uint64(at)
}

// measure is the size of a request's description and payload.
func measure(s *Sample) (meta, data int64) {
	for i := range s.Fields {
		f := &s.Fields[i]
		meta += fieldHead + 8*int64(len(f.Value.Shape)) + int64(len(f.Name))
		data += int64(len(f.Value.Data))
	}
	return meta, data
}

// fits says why a sample can't travel in one frame.
func fits(s *Sample, limit int64) error {
	meta, data := measure(s)
	if data > limit {
		return &SizeError{Key: s.Key, Size: data, Limit: limit}
	}
	if meta > maxMeta || len(s.Fields) > maxFields || len(s.Key) > maxKey {
		return fmt.Errorf("sample %q has more fields or longer names than an etl takes", clip(s.Key, 512))
	}
	for i := range s.Fields {
		f := &s.Fields[i]
		if len(f.Name) > 1<<16-1 || !f.Value.DType.Valid() || len(f.Value.Shape) > MaxDims {
			return fmt.Errorf("field %q of sample %q can't be given to an etl", clip(f.Name, 80), clip(s.Key, 512))
		}
	}
	return nil
}

// head gathers the head of a request; the place of its data size is returned, to be filled in.
func (w *frameWriter) head(kind, flags uint8, fields int, seq, seed uint64, meta, key int, data uint64) (dataAt int) {
	b := w.small
	b = append(b, "SSQ2"...)
	b = append(b, kind, flags)
	b = binary.LittleEndian.AppendUint16(b, uint16(fields))
	b = binary.LittleEndian.AppendUint64(b, seq)
	b = binary.LittleEndian.AppendUint64(b, seed)
	b = binary.LittleEndian.AppendUint32(b, uint32(meta))
	b = binary.LittleEndian.AppendUint32(b, uint32(key))
	w.small = binary.LittleEndian.AppendUint64(b, data)
	return len(b)
}

// request gathers one request for a sample that fits.
func (w *frameWriter) request(kind, flags uint8, seq uint64, s *Sample) error {
	meta, _ := measure(s)
	dataAt := w.head(kind, flags, len(s.Fields), seq, s.Seed, int(meta), len(s.Key), 0)
	b := w.small
	b = append(b, s.Key...)
	var inline uint64
	first := len(b)
	for i := range s.Fields {
		f := &s.Fields[i]
		place := w.place(f.Value.Data)
		if place == placeInline {
			inline += uint64(len(f.Value.Data))
		}
		b = binary.LittleEndian.AppendUint16(b, uint16(len(f.Name)))
		b = append(b, byte(f.Value.DType), byte(len(f.Value.Shape)))
		b = binary.LittleEndian.AppendUint64(b, uint64(len(f.Value.Data)))
		b = binary.LittleEndian.AppendUint64(b, place)
		for _, d := range f.Value.Shape {
			b = binary.LittleEndian.AppendUint64(b, uint64(d))
		}
		b = append(b, f.Name...)
	}
	binary.LittleEndian.PutUint64(b[dataAt:], inline)
	described := b[first:]
	w.small = b
	for i := range s.Fields {
		f := &s.Fields[i]
		place := binary.LittleEndian.Uint64(described[12:])
		described = described[fieldHead+8*len(f.Value.Shape)+len(f.Name):]
		if place == placeInline {
			w.inline(f.Value.Data)
		}
	}
	return w.gathered()
}

// control gathers a request that is no sample.
func (w *frameWriter) control(kind, flags uint8, seq uint64, payload []byte) error {
	w.head(kind, flags, 0, seq, 0, 0, 0, uint64(len(payload)))
	w.inline(payload)
	return w.gathered()
}

// inline gathers a payload that goes behind its frame.
func (w *frameWriter) inline(payload []byte) {
	if len(payload) < copyBelow {
		w.small = append(w.small, payload...)
		return
	}
	w.seal()
	w.buffers = append(w.buffers, payload)
	w.size += len(payload)
}

// gathered sends what there is, once it is much.
func (w *frameWriter) gathered() error {
	if w.size+w.shared+len(w.small)-w.cut >= flushAbove {
		return w.flush()
	}
	return nil
}

// seal moves what is new in small to the buffers.
func (w *frameWriter) seal() {
	if len(w.small) > w.cut {
		w.buffers = append(w.buffers, w.small[w.cut:len(w.small):len(w.small)])
		w.size += len(w.small) - w.cut
		w.cut = len(w.small)
	}
}

// flush sends everything gathered.
func (w *frameWriter) flush() error {
	var err error
	if len(w.buffers) == 0 {
		_, err = w.conn.Write(w.small)
	} else {
		w.seal()
		pending := w.buffers
		_, err = pending.WriteTo(w.conn)
	}
	w.drop()
	return err
}
