package decode

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/bits"
	"strconv"
	"strings"

	"github.com/shardstream/shardstream/core/wire"
)

const (
	npyMagic     = "\x93NUMPY"
	maxNPYHeader = 64 << 10
)

var npyTypes = map[string]uint8{
	"b1": wire.Bool, "u1": wire.Uint8, "i1": wire.Int8, "u2": wire.Uint16, "i2": wire.Int16, "u4": wire.Uint32,
	"i4": wire.Int32, "u8": wire.Uint64, "i8": wire.Int64, "f2": wire.Float16, "f4": wire.Float32, "f8": wire.Float64,
}

// asNPY reads an array as numpy.save writes it: the values are a view on the source.
func asNPY(d *Decoder, src []byte, _ *Scratch, _ Memory, dst []Value) error {
	header, data, reason := splitNPY(src)
	if reason != "" {
		return d.fail("%s", reason)
	}
	p := npyHeader{text: header}
	if err := p.parse(); err != nil {
		return d.fail("the header of the .npy does not parse: %v", err)
	}
	dtype, reason := p.dtype()
	if reason == "" && p.fortran && len(p.shape) > 1 {
		reason = "the .npy is in Fortran order; save it with numpy.ascontiguousarray"
	}
	if reason == "" && len(p.shape) > wire.MaxDims {
		reason = fmt.Sprintf("the .npy has %d dimensions, at most %d are possible", len(p.shape), wire.MaxDims)
	}
	if reason != "" {
		return d.fail("%s", reason)
	}
	v := Value{DType: dtype, NDim: uint8(len(p.shape)), Data: data}
	size := uint64(wire.ItemSize(dtype))
	for i, n := range p.shape {
		v.Dims[i] = n
		hi, lo := bits.Mul64(size, uint64(n))
		if hi != 0 || lo > wire.MaxPayload {
			return d.fail("the .npy claims a shape of %v, which is more than it can hold", p.shape)
		}
		size = lo
	}
	if uint64(len(data)) != size {
		return d.fail("the .npy has %d bytes of values where its shape %v of %s takes %d; it is cut off, or no .npy", len(data), p.shape, wire.DTypeName(dtype), size)
	}
	dst[0] = v
	return nil
}

// splitNPY finds header and values, or says why there are none.
func splitNPY(src []byte) (header string, data []byte, reason string) {
	if !bytes.HasPrefix(src, []byte(npyMagic)) || len(src) < 10 {
		return "", nil, "not an .npy file (it begins with " + shown(src[:min(len(src), 8)]) + ")"
	}
	from, length := 10, int(binary.LittleEndian.Uint16(src[8:]))
	switch src[6] {
	case 1:
	case 2, 3:
		if len(src) < 12 {
			return "", nil, "the .npy is cut off in its header"
		}
		from, length = 12, int(binary.LittleEndian.Uint32(src[8:]))
	default:
		return "", nil, fmt.Sprintf("an .npy of version %d.%d, which is not known", src[6], src[7])
	}
	if length > maxNPYHeader {
		return "", nil, fmt.Sprintf("the .npy claims a header of %d bytes", length)
	}
	if length > len(src)-from {
		return "", nil, "the .npy is cut off in its header"
	}
	return string(src[from : from+length]), src[from+length:], ""
}

// npyHeader reads the dict literal of an .npy header.
type npyHeader struct {
	text    string
	descr   string
	fortran bool
	shape   []int64
}

func (p *npyHeader) parse() error {
	if !p.take("{") {
		return fmt.Errorf("it is no dict")
	}
	seen := 0
	for !p.take("}") {
		key, err := p.quoted()
		if err != nil {
			return err
		}
		if !p.take(":") {
			return fmt.Errorf("%q has no value", key)
		}
		if err := p.value(key); err != nil {
			return err
		}
		seen++
		if !p.take(",") && !strings.HasPrefix(p.text, "}") {
			return fmt.Errorf("what follows the value of %q is no comma", key)
		}
	}
	if seen != 3 || p.shape == nil || p.descr == "" {
		return fmt.Errorf("it has not the keys descr, fortran_order and shape")
	}
	return nil
}

func (p *npyHeader) value(key string) (err error) {
	switch key {
	case "descr":
		if strings.HasPrefix(p.text, "[") {
			return fmt.Errorf("a structured dtype can't be a column; save its parts one by one")
		}
		p.descr, err = p.quoted()
	case "fortran_order":
		p.fortran = p.take("True")
		if !p.fortran && !p.take("False") {
			err = fmt.Errorf("fortran_order is neither True nor False")
		}
	case "shape":
		err = p.tuple()
	default:
		err = fmt.Errorf("it has a key %.20q", key)
	}
	return err
}

// take skips a token and the spaces behind it, where it is next.
func (p *npyHeader) take(token string) bool {
	rest, ok := strings.CutPrefix(p.text, token)
	if ok {
		p.text = strings.TrimLeft(rest, " \n")
	}
	return ok
}

func (p *npyHeader) quoted() (string, error) {
	for _, quote := range []string{"'", `"`} {
		if rest, ok := strings.CutPrefix(p.text, quote); ok {
			if text, rest, ok := strings.Cut(rest, quote); ok {
				p.text = strings.TrimLeft(rest, " \n")
				return text, nil
			}
		}
	}
	return "", fmt.Errorf("there is no string where one should be")
}

func (p *npyHeader) tuple() error {
	if !p.take("(") {
		return fmt.Errorf("shape is no tuple")
	}
	p.shape = []int64{}
	for !p.take(")") {
		n := 0
		for n < len(p.text) && p.text[n] >= '0' && p.text[n] <= '9' {
			n++
		}
		v, err := strconv.ParseInt(p.text[:n], 10, 64)
		if err != nil {
			return fmt.Errorf("shape is no tuple of whole numbers")
		}
		p.text = p.text[n:]
		p.take("L") // Python 2 wrote long numbers so
		p.take(" ")
		if p.shape = append(p.shape, v); !p.take(",") && !strings.HasPrefix(p.text, ")") {
			return fmt.Errorf("shape is no tuple of whole numbers")
		}
	}
	return nil
}

// dtype is the type of the values, or why it can't be a column.
func (p *npyHeader) dtype() (dtype uint8, reason string) {
	order, name := p.descr[:1], p.descr[1:]
	dtype, ok := npyTypes[name]
	switch {
	case name == "O" || strings.HasPrefix(name, "O"):
		return 0, "the .npy holds Python objects; save it as an array of numbers"
	case !ok:
		return 0, fmt.Sprintf("the .npy is of dtype %.20q, which no column has; convert it to bool, int, uint or float", p.descr)
	case order == ">":
		return 0, fmt.Sprintf("the .npy is big-endian (%s); save it with .astype(%q)", p.descr, "<"+name)
	case order != "<" && order != "|" && order != "=":
		return 0, fmt.Sprintf("the .npy is of dtype %.20q, which is not known", p.descr)
	}
	return dtype, ""
}
