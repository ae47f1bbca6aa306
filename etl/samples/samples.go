// Package samples is how samples travel over HTTP between a node and an ETL server: the body of POST /samples and of
// its answer. Python's twin is python/src/shardstream/etl/_samples.py.
//
// A message is a magic, items one after another, and an end mark that counts them, so that a short body can't look
// whole. Everything is little-endian:
//
//	message: "SSB1" | item ... | end
//	item:    kind u8, 0 u8, fields u16, description u32, key u32, 0 u32, seed u64, payload u64 | key | field ... | payloads
//	field:   name u16, dtype u8, dimensions u8, bytes u64 | i64 for each dimension | name
//
// An item of kind 1 is a sample. One of kind 2 stands, in an answer, for a sample that failed: the place of the key
// holds a line that says why, that of the fields the traceback. Kind 3 is the end mark, whose seed is the number of
// items before it. An answer has one item for each of the request, in the same order; an empty key in it means that
// the sample has kept its own.
package samples

import (
	"errors"
	"fmt"
	"math"

	"github.com/shardstream/shardstream/etl"
)

// ContentType is that of requests and answers.
const ContentType = "application/x-shardstream-samples"

// Bounds of a message, which both ends hold to.
const (
	MaxFields      = 4096
	MaxKey         = 64 << 10
	MaxDescription = 8 << 20
	MaxTraceback   = 64 << 10
)

const (
	magic     = "SSB1"
	itemHead  = 32
	fieldHead = 12

	kindSample = 1
	kindFault  = 2
	kindEnd    = 3
)

// ErrMalformed is what is wrong with a message that can't be read.
var ErrMalformed = errors.New("malformed samples")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

// Fault is why a sample failed, as the server tells it.
type Fault struct {
	Summary   string // one line: "ValueError: bad image"
	Traceback string // may be empty
}

func (f *Fault) Error() string {
	if f.Traceback == "" {
		return f.Summary
	}
	return f.Summary + "\n" + f.Traceback
}

// measure says how large the description and the payload of a sample are, or why it can't travel.
func measure(s *etl.Sample) (description, payload int64, err error) {
	for i := range s.Fields {
		f := &s.Fields[i]
		if len(f.Name) > math.MaxUint16 || !f.Value.DType.Valid() || len(f.Value.Shape) > etl.MaxDims {
			return 0, 0, fmt.Errorf("field %q of sample %q can't travel", clip(f.Name), clip(s.Key))
		}
		if err := agrees(f.Value, int64(len(f.Value.Data))); err != nil {
			return 0, 0, fmt.Errorf("field %q of sample %q: %w", clip(f.Name), clip(s.Key), err)
		}
		description += fieldHead + 8*int64(len(f.Value.Shape)) + int64(len(f.Name))
		payload += int64(len(f.Value.Data))
	}
	if description > MaxDescription || len(s.Fields) > MaxFields || len(s.Key) > MaxKey {
		return 0, 0, fmt.Errorf("sample %q has more fields or longer names than can travel", clip(s.Key))
	}
	return description, payload, nil
}

// agrees says whether a value's type and shape belong to size bytes.
func agrees(v etl.Value, size int64) error {
	if !v.DType.Dense() {
		if len(v.Shape) > 0 {
			return fmt.Errorf("%s has no dimensions", v.DType)
		}
		return nil
	}
	total, empty := v.DType.Size(), false
	for _, d := range v.Shape {
		switch {
		case d < 0:
			return fmt.Errorf("shape %v", v.Shape)
		case d == 0:
			empty = true
		case total > math.MaxInt64/d:
			return fmt.Errorf("shape %v", v.Shape)
		default:
			total *= d
		}
	}
	if empty {
		total = 0
	}
	if total != size {
		return fmt.Errorf("%d bytes for %s%v", size, v.DType, v.Shape)
	}
	return nil
}

// clip shortens what came from outside for a message.
func clip(s string) string {
	if len(s) <= 200 {
		return s
	}
	return s[:200] + "..."
}
