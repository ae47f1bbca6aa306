// Package decode turns the bytes of a sample's field into typed values: an image into pixels, the text of
// a number into the number, an .npy file into its array, members of a JSON document into columns of their
// own. It works on bytes alone and keeps nothing; where values lie is the caller's choice (Memory), so that
// the steady state of everything but images allocates nothing.
//
// A Plan is made once from a description such as {"jpg": "rgb8", "json": {"label": "int"}} and is safe for
// concurrent use; each goroutine that decodes brings a Scratch of its own. Whatever the bytes are, decoding
// ends in values or in an *Error that names the column and what was wrong, and takes no more memory than
// the bounds below allow.
package decode

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/shardstream/shardstream/core/wire"
)

// Bounds of a plan.
const (
	maxColumns = 1024
	maxNesting = 16
)

// Error says why a value could not be decoded.
type Error struct {
	Column string
	Reason string
}

func (e *Error) Error() string { return fmt.Sprintf("field %q: %s", e.Column, e.Reason) }

// Value is one decoded value, in the terms of package wire. An absent one is a member that a JSON document
// lacks, or null.
type Value struct {
	DType  uint8
	NDim   uint8
	Dims   [wire.MaxDims]int64
	Data   []byte
	Absent bool
}

// Memory gives out the bytes in which values lie.
type Memory interface {
	// Alloc returns n bytes of any content, the caller's until it reuses them.
	Alloc(n int64) ([]byte, error)
}

// Scratch is a goroutine's working memory.
type Scratch struct {
	// Large, where it is set, is held while an image that takes much memory is decoded, so that goroutines
	// that share it do so one at a time.
	Large sync.Locker

	numbers []byte
	rows    [3][]byte
}

// Decoder makes one or more columns of one field.
type Decoder struct {
	columns []string
	kind    kind
	members *node // of a nested JSON description
}

// kind is a decoder's name and how it works.
type kind struct {
	name string
	// inPlace says that values are views on the source.
	inPlace bool
	// weight is about how many times the work of copying a byte decoding one takes.
	weight int64
	decode func(d *Decoder, src []byte, s *Scratch, m Memory, dst []Value) error
}

var kinds = []kind{
	{name: "bytes", inPlace: true, weight: 1, decode: asBytes},
	{name: "float", weight: 1, decode: asFloat},
	{name: "gray8", weight: 16, decode: asImage(1)},
	{name: "int", weight: 1, decode: asInt},
	{name: "json", inPlace: true, weight: 4, decode: asJSON},
	{name: "npy", inPlace: true, weight: 1, decode: asNPY},
	{name: "rgb8", weight: 16, decode: asImage(3)},
	{name: "rgba8", weight: 16, decode: asImage(4)},
	{name: "text", inPlace: true, weight: 2, decode: asText},
}

var nested = kind{name: "json", weight: 4, decode: asMembers}

// Names lists the decoders.
func Names() []string {
	out := make([]string, len(kinds))
	for i := range kinds {
		out[i] = kinds[i].name
	}
	return out
}

func kindOf(name string) (kind, bool) {
	i := slices.IndexFunc(kinds, func(k kind) bool { return k.name == name })
	if i < 0 {
		return kind{}, false
	}
	return kinds[i], true
}

// Plan says which fields are decoded, and how.
type Plan struct {
	fields  map[string]*Decoder
	columns map[string]bool
}

// Parse makes a plan of a description: for each field the name of a decoder, or for a JSON document a map
// from its members to decoders, nested as the document is. It is nil where nothing is to be decoded.
func Parse(description map[string]any) (*Plan, error) {
	if len(description) == 0 {
		return nil, nil
	}
	p := &Plan{fields: make(map[string]*Decoder, len(description)), columns: map[string]bool{}}
	for _, field := range slices.Sorted(maps.Keys(description)) {
		d, err := newDecoder(field, description[field])
		if err != nil {
			return nil, err
		}
		for _, c := range d.columns {
			if p.columns[c] {
				return nil, fmt.Errorf("decode makes the column %q twice", c)
			}
			p.columns[c] = true
		}
		if len(p.columns) > maxColumns {
			return nil, fmt.Errorf("decode makes more than %d columns", maxColumns)
		}
		p.fields[field] = d
	}
	return p, nil
}

func newDecoder(field string, what any) (*Decoder, error) {
	if field == "" || len(field) > wire.MaxName {
		return nil, fmt.Errorf("decode names a field of %d bytes; 1 to %d are possible", len(field), wire.MaxName)
	}
	switch what := what.(type) {
	case string:
		k, ok := kindOf(what)
		if !ok {
			return nil, fmt.Errorf("decode: there is no decoder %.80q for field %.80q; there are %s, and for members of JSON {\"member\": decoder}", what, field, strings.Join(Names(), ", "))
		}
		return &Decoder{columns: []string{field}, kind: k}, nil
	case map[string]any:
		d := &Decoder{kind: nested}
		var err error
		d.members, err = d.tree(field, what, maxNesting)
		return d, err
	default:
		return nil, fmt.Errorf("decode: field %.80q wants the name of a decoder (%s) or, for JSON, a map of them, not %v", field, strings.Join(Names(), ", "), what)
	}
}

// Decoder is the decoder of a field; nil where the field is sent as it is.
func (p *Plan) Decoder(field string) *Decoder {
	if p == nil {
		return nil
	}
	return p.fields[field]
}

// Makes says that a column of that name comes out of a decoder.
func (p *Plan) Makes(column string) bool { return p != nil && p.columns[column] }

// Fields lists the fields that are decoded, sorted.
func (p *Plan) Fields() []string {
	if p == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(p.fields))
}

// Columns names the columns that the decoder makes, in the order of its values.
func (d *Decoder) Columns() []string { return d.columns }

// InPlace says that the values may be views on the source, which then has to live as long as they do.
func (d *Decoder) InPlace() bool { return d.kind.inPlace }

// Work is about how much work a source of so many bytes makes, in bytes to be copied.
func (d *Decoder) Work(size int64) int64 { return size * d.kind.weight }

// Decode appends a value for each of the decoder's columns to dst. Its errors are an *Error, or what m
// could not give.
func (d *Decoder) Decode(src []byte, s *Scratch, m Memory, dst []Value) (values []Value, err error) {
	n := len(dst)
	defer func() {
		// Image decoders are large, and not ours: one bad sample must not take the node down.
		if r := recover(); r != nil {
			values, err = dst[:n], d.fail("the decoder %s failed on %d bytes: %v", d.kind.name, len(src), r)
		}
	}()
	for range d.columns {
		dst = append(dst, Value{})
	}
	if err := d.kind.decode(d, src, s, m, dst[n:]); err != nil {
		return dst[:n], err
	}
	return dst, nil
}

func (d *Decoder) fail(format string, args ...any) error {
	return failed(d.columns[0], format, args...)
}

func failed(column, format string, args ...any) error {
	return &Error{Column: column, Reason: fmt.Sprintf(format, args...)}
}

// maxShown is how much of a bad value an error quotes.
const maxShown = 40

// shown quotes the beginning of a value.
func shown(b []byte) string {
	if len(b) > maxShown {
		return fmt.Sprintf("%q...", b[:maxShown])
	}
	return fmt.Sprintf("%q", b)
}
