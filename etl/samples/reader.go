package samples

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/shardstream/shardstream/etl"
)

const (
	trusted     = 1 << 20 // bytes for which memory is taken before they have come
	maxInterned = 1024
)

// Limits bound what a Reader takes. Zero values mean no bound but those of the format.
type Limits struct {
	Samples int   // in the message
	Payload int64 // bytes of one sample
	// Answer says that the message is one: keys and names must be such as can stand in an archive, and faults may come.
	Answer bool
}

// Reader reads a message. It believes nothing: every length is bounded, and memory beyond a megabyte is taken as the
// bytes come.
type Reader struct {
	r       io.Reader
	limits  Limits
	count   uint64
	begun   bool
	err     error
	scratch []byte
	names   map[string]string
	seen    map[string]struct{} // names of the sample in hand
}

// NewReader reads a message from r, which must end with it.
func NewReader(r io.Reader, limits Limits) *Reader {
	return &Reader{r: r, limits: limits, names: make(map[string]string), seen: make(map[string]struct{})}
}

// Next reads the next item: a sample, or in an answer a *Fault in Err. It is io.EOF once the end mark was read, agrees
// with what came before it, and nothing follows; io.ErrUnexpectedEOF where the message was cut off. What it returns
// is the caller's.
func (r *Reader) Next() (etl.Result, error) {
	if r.err != nil {
		return etl.Result{}, r.err
	}
	result, err := r.next()
	if err != nil {
		r.err = err
	}
	return result, err
}

func (r *Reader) next() (etl.Result, error) {
	if !r.begun {
		var begin [len(magic)]byte
		if _, err := io.ReadFull(r.r, begin[:]); err != nil {
			return etl.Result{}, short(err)
		}
		if string(begin[:]) != magic {
			return etl.Result{}, malformed("begin with %q, not %q", begin[:], magic)
		}
		r.begun = true
	}
	var b [itemHead]byte
	if _, err := io.ReadFull(r.r, b[:]); err != nil {
		return etl.Result{}, short(err)
	}
	h := parseHead(b[:])
	if b[1] != 0 || binary.LittleEndian.Uint32(b[12:]) != 0 {
		return etl.Result{}, malformed("an item has flags that this version does not know")
	}
	if err := r.check(h); err != nil {
		return etl.Result{}, err
	}
	if h.kind == kindEnd {
		return etl.Result{}, r.end(h)
	}
	r.count++
	if h.kind == kindFault {
		return r.fault(h)
	}
	return r.sample(h)
}

type head struct {
	kind             byte
	fields           int
	description, key int
	seed, payload    uint64
}

func parseHead(b []byte) head {
	return head{
		kind:        b[0],
		fields:      int(binary.LittleEndian.Uint16(b[2:])),
		description: int(binary.LittleEndian.Uint32(b[4:])),
		key:         int(binary.LittleEndian.Uint32(b[8:])),
		seed:        binary.LittleEndian.Uint64(b[16:]),
		payload:     binary.LittleEndian.Uint64(b[24:]),
	}
}

// check holds an item's head against the bounds.
func (r *Reader) check(h head) error {
	switch {
	case h.kind == kindEnd:
		if h.fields != 0 || h.description != 0 || h.key != 0 || h.payload != 0 {
			return malformed("the end mark has a body")
		}
		return nil
	case h.kind == kindFault && r.limits.Answer:
		if h.fields != 0 || h.payload != 0 || h.key > MaxKey || h.description > MaxTraceback {
			return malformed("a fault of %d and %d bytes, %d fields", h.key, h.description, h.fields)
		}
	case h.kind != kindSample:
		return malformed("an item of kind %d", h.kind)
	case h.fields > MaxFields || h.description > MaxDescription || h.key > MaxKey:
		return malformed("%d fields described in %d bytes, key of %d", h.fields, h.description, h.key)
	case h.payload > 1<<62 || r.limits.Payload > 0 && h.payload > uint64(r.limits.Payload):
		return malformed("a sample of %d bytes where %d are allowed", h.payload, r.limits.Payload)
	}
	if r.limits.Samples > 0 && r.count >= uint64(r.limits.Samples) {
		return malformed("more than the %d samples that are allowed", r.limits.Samples)
	}
	return nil
}

// end checks the end mark and that nothing follows it.
func (r *Reader) end(h head) error {
	if h.seed != r.count {
		return malformed("the end mark counts %d samples, %d were there", h.seed, r.count)
	}
	var more [1]byte
	switch _, err := io.ReadFull(r.r, more[:]); {
	case err == nil:
		return malformed("bytes follow the end mark")
	case errors.Is(err, io.EOF):
		return io.EOF
	default:
		return err // the body was broken off after its last byte: not as it was meant
	}
}

func (r *Reader) fault(h head) (etl.Result, error) {
	text, err := r.small(h.key + h.description)
	if err != nil {
		return etl.Result{}, err
	}
	summary := strings.ToValidUTF8(string(text[:h.key]), "\uFFFD")
	return etl.Result{Err: &Fault{summary, strings.ToValidUTF8(string(text[h.key:]), "\uFFFD")}}, nil
}

func (r *Reader) sample(h head) (etl.Result, error) {
	text, err := r.small(h.key + h.description)
	if err != nil {
		return etl.Result{}, err
	}
	var result etl.Result
	result.Key = string(text[:h.key])
	result.Seed = h.seed
	if r.limits.Answer && !archivable(result.Key) {
		return etl.Result{}, malformed("the key %q can't name a sample", clip(result.Key))
	}
	sizes := make([]int, h.fields)
	if result.Fields, err = r.fields(text[h.key:], sizes, h.payload); err != nil {
		return etl.Result{}, err
	}
	data, err := r.take(int(h.payload))
	if err != nil {
		return etl.Result{}, err
	}
	for i, size := range sizes {
		result.Fields[i].Value.Data, data = data[:size:size], data[size:]
	}
	return result, nil
}

// fields parses the description of as many fields as there are sizes, and fills these in; they add up to payload.
func (r *Reader) fields(b []byte, sizes []int, payload uint64) ([]etl.Field, error) {
	fields := make([]etl.Field, len(sizes))
	clear(r.seen)
	for i := range fields {
		if len(b) < fieldHead {
			return nil, malformed("a description ends early")
		}
		name, dims := int(binary.LittleEndian.Uint16(b)), int(b[3])
		v := etl.Value{DType: etl.DType(b[2])}
		size := binary.LittleEndian.Uint64(b[4:])
		b = b[fieldHead:]
		if !v.DType.Valid() || dims > etl.MaxDims {
			return nil, malformed("%s with %d dimensions", v.DType, dims)
		}
		if len(b) < 8*dims+name {
			return nil, malformed("a description ends early")
		}
		if size > payload {
			return nil, malformed("a field of %d bytes where %d are left", size, payload)
		}
		if dims > 0 {
			v.Shape = make([]int64, dims)
			for d := range v.Shape {
				v.Shape[d] = int64(binary.LittleEndian.Uint64(b[8*d:]))
			}
		}
		if err := agrees(v, int64(size)); err != nil {
			return nil, malformed("%v", err)
		}
		b = b[8*dims:]
		fields[i] = etl.Field{Name: r.intern(b[:name]), Value: v}
		b = b[name:]
		if err := r.name(fields[i].Name); err != nil {
			return nil, err
		}
		sizes[i] = int(size)
		payload -= size
	}
	if len(b) != 0 || payload != 0 {
		return nil, malformed("%d bytes of description and %d of payload too many", len(b), payload)
	}
	return fields, nil
}

// name checks the name of a field: every one is there once, and in an answer it could be a member's.
func (r *Reader) name(name string) error {
	if _, twice := r.seen[name]; twice {
		return malformed("two fields %q in a sample", clip(name))
	}
	r.seen[name] = struct{}{}
	if r.limits.Answer && !nameable(name) {
		return malformed("%q can't be the name of a field", clip(name))
	}
	return nil
}

// small reads n bytes, a number that was checked, into memory that the next call uses again.
func (r *Reader) small(n int) ([]byte, error) {
	if n <= trusted {
		if cap(r.scratch) < n {
			r.scratch = make([]byte, n)
		}
		_, err := io.ReadFull(r.r, r.scratch[:n])
		return r.scratch[:n], short(err)
	}
	return r.take(n)
}

// take reads n bytes into memory of their own, which grows as they come.
func (r *Reader) take(n int) ([]byte, error) {
	data := make([]byte, min(n, trusted))
	for have := 0; ; {
		if _, err := io.ReadFull(r.r, data[have:]); err != nil {
			return nil, short(err)
		}
		if have = len(data); have == n {
			return data, nil
		}
		grown := min(n, 4*have)
		data = slices.Grow(data, grown-have)[:grown]
	}
}

// intern keeps one string for each field name, as they repeat in every sample.
func (r *Reader) intern(b []byte) string {
	if s, ok := r.names[string(b)]; ok {
		return s
	}
	s := string(b)
	if len(r.names) < maxInterned {
		r.names[s] = s
	}
	return s
}

// Answerable says why a sample can't be in an answer, nil where it can.
func Answerable(s *etl.Sample) error {
	if !archivable(s.Key) {
		return fmt.Errorf("the key %q can't name a sample", clip(s.Key))
	}
	for i := range s.Fields {
		name := s.Fields[i].Name
		if !nameable(name) {
			return fmt.Errorf("%q can't be the name of a field", clip(name))
		}
		if slices.ContainsFunc(s.Fields[:i], func(f etl.Field) bool { return f.Name == name }) {
			return fmt.Errorf("two fields %q in a sample", clip(name))
		}
	}
	_, _, err := measure(s)
	return err
}

// nameable says whether a field of an answer can have this name.
func nameable(name string) bool {
	return name != "" && !strings.HasPrefix(name, "__") && !strings.ContainsAny(name, "/\x00")
}

// archivable says whether a key can stand in an archive. Empty means that the sample has kept its own.
func archivable(key string) bool {
	if strings.ContainsRune(key, 0) || strings.HasPrefix(key, "/") {
		return false
	}
	return !slices.Contains(strings.Split(key, "/"), "..")
}

// short says that a message which ends here was cut off.
func short(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
