package etl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
)

// Frames between a pool and its workers, little-endian; worker.py is the other side.
//
//	request: "SSQ1" kind u8, flags u8, fields u16, seq u64, seed u64, meta u32, key u32, data u64 | key | fields | bytes
//	result:  "SSR1" kind u8, flags u8, fields u16, seq u64,           meta u32, key u32, data u64 | key | fields | bytes
//	field:   name u16, dtype u8, dimensions u8, bytes u64 | i64 per dimension | name
//
// A worker answers in the order of the requests, each with its seq. In an error result the place of the key
// holds the summary and that of the fields the traceback.
const (
	requestHead = 40
	resultHead  = 32
	fieldHead   = 12

	requestInit   = 1
	requestSample = 2
	requestObject = 3

	resultReady  = 1
	resultBroken = 2
	resultSample = 3
	resultError  = 4

	flagFlush = 1 // no more requests follow for now: send what is pending

	maxFields   = 4096
	maxMeta     = 8 << 20
	maxKey      = 64 << 10
	copyBelow   = 8 << 10   // smaller payloads are copied next to their heads, larger ones go out from where they are
	flushAbove  = 512 << 10 // bytes gathered before a write
	maxInterned = 1024
)

var errFrame = errors.New("malformed frame from an etl worker")

func frameError(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errFrame, fmt.Sprintf(format, args...))
}

// frameWriter gathers requests and sends them with few system calls and without copying large payloads.
type frameWriter struct {
	conn    io.Writer
	small   []byte      // heads and small payloads since the last cut
	buffers net.Buffers // what to send, in order
	cut     int         // bytes of small that are in buffers
	size    int
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

// request gathers one request for a sample that fits.
func (w *frameWriter) request(kind, flags uint8, seq uint64, s *Sample) error {
	meta, data := measure(s)
	b := w.small
	b = append(b, "SSQ1"...)
	b = append(b, kind, flags)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(s.Fields)))
	b = binary.LittleEndian.AppendUint64(b, seq)
	b = binary.LittleEndian.AppendUint64(b, s.Seed)
	b = binary.LittleEndian.AppendUint32(b, uint32(meta))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(s.Key)))
	b = binary.LittleEndian.AppendUint64(b, uint64(data))
	b = append(b, s.Key...)
	for i := range s.Fields {
		f := &s.Fields[i]
		b = binary.LittleEndian.AppendUint16(b, uint16(len(f.Name)))
		b = append(b, byte(f.Value.DType), byte(len(f.Value.Shape)))
		b = binary.LittleEndian.AppendUint64(b, uint64(len(f.Value.Data)))
		for _, d := range f.Value.Shape {
			b = binary.LittleEndian.AppendUint64(b, uint64(d))
		}
		b = append(b, f.Name...)
	}
	w.small = b
	for i := range s.Fields {
		payload := s.Fields[i].Value.Data
		if len(payload) < copyBelow {
			w.small = append(w.small, payload...)
			continue
		}
		w.seal()
		w.buffers = append(w.buffers, payload)
		w.size += len(payload)
	}
	if w.size+len(w.small)-w.cut >= flushAbove {
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
	w.seal()
	pending := w.buffers
	_, err := pending.WriteTo(w.conn)
	clear(w.buffers) // drop the references to callers' payloads
	w.buffers, w.small, w.cut, w.size = w.buffers[:0], w.small[:0], 0, 0
	return err
}

// result is a frame as it came from a worker.
type result struct {
	kind      uint8
	seq       uint64
	key       string // empty: unchanged
	fields    []Field
	summary   string
	traceback string
}

// frameReader reads results. It believes nothing: every length is bounded before memory is taken for it.
type frameReader struct {
	r     io.Reader
	limit int64 // payload bytes of one result
	head  [resultHead]byte
	meta  []byte
	names map[string]string
}

func newFrameReader(r io.Reader, limit int64) *frameReader {
	return &frameReader{r: r, limit: limit, names: make(map[string]string)}
}

// next reads one result. io.EOF means that the stream ended between frames.
func (fr *frameReader) next() (result, error) {
	var res result
	if _, err := io.ReadFull(fr.r, fr.head[:]); err != nil {
		return res, err
	}
	h := fr.head[:]
	if string(h[:4]) != "SSR1" {
		return res, frameError("begins with %q", h[:4])
	}
	res.kind = h[4]
	fields := int(binary.LittleEndian.Uint16(h[6:]))
	res.seq = binary.LittleEndian.Uint64(h[8:])
	metaLen := binary.LittleEndian.Uint32(h[16:])
	keyLen := binary.LittleEndian.Uint32(h[20:])
	dataLen := binary.LittleEndian.Uint64(h[24:])
	switch {
	case res.kind < resultReady || res.kind > resultError:
		return res, frameError("kind %d", res.kind)
	case fields > maxFields, metaLen > maxMeta, keyLen > maxKey:
		return res, frameError("%d fields described in %d bytes, key of %d", fields, metaLen, keyLen)
	case dataLen > uint64(fr.limit):
		return res, frameError("%d bytes of payload, more than %d (--max-output)", dataLen, fr.limit)
	case res.kind != resultSample && (fields != 0 || dataLen != 0):
		return res, frameError("payload in a frame of kind %d", res.kind)
	}
	n := int(metaLen) + int(keyLen)
	if cap(fr.meta) < n {
		fr.meta = make([]byte, n)
	}
	meta := fr.meta[:n]
	if _, err := io.ReadFull(fr.r, meta); err != nil {
		return res, unexpected(err)
	}
	if res.kind != resultSample {
		res.summary, res.traceback = string(meta[:keyLen]), string(meta[keyLen:])
		return res, nil
	}
	res.key = string(meta[:keyLen])
	if !validKey(res.key) {
		return res, frameError("key %q", clip(res.key, 80))
	}
	data := make([]byte, dataLen)
	var err error
	if res.fields, err = fr.fields(meta[keyLen:], fields, data); err != nil {
		return res, err
	}
	if _, err := io.ReadFull(fr.r, data); err != nil {
		return res, unexpected(err)
	}
	return res, nil
}

// fields parses the description of count fields, whose payloads lie in data one after another.
func (fr *frameReader) fields(meta []byte, count int, data []byte) ([]Field, error) {
	out := make([]Field, count)
	for i := range out {
		if len(meta) < fieldHead {
			return nil, frameError("description ends early")
		}
		nameLen := int(binary.LittleEndian.Uint16(meta))
		v := Value{DType: DType(meta[2])}
		ndim := int(meta[3])
		size := binary.LittleEndian.Uint64(meta[4:])
		meta = meta[fieldHead:]
		if !v.DType.Valid() || ndim > MaxDims || (ndim > 0 && !v.DType.Dense()) {
			return nil, frameError("%s with %d dimensions", v.DType, ndim)
		}
		if len(meta) < 8*ndim+nameLen {
			return nil, frameError("description ends early")
		}
		if size > uint64(len(data)) {
			return nil, frameError("field of %d bytes where %d are left", size, len(data))
		}
		if ndim > 0 {
			v.Shape = make([]int64, ndim)
			for d := range v.Shape {
				v.Shape[d] = int64(binary.LittleEndian.Uint64(meta[8*d:]))
			}
		}
		if v.DType.Dense() && !shapeHolds(v.Shape, v.DType.Size(), int64(size)) {
			return nil, frameError("%d bytes for %s%v", size, v.DType, v.Shape)
		}
		meta = meta[8*ndim:]
		out[i].Name = fr.intern(meta[:nameLen])
		meta = meta[nameLen:]
		v.Data = data[:size:size]
		data = data[size:]
		out[i].Value = v
	}
	if len(meta) != 0 || len(data) != 0 {
		return nil, frameError("%d bytes of description and %d of payload too many", len(meta), len(data))
	}
	return out, nil
}

// intern keeps one string for each field name, as they repeat in every sample.
func (fr *frameReader) intern(b []byte) string {
	if s, ok := fr.names[string(b)]; ok {
		return s
	}
	s := string(b)
	if len(fr.names) < maxInterned {
		fr.names[s] = s
	}
	return s
}

// shapeHolds says whether an array of the shape has exactly size bytes.
func shapeHolds(shape []int64, item, size int64) bool {
	total := item
	empty := false
	for _, d := range shape {
		switch {
		case d < 0:
			return false
		case d == 0:
			empty = true
		case total > (1<<62)/d:
			return false
		default:
			total *= d
		}
	}
	if empty {
		total = 0
	}
	return total == size
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
