// Package etl runs user functions beside the data: a Definition names Python source, and a Pool of
// worker processes applies its function to samples (dict -> dict) or whole objects (bytes -> bytes).
//
// User code never runs inside the node: it has processes of its own, is killed when it takes too
// long, and is replaced when it dies; only the sample in hand pays for that. The package knows
// nothing of objects, HTTP or the cluster: callers bring the bytes and carry the answers away.
//
//	pool, err := etl.NewPool(definition, etl.Options{})
//	results := make([]etl.Result, len(samples))
//	err = pool.Transform(ctx, samples, results) // err: the pool is unusable
//	results[i].Err                              // *UserError: this sample failed
package etl

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
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

// Result is a transformed sample, or why there is none: a *UserError where the user's code is to blame.
type Result struct {
	Sample
	Err error
}

// Levels of a definition.
const (
	LevelSample = "sample" // def transform(sample: dict) -> dict
	LevelObject = "object" // def transform(data: bytes) -> bytes
)

// Defaults and bounds of a definition.
const (
	DefaultEntry   = "transform"
	DefaultTimeout = 30 * time.Second
	MaxSource      = 1 << 20
	MaxTimeout     = time.Hour
	MaxWorkers     = 256
)

// Definition is a deployed transformation. Zero values of Entry, Level, Workers and Timeout mean the defaults.
type Definition struct {
	Name         string
	Source       string // Python
	Entry        string // function in Source
	Level        string
	Requirements []string // "pillow", "numpy>=1.26": must be installed where the workers run
	Workers      int      // processes; 0 is one per CPU
	Timeout      time.Duration
	Version      int64
}

var (
	nameRE  = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)
	entryRE = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)
)

// ValidName says whether name can be an ETL's name.
func ValidName(name string) bool { return nameRE.MatchString(name) }

// WithDefaults fills what was left at zero.
func (d Definition) WithDefaults() Definition {
	if d.Entry == "" {
		d.Entry = DefaultEntry
	}
	if d.Level == "" {
		d.Level = LevelSample
	}
	if d.Timeout == 0 {
		d.Timeout = DefaultTimeout
	}
	return d
}

// Validate checks everything but the source itself; the error is a *DefinitionError.
func (d Definition) Validate() error {
	d = d.WithDefaults()
	switch {
	case !ValidName(d.Name):
		return &DefinitionError{"name", fmt.Sprintf("%q: use 1 to 63 of a-z, 0-9, _ and -, beginning with a letter or digit", clip(d.Name, 80))}
	case strings.TrimSpace(d.Source) == "":
		return &DefinitionError{"source", "is empty: give the Python source that defines the function"}
	case len(d.Source) > MaxSource:
		return &DefinitionError{"source", fmt.Sprintf("has %d bytes, more than %d", len(d.Source), MaxSource)}
	case strings.ContainsRune(d.Source, 0):
		return &DefinitionError{"source", "contains a NUL byte"}
	case !entryRE.MatchString(d.Entry):
		return &DefinitionError{"entry", fmt.Sprintf("%q is not the name of a Python function", clip(d.Entry, 80))}
	case d.Level != LevelSample && d.Level != LevelObject:
		return &DefinitionError{"level", fmt.Sprintf("%q: use %q or %q", clip(d.Level, 80), LevelSample, LevelObject)}
	case d.Workers < 0 || d.Workers > MaxWorkers:
		return &DefinitionError{"workers", fmt.Sprintf("%d: use 0 (one per CPU) to %d", d.Workers, MaxWorkers)}
	case d.Timeout < time.Millisecond || d.Timeout > MaxTimeout:
		return &DefinitionError{"timeout_s", fmt.Sprintf("%s: use 1ms to %s", d.Timeout, MaxTimeout)}
	case len(d.Requirements) > 100:
		return &DefinitionError{"requirements", "more than 100"}
	}
	for _, r := range d.Requirements {
		if strings.TrimSpace(r) == "" || len(r) > 200 || strings.ContainsAny(r, "\x00\n\r") {
			return &DefinitionError{"requirements", fmt.Sprintf("%q is not a requirement such as \"pillow>=10\"", clip(r, 80))}
		}
	}
	return nil
}

// validKey says whether a function may give a sample this key: one that can stand in an archive. Empty means
// that the key is unchanged.
func validKey(key string) bool {
	if strings.ContainsRune(key, 0) || strings.HasPrefix(key, "/") {
		return false
	}
	return !slices.Contains(strings.Split(key, "/"), "..")
}

// clip shortens text that came from outside for a message.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "..."
}
