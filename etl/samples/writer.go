package samples

import (
	"encoding/binary"
	"io"
	"net"

	"github.com/shardstream/shardstream/etl"
)

const (
	copyBelow  = 8 << 10   // smaller payloads are copied next to their heads, larger ones go out from where they are
	flushAbove = 256 << 10 // bytes gathered before a write
)

// Writer writes a message. It gathers what is small; payloads that are large are written from where they lie, before
// the call that was given them returns.
type Writer struct {
	w     io.Writer
	small []byte
	parts net.Buffers // of the item in hand
	count uint64
	err   error // the first one: a message with a hole must not be ended
}

// NewWriter begins a message.
func NewWriter(w io.Writer) *Writer {
	return &Writer{w: w, small: append(make([]byte, 0, 4<<10), magic...)}
}

// Sample adds a sample. One that can't travel is an error that spoils nothing: something else may take its place.
func (w *Writer) Sample(s *etl.Sample) error {
	if w.err != nil {
		return w.err
	}
	description, payload, err := measure(s)
	if err != nil {
		return err
	}
	w.small = appendSample(w.small, s, description, payload)
	w.count++
	for i := range s.Fields {
		data := s.Fields[i].Value.Data
		if len(data) < copyBelow {
			w.small = append(w.small, data...)
			continue
		}
		if err := w.send(data); err != nil {
			return err
		}
	}
	if len(w.small) >= flushAbove {
		return w.Flush()
	}
	return nil
}

// Fault adds why there is no sample in this place.
func (w *Writer) Fault(summary, traceback string) error {
	if w.err != nil {
		return w.err
	}
	summary, traceback = summary[:min(len(summary), MaxKey)], traceback[:min(len(traceback), MaxTraceback)]
	w.small = appendHead(w.small, kindFault, 0, len(traceback), len(summary), 0, 0)
	w.small = append(w.small, summary...)
	w.small = append(w.small, traceback...)
	w.count++
	return nil
}

// Flush sends what was gathered.
func (w *Writer) Flush() error { return w.send(nil) }

// Close writes the end mark and sends everything. It does not close what lies below.
func (w *Writer) Close() error {
	if w.err != nil {
		return w.err
	}
	w.small = appendHead(w.small, kindEnd, 0, 0, 0, w.count, 0)
	return w.Flush()
}

// send writes what was gathered and then data.
func (w *Writer) send(data []byte) error {
	if w.err != nil {
		return w.err
	}
	w.parts = append(w.parts[:0], w.small)
	if len(data) > 0 {
		w.parts = append(w.parts, data)
	}
	pending := w.parts
	_, w.err = pending.WriteTo(w.w)
	clear(w.parts[:cap(w.parts)]) // drop the references to callers' payloads
	w.small = w.small[:0]
	return w.err
}

// Encode makes a whole message, and says how long it is. Payloads that are large stay where they are, so the samples
// must not change until the message is sent. Sending consumes a net.Buffers: clone it to send it again.
func Encode(in []etl.Sample) (net.Buffers, int64, error) {
	var (
		buffers net.Buffers
		size    int64
		small   = []byte(magic)
		cut     = 0 // bytes of small that are in buffers; what lies before it is never written again
	)
	for i := range in {
		description, payload, err := measure(&in[i])
		if err != nil {
			return nil, 0, err
		}
		small = appendSample(small, &in[i], description, payload)
		for f := range in[i].Fields {
			data := in[i].Fields[f].Value.Data
			if len(data) < copyBelow {
				small = append(small, data...)
				continue
			}
			buffers = append(buffers, small[cut:len(small):len(small)], data)
			size += int64(len(small) - cut + len(data))
			cut = len(small)
		}
	}
	small = appendHead(small, kindEnd, 0, 0, 0, uint64(len(in)), 0)
	return append(buffers, small[cut:]), size + int64(len(small)-cut), nil
}

func appendSample(b []byte, s *etl.Sample, description, payload int64) []byte {
	b = appendHead(b, kindSample, len(s.Fields), int(description), len(s.Key), s.Seed, uint64(payload))
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
	return b
}

func appendHead(b []byte, kind byte, fields, description, key int, seed, payload uint64) []byte {
	b = append(b, kind, 0)
	b = binary.LittleEndian.AppendUint16(b, uint16(fields))
	b = binary.LittleEndian.AppendUint32(b, uint32(description))
	b = binary.LittleEndian.AppendUint32(b, uint32(key))
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = binary.LittleEndian.AppendUint64(b, seed)
	return binary.LittleEndian.AppendUint64(b, payload)
}
