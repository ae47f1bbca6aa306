package loader

import (
	"encoding/binary"

	"github.com/shardstream/shardstream/core/wire"
	"github.com/shardstream/shardstream/sampler"
)

// The table that describes a finished batch lies behind its payload, 64-aligned, in little-endian int64
// words; offsets are absolute in the slot. Python reads it without a call into Go.
//
//	0 magic | 1 samples n | 2 columns | 3 batch index | 4 start position | 5 next position | 6 flags |
//	7 table bytes | 8 keys offset | 9 keys length | 10 offset of int64[n] ends of keys |
//	11 offset of uint8[n] mask (1 real, 0 padding), 0 where no row can be padding | 12 samples skipped |
//	13 offset of int64[n] numbers of the sources in a mixture, 0 in a stream of one | 14-15 zero
//
// then 16 words for each column:
//
//	0 name offset | 1 name length | 2 dtype | 3 kind (0 dense, 1 ragged) | 4 dimensions of an item | 5-12 dims |
//	13 dense: offset of [n, *dims]; ragged: offset of int64[n][2] (offset, length), length -1 = no such field |
//	14 ragged arrays: offset of int64[n][9] (dimensions, dims); 0 for byte strings | 15 zero
const (
	tableMagic  = 0x53535441424c0001
	headWords   = 16
	columnWords = 16
	shapeWords  = 1 + wire.MaxDims

	kindDense  = 0
	kindRagged = 1
)

// table writes words and blobs behind a batch's payload.
type table struct {
	mem  []byte
	at   int64 // of the table
	next int64 // of the next blob
}

func (t *table) word(i int, v int64) {
	binary.LittleEndian.PutUint64(t.mem[t.at+int64(i)*8:], uint64(v))
}

func (t *table) words(n int) int64 {
	off := t.next
	t.next += int64(n) * 8
	return off
}

func (t *table) put(off int64, i int, v int64) {
	binary.LittleEndian.PutUint64(t.mem[off+int64(i)*8:], uint64(v))
}

func (t *table) blob(b []byte) int64 {
	off := t.next
	copy(t.mem[off:], b)
	t.next += int64(len(b)+7) &^ 7
	return off
}

// finish arranges the rows of a complete batch, writes its table and returns its offset. Turns are those of a
// mixture, nil for a stream of one source.
func (b *batch) finish(turns *sampler.Turns) (int64, error) {
	n := len(b.rows)
	size := int64(headWords+b.ncols*columnWords) * 8
	size += b.keyBytes() + int64(n)*8 + int64(n+8) + int64(n)*8
	for i := range b.cols[:b.ncols] {
		size += int64(len(b.cols[i].name)+8) + int64(n)*8*(2+shapeWords)
	}
	if err := b.gather(); err != nil {
		return 0, err
	}
	at, err := b.slot.alloc(size)
	if err != nil {
		return 0, err
	}
	t := &table{mem: b.slot.mem, at: at, next: at + int64(headWords+b.ncols*columnWords)*8}
	clear(t.mem[at:t.next])
	for i, v := range []int64{
		tableMagic, int64(n), int64(b.ncols), b.index, b.spec.Start, b.spec.Next, 0, 0,
	} {
		t.word(i, v)
	}
	b.writeKeys(t)
	if len(b.mask) > 0 {
		t.word(11, t.blob(b.mask))
		t.word(6, 1)
	}
	t.word(12, int64(len(b.failures)))
	if turns != nil {
		sources := t.words(n)
		t.word(13, sources)
		for i, at := range b.rows {
			part, _ := turns.At(b.spec.Start + int64(at))
			t.put(sources, i, int64(part))
		}
	}
	for i := range b.cols[:b.ncols] {
		b.writeColumn(t, headWords+i*columnWords, &b.cols[i])
	}
	t.word(7, t.next-at)
	return at, nil
}

// keyBytes bounds what the keys of the rows take: rows of padding repeat those of samples.
func (b *batch) keyBytes() int64 {
	n := int64(8)
	for _, at := range b.rows {
		n += int64(b.keyAt[at][1] - b.keyAt[at][0])
	}
	return n
}

func (b *batch) writeKeys(t *table) {
	ends := t.words(len(b.rows))
	start := t.next
	var end int64
	for i, at := range b.rows {
		key := b.keys[b.keyAt[at][0]:b.keyAt[at][1]]
		copy(t.mem[start+end:], key)
		end += int64(len(key))
		t.put(ends, i, end)
	}
	t.next = start + (end+7)&^7
	t.word(8, start)
	t.word(9, end)
	t.word(10, ends)
}

func (b *batch) writeColumn(t *table, w int, c *column) {
	t.word(w, t.blob([]byte(c.name)))
	t.word(w+1, int64(len(c.name)))
	t.word(w+2, int64(c.dtype))
	if wire.IsArray(c.dtype) && c.dense(b.rows) {
		b.pack(c)
		t.word(w+3, kindDense)
		t.word(w+4, int64(c.ndim))
		for i, d := range c.dims[:c.ndim] {
			t.word(w+5+i, d)
		}
		t.word(w+13, c.base)
		return
	}
	t.word(w+3, kindRagged)
	entries := t.words(2 * len(b.rows))
	t.word(w+13, entries)
	for i, at := range b.rows {
		t.put(entries, 2*i, c.entries[at].off)
		t.put(entries, 2*i+1, c.entries[at].size)
	}
	if !wire.IsArray(c.dtype) {
		return
	}
	shapes := t.words(shapeWords * len(b.rows))
	t.word(w+14, shapes)
	for i, at := range b.rows {
		e := &c.entries[at]
		t.put(shapes, shapeWords*i, int64(e.ndim))
		for d := range e.dims {
			t.put(shapes, shapeWords*i+1+d, e.dims[d])
		}
	}
}

// dense says whether every row has the field in the column's one shape.
func (c *column) dense(rows []int) bool {
	if c.ragged {
		return false
	}
	for _, at := range rows {
		if c.entries[at].size < 0 {
			return false
		}
	}
	return true
}

// gather makes the dense form of columns with items that could not go to their places in it. Where some
// place may still be written to, no row must come to lie there either.
func (b *batch) gather() error {
	for i := range b.cols[:b.ncols] {
		c := &b.cols[i]
		if !c.strayed && !b.tainted || !wire.IsArray(c.dtype) || !c.dense(b.rows) {
			continue
		}
		base, err := b.slot.alloc(c.itemSize * int64(b.size))
		if err != nil {
			return err
		}
		for _, at := range b.rows {
			copy(b.slot.mem[base+int64(at)*c.itemSize:][:c.itemSize], b.slot.mem[c.entries[at].off:])
		}
		c.base = base
	}
	return nil
}

// pack brings the rows of a dense column to their places: over the gaps of failed samples, or into them. A
// row that is shown elsewhere too is never overwritten before: rows only move to the front, or stay and are
// repeated.
func (b *batch) pack(c *column) {
	for i, at := range b.rows {
		if i != at {
			copy(b.slot.mem[c.base+int64(i)*c.itemSize:][:c.itemSize], b.slot.mem[c.base+int64(at)*c.itemSize:])
		}
	}
}
