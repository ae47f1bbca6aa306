package etl

import (
	"encoding/binary"
	"errors"
	"io"
)

// result is a frame as it came from a worker.
type result struct {
	kind      uint8
	flags     uint8
	seq       uint64
	key       string // empty: unchanged
	fields    []Field
	columns   []column // of a batch
	summary   string
	traceback string
	piece     []byte
}

// column is what a batch function returned under one name.
type column struct {
	name  string
	dense Value   // a row for each sample
	rows  []Value // one for each sample; nil where it is dense
}

// frameReader reads results. It believes nothing: every length is bounded before memory is taken for it, and what lies
// in the arena is copied out of it before it is looked at.
type frameReader struct {
	r     io.Reader
	area  []byte // the worker's half of the arena
	limit int64  // payload bytes of one result
	head  [resultHead]byte
	meta  []byte
	names map[string]string
	alloc func(int64) []byte // memory for the bytes of results
}

func newFrameReader(r io.Reader, area []byte, limit int64) *frameReader {
	return &frameReader{r: r, area: area, limit: limit, names: make(map[string]string), alloc: allocate}
}

func allocate(n int64) []byte { return make([]byte, n) }

// echo finds a blob of the request that a result is to.
type echo func(sample, field int) (Value, bool)

// next reads one result. io.EOF means that the stream ended between frames. Rows is the number of samples of the
// batch that is to be answered, given finds what they held.
func (fr *frameReader) next(rows int, given echo) (result, error) {
	var res result
	if _, err := io.ReadFull(fr.r, fr.head[:]); err != nil {
		return res, err
	}
	h := fr.head[:]
	if string(h[:4]) != "SSR2" {
		return res, frameError("begins with %q", h[:4])
	}
	res.kind, res.flags = h[4], h[5]
	fields := int(binary.LittleEndian.Uint16(h[6:]))
	res.seq = binary.LittleEndian.Uint64(h[8:])
	metaLen := binary.LittleEndian.Uint32(h[16:])
	keyLen := binary.LittleEndian.Uint32(h[20:])
	inline := binary.LittleEndian.Uint64(h[24:])
	described := res.kind == resultSample || res.kind == resultColumns
	limit := fr.limit
	if res.kind == resultColumns {
		limit = batchLimit(limit, rows)
	}
	switch {
	case res.kind < resultReady || res.kind > resultDone:
		return res, frameError("kind %d", res.kind)
	case fields > maxFields+1, metaLen > maxMeta, keyLen > maxKey:
		return res, frameError("%d fields described in %d bytes, key of %d", fields, metaLen, keyLen)
	case inline > uint64(limit), res.kind == resultPiece && inline > maxPiece:
		return res, frameError("%d bytes of payload, more than %d (max_output)", inline, limit)
	case !described && (fields != 0 || (inline != 0 && res.kind != resultPiece)):
		return res, frameError("payload in a frame of kind %d", res.kind)
	}
	meta := fr.room(int(metaLen) + int(keyLen))
	if _, err := io.ReadFull(fr.r, meta); err != nil {
		return res, unexpected(err)
	}
	if res.kind == resultPiece {
		res.piece = make([]byte, inline)
		_, err := io.ReadFull(fr.r, res.piece)
		return res, unexpected(err)
	}
	if !described {
		res.summary, res.traceback = string(meta[:keyLen]), string(meta[keyLen:])
		return res, nil
	}
	res.key = string(meta[:keyLen])
	if !validKey(res.key) {
		return res, frameError("key %q", clip(res.key, 80))
	}
	p := &payload{reader: fr, meta: meta[keyLen:], limit: limit, inline: inline, given: given}
	if err := p.parse(&res, fields, rows); err != nil {
		return res, err
	}
	return res, p.fetch()
}

// room is memory for a description, which is kept for the next one unless it is large.
func (fr *frameReader) room(n int) []byte {
	if n > keptMeta {
		return make([]byte, n)
	}
	if cap(fr.meta) < n {
		fr.meta = make([]byte, n)
	}
	return fr.meta[:n]
}

// batchLimit is how much the answer to a batch may have.
func batchLimit(each int64, rows int) int64 {
	return max(each, min(each*int64(max(1, rows)), maxBatchOutput))
}

// payload is what a result's description says of its bytes.
type payload struct {
	reader *frameReader
	meta   []byte
	limit  int64
	inline uint64
	given  echo

	size   int64  // of all values but echoes
	echoed int64  // of those
	places []spot // of the values, in order
}

// spot is a value whose bytes are still to be fetched.
type spot struct {
	value *Value
	size  int64
	place uint64
}

// parse reads the descriptions of a result's fields.
func (p *payload) parse(res *result, fields, rows int) error {
	if res.kind == resultColumns {
		res.columns = make([]column, fields)
		for i := range res.columns {
			c := &res.columns[i]
			if err := p.column(c, rows); err != nil {
				return err
			}
			if !validName(c.name) && c.name != "__key__" {
				return frameError("column %q", clip(c.name, 80))
			}
		}
	} else {
		res.fields = make([]Field, fields)
		for i := range res.fields {
			f := &res.fields[i]
			var err error
			if f.Name, err = p.value(&f.Value); err != nil {
				return err
			}
			if !validName(f.Name) {
				return frameError("field %q", clip(f.Name, 80))
			}
		}
	}
	if len(p.meta) != 0 || p.inline != 0 {
		return frameError("%d bytes of description and %d of payload too many", len(p.meta), p.inline)
	}
	return nil
}

// column reads the description of one column of a batch.
func (p *payload) column(c *column, rows int) error {
	if len(p.meta) < fieldHead {
		return frameError("description ends early")
	}
	if p.meta[2] != dtypeRows {
		var err error
		if c.name, err = p.value(&c.dense); err != nil {
			return err
		}
		if !c.dense.DType.Dense() || len(c.dense.Shape) == 0 || c.dense.Shape[0] != int64(rows) {
			return frameError("column of %s%v for %d samples", c.dense.DType, c.dense.Shape, rows)
		}
		return nil
	}
	nameLen := int(binary.LittleEndian.Uint16(p.meta))
	p.meta = p.meta[fieldHead:]
	if len(p.meta) < nameLen+rows*fieldHead { // before memory is taken for the rows
		return frameError("description ends early")
	}
	c.name = p.reader.intern(p.meta[:nameLen])
	p.meta = p.meta[nameLen:]
	c.rows = make([]Value, rows)
	for i := range c.rows {
		if _, err := p.value(&c.rows[i]); err != nil {
			return err
		}
	}
	return nil
}

// value reads the description of one value, all but its bytes, and returns its name.
func (p *payload) value(v *Value) (string, error) {
	meta := p.meta
	if len(meta) < fieldHead {
		return "", frameError("description ends early")
	}
	nameLen := int(binary.LittleEndian.Uint16(meta))
	v.DType = DType(meta[2])
	ndim := int(meta[3])
	size := binary.LittleEndian.Uint64(meta[4:])
	place := binary.LittleEndian.Uint64(meta[12:])
	meta = meta[fieldHead:]
	if !v.DType.Valid() || ndim > MaxDims || (ndim > 0 && !v.DType.Dense()) {
		return "", frameError("%s with %d dimensions", v.DType, ndim)
	}
	if len(meta) < 8*ndim+nameLen {
		return "", frameError("description ends early")
	}
	if size > uint64(p.limit) {
		return "", frameError("field of %d bytes, more than %d (max_output)", size, p.limit)
	}
	if ndim > 0 {
		v.Shape = make([]int64, ndim)
		for d := range v.Shape {
			v.Shape[d] = int64(binary.LittleEndian.Uint64(meta[8*d:]))
		}
	}
	if v.DType.Dense() && !shapeHolds(v.Shape, v.DType.Size(), int64(size)) {
		return "", frameError("%d bytes for %s%v", size, v.DType, v.Shape)
	}
	name := p.reader.intern(meta[8*ndim : 8*ndim+nameLen])
	p.meta = meta[8*ndim+nameLen:]
	return name, p.locate(v, int64(size), place)
}

// locate takes note of where a value's bytes are.
func (p *payload) locate(v *Value, size int64, place uint64) error {
	area := int64(len(p.reader.area))
	switch {
	case place == placeInline:
		if uint64(size) > p.inline {
			return frameError("field of %d bytes where %d are left", size, p.inline)
		}
		p.inline -= uint64(size)
	case place >= placeEcho:
		at := place - placeEcho
		if p.given == nil || at>>16 > maxBatchSamples {
			return frameError("echo of nothing")
		}
		echoed, ok := p.given(int(at>>16), int(at&0xffff))
		if !ok || v.DType != Bytes || echoed.DType != Bytes || int64(len(echoed.Data)) != size {
			return frameError("echo of %d bytes that were not sent", size)
		}
		v.Data = echoed.Data
		p.echoed += size // one blob under many names is so many blobs wherever the result goes
		return p.check()
	case size > area || int64(place) > area-size:
		return frameError("%d bytes at %d of a shared memory of %d", size, place, area)
	}
	p.size += size
	p.places = append(p.places, spot{value: v, size: size, place: place})
	return p.check()
}

func (p *payload) check() error {
	if all := p.size + p.echoed; all > p.limit {
		return frameError("%d bytes of payload, more than %d (max_output)", all, p.limit)
	}
	return nil
}

// fetch brings the bytes of all values into one block of memory.
func (p *payload) fetch() error {
	block := p.reader.alloc(p.size)
	for _, s := range p.places {
		data := block[:s.size:s.size]
		block = block[s.size:]
		if s.place == placeInline {
			if _, err := io.ReadFull(p.reader.r, data); err != nil {
				return unexpected(err)
			}
		} else {
			copy(data, p.reader.area[s.place:])
		}
		s.value.Data = data
	}
	return nil
}

// intern keeps one string for each field name, as they repeat in every sample.
func (fr *frameReader) intern(b []byte) string {
	if s, ok := fr.names[string(b)]; ok {
		return s
	}
	s := string(b)
	if len(fr.names) < maxInterned && len(b) <= internedName {
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
