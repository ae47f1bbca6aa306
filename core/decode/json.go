package decode

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"unicode/utf8"

	"github.com/shardstream/shardstream/core/wire"
)

// Bounds of a document: what Python's json module reads without asking.
const (
	maxJSONDepth  = 256
	maxJSONDigits = 4096
)

// asJSON checks a document and hands it on as it is: the reader parses it.
func asJSON(d *Decoder, src []byte, _ *Scratch, _ Memory, dst []Value) error {
	if reason := checkJSON(src); reason != "" {
		return d.fail("%s", reason)
	}
	dst[0] = Value{DType: wire.JSON, Data: src}
	return nil
}

// checkJSON says why a document is refused, or "".
func checkJSON(src []byte) (reason string) {
	if !utf8.Valid(src) {
		return fmt.Sprintf("byte %d of the JSON is not UTF-8", invalidAt(src))
	}
	if !json.Valid(src) {
		var v json.RawMessage
		return fmt.Sprintf("%s is not JSON: %v", shown(src), json.Unmarshal(src, &v))
	}
	depth, digits, quoted := 0, 0, false
	for i := 0; i < len(src); i++ {
		c := src[i]
		switch {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c >= '0' && c <= '9':
			if digits++; digits > maxJSONDigits {
				return fmt.Sprintf("the JSON has a number of more than %d digits", maxJSONDigits)
			}
			continue
		case c == '{' || c == '[':
			if depth++; depth > maxJSONDepth {
				return fmt.Sprintf("the JSON is nested more than %d deep", maxJSONDepth)
			}
		case c == '}' || c == ']':
			depth--
		}
		digits = 0
	}
	return ""
}

// node is an object of a nested description. Its columns and those of the objects in it are [from, to).
type node struct {
	children map[string]member
	from, to int
}

// member is a column, or an object with columns of its own.
type member struct {
	inner  *node
	column int
	kind   string
}

// memberKinds are the decoders of a document's members.
var memberKinds = []string{"bool", "float", "int", "json", "text"}

// tree makes the description of an object, whose columns are named by the path to them.
func (d *Decoder) tree(path string, members map[string]any, depth int) (*node, error) {
	if depth == 0 {
		return nil, fmt.Errorf("decode: %.80q is nested more than %d deep", path, maxNesting)
	}
	if len(members) == 0 {
		return nil, fmt.Errorf("decode: %.80q names no members; write %q for the whole document", path, "json")
	}
	n := &node{children: make(map[string]member, len(members)), from: len(d.columns)}
	for _, name := range slices.Sorted(maps.Keys(members)) {
		full := path + "." + name
		switch what := members[name].(type) {
		case map[string]any:
			inner, err := d.tree(full, what, depth-1)
			if err != nil {
				return nil, err
			}
			n.children[name] = member{inner: inner}
		case string:
			if !slices.Contains(memberKinds, what) {
				return nil, fmt.Errorf("decode: there is no decoder %.80q for %.80q; members of JSON have %q", what, full, memberKinds)
			}
			n.children[name] = member{column: len(d.columns), kind: what}
			d.columns = append(d.columns, full)
		default:
			return nil, fmt.Errorf("decode: %.80q wants the name of a decoder (%q) or a map of them, not %v", full, memberKinds, what)
		}
		if len(d.columns) > maxColumns || len(full) > wire.MaxName {
			return nil, fmt.Errorf("decode: %.80q makes more columns, or a longer name, than possible", path)
		}
	}
	n.to = len(d.columns)
	return n, nil
}

// asMembers makes columns of the members that the description names.
func asMembers(d *Decoder, src []byte, s *Scratch, m Memory, dst []Value) error {
	if reason := checkJSON(src); reason != "" {
		return d.fail("%s", reason)
	}
	w := walker{decoder: d, b: src, scratch: s, memory: m, dst: dst}
	return w.object(d.members)
}

// walker walks over a document that is known to be valid.
type walker struct {
	decoder *Decoder
	b       []byte
	at      int
	scratch *Scratch
	memory  Memory
	dst     []Value
}

// peek skips space and returns the byte behind it.
func (w *walker) peek() byte {
	for {
		switch c := w.b[w.at]; c {
		case ' ', '\t', '\n', '\r':
			w.at++
		default:
			return c
		}
	}
}

// string takes a string, quotes included.
func (w *walker) string() []byte {
	from := w.at
	for w.at++; w.b[w.at] != '"'; w.at++ {
		if w.b[w.at] == '\\' {
			w.at++
		}
	}
	w.at++
	return w.b[from:w.at]
}

// skip takes a value of any kind.
func (w *walker) skip() []byte {
	c := w.peek()
	from := w.at
	switch c {
	case '"':
		return w.string()
	case '{', '[':
		depth := 0
		for {
			switch w.b[w.at] {
			case '"':
				w.string()
				continue
			case '{', '[':
				depth++
			case '}', ']':
				depth--
			}
			if w.at++; depth == 0 {
				return w.b[from:w.at]
			}
		}
	default:
		for w.at < len(w.b) && bytes.IndexByte([]byte(" \t\n\r,]}"), w.b[w.at]) < 0 {
			w.at++
		}
		return w.b[from:w.at]
	}
}

// object fills the columns of n. Of a member that comes twice the last one counts, as in Python.
func (w *walker) object(n *node) error {
	for i := n.from; i < n.to; i++ {
		w.dst[i] = Value{Absent: true}
	}
	switch w.peek() {
	case '{':
	case 'n':
		w.skip()
		return nil
	default:
		return failed(w.decoder.columns[n.from], "%s is no object that could have such a member", shown(w.skip()))
	}
	w.at++
	for w.peek() != '}' {
		name := w.string()
		w.peek()
		w.at++ // the colon
		child, ok := n.children[unquote(name)]
		var err error
		switch {
		case !ok:
			w.skip()
		case child.inner != nil:
			err = w.object(child.inner)
		default:
			err = w.leaf(child)
		}
		if err != nil {
			return err
		}
		if w.peek() == ',' {
			w.at++
			w.peek()
		}
	}
	w.at++
	return nil
}

// unquote is what a string stands for.
func unquote(quoted []byte) string {
	inner := quoted[1 : len(quoted)-1]
	if bytes.IndexByte(inner, '\\') < 0 {
		return string(inner)
	}
	var text string
	_ = json.Unmarshal(quoted, &text) // it is valid
	return text
}

// leaf fills one column.
func (w *walker) leaf(child member) error {
	v, column := &w.dst[child.column], w.decoder.columns[child.column]
	c := w.peek()
	if c == 'n' {
		w.skip()
		*v = Value{Absent: true}
		return nil
	}
	switch child.kind {
	case "json":
		return w.copied(v, wire.JSON, w.skip())
	case "text":
		if c != '"' {
			return failed(column, "%s is not a string, as text wants", shown(w.skip()))
		}
		return w.copied(v, wire.Text, []byte(unquote(w.string())))
	}
	from := w.at
	a := array{walker: w, kind: child.kind, leaf: -1}
	w.scratch.numbers = w.scratch.numbers[:0]
	if reason := a.value(0); reason != "" {
		w.at = from
		if c == '[' {
			return failed(column, "%s: %s", shown(w.skip()), reason)
		}
		return failed(column, "%s %s", shown(w.skip()), reason)
	}
	if err := w.copied(v, arrayTypes[child.kind], w.scratch.numbers); err != nil {
		return err
	}
	v.NDim, v.Dims = uint8(a.leaf), a.dims
	return nil
}

func (w *walker) copied(v *Value, dtype uint8, data []byte) error {
	b, err := w.memory.Alloc(int64(len(data)))
	if err != nil {
		return err
	}
	copy(b, data)
	*v = Value{DType: dtype, Data: b[:len(data)]}
	return nil
}

var arrayTypes = map[string]uint8{"int": wire.Int64, "float": wire.Float64, "bool": wire.Bool}

// array reads a number, or a regular array of them, into the scratch.
type array struct {
	*walker
	kind string
	leaf int // depth of the numbers; -1 until the first one
	seen [wire.MaxDims]bool
	dims [wire.MaxDims]int64
}

// value takes a value at a depth; it says why it can't, or "".
func (a *array) value(depth int) (reason string) {
	if a.peek() != '[' {
		if !a.level(depth) {
			return "its lists are of different depths"
		}
		return a.number(a.skip())
	}
	if depth == wire.MaxDims {
		return fmt.Sprintf("it has more than %d dimensions", wire.MaxDims)
	}
	a.at++
	var n int64
	for a.peek() != ']' {
		if reason := a.value(depth + 1); reason != "" {
			return reason
		}
		n++
		if a.peek() == ',' {
			a.at++
		}
	}
	a.at++
	if n == 0 && !a.level(depth+1) {
		return "its lists are of different depths"
	}
	if a.seen[depth] && a.dims[depth] != n {
		return fmt.Sprintf("its lists are of different lengths (%d and %d)", a.dims[depth], n)
	}
	a.seen[depth], a.dims[depth] = true, n
	return ""
}

// level says whether numbers may stand at a depth.
func (a *array) level(depth int) bool {
	if a.leaf < 0 {
		a.leaf = depth
	}
	return a.leaf == depth
}

func (a *array) number(token []byte) (reason string) {
	switch a.kind {
	case "bool":
		if token[0] != 't' && token[0] != 'f' {
			return "is not true or false, as bool wants"
		}
		var bit byte
		if token[0] == 't' {
			bit = 1
		}
		a.scratch.numbers = append(a.scratch.numbers, bit)
		return ""
	case "int":
		v, reason := parseInt(token)
		a.scratch.numbers = binary.LittleEndian.AppendUint64(a.scratch.numbers, uint64(v))
		return reason
	default:
		if token[0] != '-' && (token[0] < '0' || token[0] > '9') {
			return "is not a number, as float wants"
		}
		v, reason := parseFloat(token)
		a.scratch.numbers = binary.LittleEndian.AppendUint64(a.scratch.numbers, math.Float64bits(v))
		return reason
	}
}
