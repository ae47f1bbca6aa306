package wire

import (
	"encoding/binary"
	"fmt"
	"math/bits"
)

// Batch is the head of a FrameBatch: the samples of one batch that one target holds. A Batch is meant
// to be reused: Reset and Parse keep its memory, and the steady state allocates nothing.
type Batch struct {
	Index   int64 // of the batch in the view
	Fields  []string
	Samples []Sample
	Items   []Item // in the order of the payload

	// Most is how many samples Parse takes, where a batch has no more; 0 stands for MaxSamples. What Parse
	// allocates is bounded by it and by the head's size.
	Most int

	names map[string]string // interned field names
}

// Sample is one sample's place and status.
type Sample struct {
	Slot   int    // index within the batch
	Key    []byte // a view on the head when decoded
	Failed bool
	// Code and Message say why a sample failed; it has no items then.
	Code, Message []byte
}

// Item is one field of one sample.
type Item struct {
	Sample int // index into Samples
	Field  int // index into Fields
	DType  uint8
	NDim   uint8
	Dims   [MaxDims]int64
	Size   int64 // bytes of payload
	Sum    uint64
}

// Reset empties b for another batch.
func (b *Batch) Reset(index int64) {
	b.Index = index
	b.Fields, b.Samples, b.Items = b.Fields[:0], b.Samples[:0], b.Items[:0]
}

// Field returns the number of the named field, adding it to the dictionary when new. Batches have few
// fields, so a linear search beats a map.
func (b *Batch) Field(name string) int {
	for i, f := range b.Fields {
		if f == name {
			return i
		}
	}
	b.Fields = append(b.Fields, name)
	return len(b.Fields) - 1
}

// Payload is the sum of the items' sizes.
func (b *Batch) Payload() int64 {
	var n int64
	for i := range b.Items {
		n += b.Items[i].Size
	}
	return n
}

// Append encodes the head.
func (b *Batch) Append(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(b.Index))
	dst = binary.AppendUvarint(dst, uint64(len(b.Fields)))
	for _, f := range b.Fields {
		dst = appendString(dst, f)
	}
	dst = binary.AppendUvarint(dst, uint64(len(b.Samples)))
	for i := range b.Samples {
		dst = b.Samples[i].append(dst)
	}
	dst = binary.AppendUvarint(dst, uint64(len(b.Items)))
	for i := range b.Items {
		dst = b.Items[i].append(dst)
	}
	return dst
}

func (s *Sample) append(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(s.Slot))
	dst = binary.AppendUvarint(dst, uint64(len(s.Key)))
	dst = append(dst, s.Key...)
	if !s.Failed {
		return append(dst, 0)
	}
	dst = append(dst, 1)
	code, message := s.Code[:min(len(s.Code), MaxName)], s.Message[:min(len(s.Message), maxMessage)]
	dst = binary.AppendUvarint(dst, uint64(len(code)))
	dst = append(dst, code...)
	dst = binary.AppendUvarint(dst, uint64(len(message)))
	return append(dst, message...)
}

func (it *Item) append(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(it.Sample))
	dst = binary.AppendUvarint(dst, uint64(it.Field))
	dst = append(dst, it.DType, it.NDim)
	for _, d := range it.Dims[:it.NDim] {
		dst = binary.AppendUvarint(dst, uint64(d))
	}
	dst = binary.AppendUvarint(dst, uint64(it.Size))
	return binary.LittleEndian.AppendUint64(dst, it.Sum)
}

// Parse decodes a head into b; keys and messages are views on head. The items are checked to add up
// to exactly payload bytes and to name samples and fields that exist.
func (b *Batch) Parse(head []byte, payload int64) error {
	d := decoder{b: head}
	b.Reset(d.int())
	b.parseFields(&d)
	b.parseSamples(&d)
	b.parseItems(&d, payload)
	return d.finish()
}

func (b *Batch) parseFields(d *decoder) {
	if b.names == nil {
		b.names = make(map[string]string)
	}
	for n := d.count(MaxFields, "fields"); n > 0 && d.err == nil; n-- {
		raw := d.bytes(MaxName)
		name, ok := b.names[string(raw)]
		if !ok {
			name = string(raw)
			if len(b.names) < MaxFields {
				b.names[name] = name
			}
		}
		b.Fields = append(b.Fields, name)
	}
}

func (b *Batch) parseSamples(d *decoder) {
	most := MaxSamples
	if b.Most > 0 {
		most = min(most, b.Most)
	}
	for n := d.count(most, "samples"); n > 0 && d.err == nil; n-- {
		s := Sample{Slot: d.count(MaxSamples, "as a sample's place"), Key: d.bytes(MaxName)}
		switch d.byte() {
		case 0:
		case 1:
			s.Failed = true
			s.Code, s.Message = d.bytes(MaxName), d.bytes(maxMessage)
		default:
			d.fail("bad sample status")
		}
		b.Samples = append(b.Samples, s)
	}
}

func (b *Batch) parseItems(d *decoder, payload int64) {
	left := payload
	// No sample has a field twice.
	for n := d.count(min(MaxItems, len(b.Samples)*len(b.Fields)), "items"); n > 0 && d.err == nil; n-- {
		it := Item{Sample: d.count(MaxSamples, "as a sample"), Field: d.count(MaxFields, "as a field"), DType: d.byte(), NDim: d.byte()}
		if it.NDim > MaxDims {
			d.fail("%d dimensions, at most %d", it.NDim, MaxDims)
			return
		}
		for i := range it.Dims[:it.NDim] {
			it.Dims[i] = d.int()
		}
		it.Size, it.Sum = d.int(), d.uint64()
		if d.err != nil {
			return
		}
		if it.Sample >= len(b.Samples) || it.Field >= len(b.Fields) || b.Samples[it.Sample].Failed {
			d.fail("item of a sample or field that is not there")
			return
		}
		if !it.shapeFits() {
			d.fail("an item's shape doesn't match its size of %d bytes", it.Size)
			return
		}
		if left -= it.Size; left < 0 {
			d.fail("items are larger than the payload")
			return
		}
		b.Items = append(b.Items, it)
	}
	if left != 0 {
		d.fail("payload is %d bytes longer than its items", left)
	}
}

// The dtype codes; Bytes, Text and JSON are byte strings without a shape.
const (
	Bytes uint8 = iota
	Bool
	Uint8
	Int8
	Uint16
	Int16
	Uint32
	Int32
	Uint64
	Int64
	Float16
	Float32
	Float64
	Text
	JSON // a document that has been checked, for the reader to parse
	numDTypes
)

var itemSizes = [numDTypes]int64{0, 1, 1, 1, 2, 2, 4, 4, 8, 8, 2, 4, 8, 0, 0}

// ItemSize returns the bytes of one element of a dtype; 0 for byte strings and unknown codes.
func ItemSize(dtype uint8) int64 {
	if dtype >= numDTypes {
		return 0
	}
	return itemSizes[dtype]
}

var dtypeNames = [numDTypes]string{
	"bytes", "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64", "text", "json",
}

// DTypeName names a dtype for people.
func DTypeName(dtype uint8) string {
	if dtype >= numDTypes {
		return fmt.Sprintf("dtype %d", dtype)
	}
	return dtypeNames[dtype]
}

// IsArray says whether values of the dtype have a shape.
func IsArray(dtype uint8) bool { return ItemSize(dtype) > 0 }

// shapeFits checks dtype and dims against the size, so that no reader of the arena can be led past an item.
func (it *Item) shapeFits() bool {
	if it.DType >= numDTypes {
		return false
	}
	if !IsArray(it.DType) {
		return it.NDim == 0
	}
	n := uint64(ItemSize(it.DType))
	for _, d := range it.Dims[:it.NDim] {
		hi, lo := bits.Mul64(n, uint64(d))
		if hi != 0 || lo > MaxPayload {
			return false
		}
		n = lo
	}
	return int64(n) == it.Size
}
