package archive

import (
	"bytes"
	"encoding/binary"
	"math"
	"strconv"
)

// blockSize is tar's unit: headers are one block, and data is padded to whole ones.
const blockSize = 512

type block [blockSize]byte

// Member types of tar headers that matter here.
const (
	typeReg        = '0'
	typeRegOld     = 0
	typeLink       = '1'
	typeSymlink    = '2'
	typeChar       = '3'
	typeBlock      = '4'
	typeDir        = '5'
	typeFifo       = '6'
	typeContiguous = '7'
	typePax        = 'x'
	typePaxGlobal  = 'g'
	typeLongName   = 'L'
	typeLongLink   = 'K'
	typeSparse     = 'S'
)

// bodyless says whether a type has no data, whatever its size field says.
func bodyless(t byte) bool { return t >= typeLink && t <= typeFifo }

// header is what one header block says. Its name is a part of the parser's buffer.
type header struct {
	kind byte
	name []byte
	size int64
}

var (
	magicUstar = []byte("ustar\x00")
	magicGNU   = []byte("ustar  \x00")
	star       = []byte("tar\x00")
)

// parseHeader reads a header block. The name is appended to buf, which is returned with it. It says why
// the block is refused, or "".
func parseHeader(b *block, buf []byte) (h header, _ []byte, refused string) {
	if !checksumOK(b) {
		return h, buf, "header checksum does not match: damaged, or not a tar archive"
	}
	h.kind = b[156]
	size, ok := parseNumber(b[124:136])
	if !ok || !bodyless(h.kind) && !sizeOK(size) {
		return h, buf, "bad size in header"
	}
	h.size = size
	if prefix := cString(headerPrefix(b)); len(prefix) > 0 {
		buf = append(append(buf, prefix...), '/')
	}
	buf = append(buf, cString(b[:100])...)
	h.name = buf
	return h, buf, ""
}

// sizeOK refuses sizes with which offsets could overflow.
func sizeOK(size int64) bool { return size >= 0 && size <= math.MaxInt64/4 }

// headerPrefix is the field that holds the first part of a long name, which differs between dialects.
func headerPrefix(b *block) []byte {
	switch {
	case bytes.Equal(b[257:263], magicUstar) && bytes.Equal(b[508:512], star):
		return b[345:476]
	case bytes.Equal(b[257:263], magicUstar):
		return b[345:500]
	case bytes.Equal(b[257:265], magicGNU):
		// GNU has times there. Old Go programs wrote a prefix all the same (golang.org/issue/12594):
		// it is one if it can't be read as times and is ASCII.
		if timeField(b[345:357]) && timeField(b[357:369]) {
			return nil
		}
		if p := b[345:500]; isASCII(cString(p)) {
			return p
		}
	}
	return nil
}

func timeField(f []byte) bool {
	if f[0] == 0 {
		return true
	}
	_, ok := parseNumber(f)
	return ok
}

// checksumOK compares the header checksum with the sum of unsigned bytes, or of signed ones as some
// old programs have it.
func checksumOK(b *block) bool {
	want, ok := parseOctal(b[148:156])
	if !ok {
		return false
	}
	const even = 0x00ff00ff00ff00ff
	var sum int64
	for i := 0; i < blockSize; i += 64 {
		var lanes uint64 // four of 16 bits; 16 bytes each: no overflow
		for j := i; j < i+64; j += 8 {
			w := binary.LittleEndian.Uint64(b[j:])
			lanes += w&even + w>>8&even
		}
		sum += int64(lanes&0xffff + lanes>>16&0xffff + lanes>>32&0xffff + lanes>>48) // small
	}
	for _, c := range b[148:156] { // counts as spaces
		sum += ' ' - int64(c)
	}
	if sum == want {
		return true
	}
	var signed int64
	for i, c := range b {
		if i >= 148 && i < 156 {
			c = ' '
		}
		signed += int64(int8(c)) // as those programs sum
	}
	return signed == want
}

// parseNumber reads an octal or base-256 field.
func parseNumber(f []byte) (int64, bool) {
	if f[0]&0x80 == 0 {
		return parseOctal(f)
	}
	var invert byte // of a negative number
	if f[0]&0x40 != 0 {
		invert = 0xff
	}
	var x uint64
	for i, c := range f {
		c ^= invert
		if i == 0 {
			c &= 0x7f
		}
		if x>>55 > 0 {
			return 0, false
		}
		x = x<<8 | uint64(c)
	}
	if invert != 0 {
		return ^int64(x), true // below 1<<63
	}
	return int64(x), true // below 1<<63
}

// parseOctal reads an octal field, padded with spaces or NULs on either side; an empty one is 0.
func parseOctal(f []byte) (int64, bool) {
	for len(f) > 0 && (f[0] == ' ' || f[0] == 0) {
		f = f[1:]
	}
	for len(f) > 0 && (f[len(f)-1] == ' ' || f[len(f)-1] == 0) {
		f = f[:len(f)-1]
	}
	var x int64
	for _, c := range f {
		if c == 0 {
			break
		}
		if c < '0' || c > '7' || x >= 1<<60 {
			return 0, false
		}
		x = x<<3 | int64(c-'0')
	}
	return x, true
}

// cString is a field up to its first NUL.
func cString(f []byte) []byte {
	if i := bytes.IndexByte(f, 0); i >= 0 {
		return f[:i]
	}
	return f
}

func isASCII(s []byte) bool {
	for _, c := range s {
		if c >= 0x80 {
			return false
		}
	}
	return true
}

// paxRecords are the pax records that change where and what a member is.
type paxRecords struct {
	path    []byte // empty: none
	size    int64
	hasSize bool
	refused string // why the member that they apply to is refused
}

// parsePax reads the data of an extended header. It says why it is refused, or "".
func parsePax(data []byte, r *paxRecords) (refused string) {
	r.reset()
	for len(data) > 0 {
		space := bytes.IndexByte(data, ' ')
		if space < 1 || space > 8 {
			return "extended header has a record without length"
		}
		n, err := strconv.Atoi(string(data[:space]))
		if err != nil || n < 5 || n <= space+1 || n > len(data) || data[n-1] != '\n' {
			return "extended header has a record of wrong length"
		}
		key, value, ok := bytes.Cut(data[space+1:n-1], []byte("="))
		if !ok || len(key) == 0 {
			return "extended header has a record without a key"
		}
		if refused := r.set(key, value); refused != "" {
			return refused
		}
		data = data[n:]
	}
	return ""
}

func (r *paxRecords) reset() { *r = paxRecords{path: r.path[:0]} }

func (r *paxRecords) set(key, value []byte) (refused string) {
	switch {
	case string(key) == "path":
		if bytes.IndexByte(value, 0) >= 0 {
			return "member name has a NUL byte"
		}
		r.path = append(r.path[:0], value...)
	case string(key) == "size":
		if r.size, r.hasSize = 0, false; len(value) == 0 {
			break
		}
		n, err := strconv.ParseInt(string(value), 10, 64)
		if err != nil {
			r.refused = "bad size in extended header"
		}
		r.size, r.hasSize = n, true
	case bytes.HasPrefix(key, []byte("GNU.sparse.")):
		r.refused = "sparse members are not supported: make the archive without --sparse"
	}
	return ""
}
