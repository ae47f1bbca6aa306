package api

import (
	"fmt"
	"strconv"
	"strings"
)

// Checksums are the checksums of a body; either may be absent.
type Checksums struct {
	XXH3  *uint64
	CRC32 *uint32
}

// String renders the value of HeaderChecksum.
func (c Checksums) String() string {
	var parts []string
	if c.XXH3 != nil {
		parts = append(parts, "xxh3="+FormatXXH3(*c.XXH3))
	}
	if c.CRC32 != nil {
		parts = append(parts, "crc32="+FormatCRC32(*c.CRC32))
	}
	return strings.Join(parts, ",")
}

// FormatXXH3 renders a checksum as documents and headers have it.
func FormatXXH3(sum uint64) string { return fmt.Sprintf("%016x", sum) }

// FormatCRC32 renders a checksum as documents and headers have it.
func FormatCRC32(sum uint32) string { return fmt.Sprintf("%08x", sum) }

// ParseChecksums reads the value of HeaderChecksum. Unknown algorithms are an error: a sender that
// asks for a check must not believe that it was made.
func ParseChecksums(value string) (Checksums, error) {
	var c Checksums
	for part := range strings.SplitSeq(value, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		algorithm, digits, _ := strings.Cut(part, "=")
		switch algorithm {
		case "xxh3":
			sum, err := parseHex(digits, 64)
			if err != nil {
				return Checksums{}, err
			}
			c.XXH3 = &sum
		case "crc32":
			sum, err := parseHex(digits, 32)
			if err != nil {
				return Checksums{}, err
			}
			short := uint32(sum)
			c.CRC32 = &short
		default:
			return Checksums{}, fmt.Errorf("checksum algorithm %q is not known: send xxh3=<16 hex> or crc32=<8 hex>", algorithm)
		}
	}
	return c, nil
}

func parseHex(digits string, bits int) (uint64, error) {
	if len(digits) != bits/4 {
		return 0, fmt.Errorf("checksum %q: want %d hex digits", digits, bits/4)
	}
	sum, err := strconv.ParseUint(digits, 16, bits)
	if err != nil {
		return 0, fmt.Errorf("checksum %q is not hexadecimal", digits)
	}
	return sum, nil
}
