package etl

import (
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// File renders a field as a member of an archive: its extension and its bytes. Blobs and text stay as they are,
// numbers become ASCII, arrays a .npy file under the field's name with .npy appended. The bytes may be
// the value's own.
func (f *Field) File() (extension string, data []byte) {
	v := f.Value
	switch {
	case !v.DType.Dense():
		return f.Name, v.Data
	case len(v.Shape) == 0:
		return f.Name, []byte(v.number())
	}
	extension = f.Name
	if !strings.HasSuffix(extension, ".npy") && extension != "npy" {
		extension += ".npy"
	}
	return extension, append(npyHeader(v.DType, v.Shape), v.Data...)
}

// number is a 0-d value as text.
func (v *Value) number() string {
	le, d := binary.LittleEndian, v.Data
	if int64(len(d)) != v.DType.Size() {
		return ""
	}
	switch v.DType {
	case Bool, Uint8:
		return strconv.FormatUint(uint64(d[0]), 10)
	case Int8:
		return strconv.FormatInt(int64(int8(d[0])), 10)
	case Uint16:
		return strconv.FormatUint(uint64(le.Uint16(d)), 10)
	case Int16:
		return strconv.FormatInt(int64(int16(le.Uint16(d))), 10)
	case Uint32:
		return strconv.FormatUint(uint64(le.Uint32(d)), 10)
	case Int32:
		return strconv.FormatInt(int64(int32(le.Uint32(d))), 10)
	case Uint64:
		return strconv.FormatUint(le.Uint64(d), 10)
	case Int64:
		return strconv.FormatInt(int64(le.Uint64(d)), 10)
	case Float16:
		return strconv.FormatFloat(float16(le.Uint16(d)), 'g', -1, 32)
	case Float32:
		return strconv.FormatFloat(float64(math.Float32frombits(le.Uint32(d))), 'g', -1, 32)
	case Float64:
		return strconv.FormatFloat(math.Float64frombits(le.Uint64(d)), 'g', -1, 64)
	}
	return ""
}

// float16 widens an IEEE half.
func float16(bits uint16) float64 {
	exponent, fraction := int(bits>>10&0x1f), float64(bits&0x3ff)
	value := math.Ldexp(fraction+1024, exponent-25)
	switch exponent {
	case 0:
		value = math.Ldexp(fraction, -24)
	case 0x1f:
		if value = math.Inf(1); fraction != 0 {
			value = math.NaN()
		}
	}
	if bits>>15 == 1 {
		value = -value
	}
	return value
}

var npyTypes = [numDTypes]string{
	"", "|b1", "|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f2", "<f4", "<f8", "",
}

// npyHeader begins a .npy file, format version 1.0: the header is padded so that the data are 64-aligned.
func npyHeader(dtype DType, shape []int64) []byte {
	var dims strings.Builder
	for i, d := range shape {
		if i > 0 {
			dims.WriteByte(' ')
		}
		fmt.Fprintf(&dims, "%d,", d)
	}
	text := strings.TrimSuffix(dims.String(), ",")
	if len(shape) == 1 {
		text += ","
	}
	header := fmt.Sprintf("{'descr': '%s', 'fortran_order': False, 'shape': (%s), }", npyTypes[dtype], text)
	const prefix = 10
	padding := 63 - (prefix+len(header))%64
	out := append([]byte("\x93NUMPY\x01\x00"), 0, 0)
	binary.LittleEndian.PutUint16(out[8:], uint16(len(header)+padding+1))
	out = append(out, header...)
	out = append(out, strings.Repeat(" ", padding)...)
	return append(out, '\n')
}
