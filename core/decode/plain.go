package decode

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"strconv"
	"unicode/utf8"

	"github.com/shardstream/shardstream/core/wire"
)

// maxDigits bounds the text of a number: what has more is no label but a file that was taken for one.
const maxDigits = 512

func asBytes(_ *Decoder, src []byte, _ *Scratch, _ Memory, dst []Value) error {
	dst[0] = Value{DType: wire.Bytes, Data: src}
	return nil
}

func asText(d *Decoder, src []byte, _ *Scratch, _ Memory, dst []Value) error {
	if !utf8.Valid(src) {
		at := invalidAt(src)
		return d.fail("byte %d (%#02x) is not UTF-8, as text has to be; decode it as bytes", at, src[at])
	}
	dst[0] = Value{DType: wire.Text, Data: src}
	return nil
}

// invalidAt finds the first byte that is not UTF-8.
func invalidAt(b []byte) int {
	at := 0
	for {
		r, n := utf8.DecodeRune(b[at:])
		if r == utf8.RuneError && n < 2 {
			return at
		}
		at += n
	}
}

func asInt(d *Decoder, src []byte, _ *Scratch, m Memory, dst []Value) error {
	v, reason := parseInt(bytes.TrimSpace(src))
	if reason != "" {
		return d.fail("%s %s", shown(src), reason)
	}
	return scalar(&dst[0], m, wire.Int64, uint64(v))
}

func asFloat(d *Decoder, src []byte, _ *Scratch, m Memory, dst []Value) error {
	v, reason := parseFloat(bytes.TrimSpace(src))
	if reason != "" {
		return d.fail("%s %s", shown(src), reason)
	}
	return scalar(&dst[0], m, wire.Float64, math.Float64bits(v))
}

func scalar(v *Value, m Memory, dtype uint8, bits uint64) error {
	b, err := m.Alloc(8)
	if err != nil {
		return err
	}
	binary.LittleEndian.PutUint64(b, bits)
	*v = Value{DType: dtype, Data: b}
	return nil
}

// parseInt reads a whole number, or says why there is none.
func parseInt(b []byte) (v int64, reason string) {
	if len(b) == 0 {
		return 0, "is empty, where int wants a whole number"
	}
	if len(b) > maxDigits {
		return 0, "is too long for the whole number that int wants"
	}
	v, err := strconv.ParseInt(string(b), 10, 64)
	switch {
	case err == nil:
		return v, ""
	case errors.Is(err, strconv.ErrRange):
		return 0, "does not fit into int64; decode it as text, or as float"
	default:
		return 0, "is not a whole number, as int wants"
	}
}

// parseFloat reads a number, nan or inf, or says why there is none. Go's hexadecimal floats and
// underscores are no numbers elsewhere.
func parseFloat(b []byte) (v float64, reason string) {
	if len(b) == 0 {
		return 0, "is empty, where float wants a number"
	}
	if len(b) > maxDigits {
		return 0, "is too long for the number that float wants"
	}
	if bytes.ContainsAny(b, "xXpP_") {
		return 0, "is not a number, as float wants"
	}
	v, err := strconv.ParseFloat(string(b), 64)
	switch {
	case err == nil:
		return v, ""
	case errors.Is(err, strconv.ErrRange):
		return 0, "does not fit into float64; decode it as text"
	default:
		return 0, "is not a number, as float wants"
	}
}
