// Package etl runs user functions beside the data: a Definition names Python source, and a Pool of
// worker processes applies its function to samples (dict -> dict) or whole objects (bytes -> bytes).
//
// User code never runs inside the node: it has processes of its own, is killed when it takes too
// long, and is replaced when it dies; only the sample in hand pays for that. The package knows
// nothing of objects, HTTP or the cluster: callers bring the bytes and carry the answers away.
//
//	pool, err := etl.NewPool(definition, etl.Options{})
//	results := make([]etl.Result, len(samples))
//	err = pool.Transform(ctx, nil, samples, results) // err: the pool is unusable
//	results[i].Err                              // *UserError: this sample failed
package etl

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// DType is the element type of a Value. The codes travel in frames and in batch tables: never renumber.
type DType uint8

// Element types.
const (
	Bytes   DType = 0 // a blob; Shape is nil
	Bool    DType = 1
	Uint8   DType = 2
	Int8    DType = 3
	Uint16  DType = 4
	Int16   DType = 5
	Uint32  DType = 6
	Int32   DType = 7
	Uint64  DType = 8
	Int64   DType = 9
	Float16 DType = 10
	Float32 DType = 11
	Float64 DType = 12
	Text    DType = 13 // UTF-8; Shape is nil

	numDTypes = 14
)

var dtypeSizes = [numDTypes]int64{1, 1, 1, 1, 2, 2, 4, 4, 8, 8, 2, 4, 8, 1}

var dtypeNames = [numDTypes]string{
	"bytes", "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64",
	"float16", "float32", "float64", "text",
}

// Size is the number of bytes of one element.
func (d DType) Size() int64 {
	if d >= numDTypes {
		return 0
	}
	return dtypeSizes[d]
}

// Valid says whether d is a known type.
func (d DType) Valid() bool { return d < numDTypes }

// Dense says whether values of the type are arrays or numbers with a shape, not blobs.
func (d DType) Dense() bool { return d != Bytes && d < Text }

func (d DType) String() string {
	if d >= numDTypes {
		return fmt.Sprintf("dtype(%d)", uint8(d))
	}
	return dtypeNames[d]
}

// MaxDims is the largest number of dimensions of an array.
const MaxDims = 8

// Value is what a field holds: a blob, text, a number (no dimensions) or an array, little-endian in C order.
// Shape is nil for Bytes, Text and numbers.
type Value struct {
	DType DType
	Shape []int64
	Data  []byte
}

// BytesValue is a blob.
func BytesValue(data []byte) Value { return Value{DType: Bytes, Data: data} }

// Field is one named value of a sample.
type Field struct {
	Name  string
	Value Value
}

// Sample is one sample: the members of a tar that share a key, by the extension that follows it.
type Sample struct {
	Key string
	// Seed, if not 0, seeds `random` and `numpy.random` before the call, so that what the function
	// draws depends on the sample and not on the worker that it meets.
	Seed   uint64
	Fields []Field
}

// Field finds a field by name.
func (s *Sample) Field(name string) (Value, bool) {
	for i := range s.Fields {
		if s.Fields[i].Name == name {
			return s.Fields[i].Value, true
		}
	}
	return Value{}, false
}

// Size is the number of payload bytes of all fields.
func (s *Sample) Size() int64 {
	var n int64
	for i := range s.Fields {
		n += int64(len(s.Fields[i].Value.Data))
	}
	return n
}

// Result is a transformed sample, or why there is none: a *UserError where the user's code is to blame. Its fields
// may share memory with each other, with other results of the call, and with the sample that was given.
type Result struct {
	Sample
	Err error
}

// validKey says whether a function may give a sample this key: one that can stand in an archive. Empty means
// that the key is unchanged.
func validKey(key string) bool {
	if strings.ContainsRune(key, 0) || strings.HasPrefix(key, "/") {
		return false
	}
	return !slices.Contains(strings.Split(key, "/"), "..")
}

// validName says whether a function may give a field this name, which becomes an extension in an archive.
func validName(name string) bool {
	return name != "" && len(name) <= maxName && !strings.HasPrefix(name, "__") && !strings.ContainsAny(name, "/\x00") && utf8.ValidString(name)
}

// clip shortens text that came from outside for a message.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "..."
}
