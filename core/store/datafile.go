package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/zeebo/xxh3"
)

// A data file is
//
//	payload | xxh3 of each 64 KiB block of it | member index | object header | footer
//
// all little-endian. The footer has a fixed size, the lengths and checksums of the parts before it, and
// one of itself, the seal. The payload comes first, so that it can be sent as it lies.
const (
	footerSize  = 80
	footerMagic = "SSOBJ\x01\r\n" // with the format's version
)

// footer is the end of a data file.
type footer struct {
	size                         int64 // of the payload
	indexLen, headerLen          int64
	sumsXXH, indexXXH, headerXXH uint64
	version                      uint64 // of the object
	seal                         uint64
}

func blocks(size int64) int64 { return (size + BlockSize - 1) / BlockSize }

func (f *footer) sumsAt() int64   { return f.size }
func (f *footer) sumsLen() int64  { return 8 * blocks(f.size) }
func (f *footer) indexAt() int64  { return f.sumsAt() + f.sumsLen() }
func (f *footer) headerAt() int64 { return f.indexAt() + f.indexLen }
func (f *footer) at() int64       { return f.headerAt() + f.headerLen }

// appendTrailer renders all that follows the payload and completes f.
func appendTrailer(out []byte, f *footer, sums, index, header []byte) []byte {
	f.indexLen, f.headerLen = int64(len(index)), int64(len(header))
	f.sumsXXH, f.indexXXH, f.headerXXH = xxh3.Hash(sums), xxh3.Hash(index), xxh3.Hash(header)
	out = append(append(append(out, sums...), index...), header...)
	foot := append(make([]byte, 0, footerSize), footerMagic...)
	for _, v := range []uint64{
		uint64(f.size), uint64(f.indexLen), uint64(f.headerLen), // lengths
		f.sumsXXH, f.indexXXH, f.headerXXH, f.version, 0,
	} {
		foot = binary.LittleEndian.AppendUint64(foot, v)
	}
	f.seal = xxh3.Hash(foot)
	return append(out, binary.LittleEndian.AppendUint64(foot, f.seal)...)
}

// damage is what reading a data file found wrong with it; where it is known whose the file is, it
// becomes a CorruptError.
type damage struct {
	block, offset int64
	detail        string
	cause         error
}

// errMissing marks the damage of a file that is not there.
var errMissing = errors.New("data file is missing")

func (d *damage) Error() string { return fmt.Sprintf("%s (at byte %d)", d.detail, d.offset) }

func damaged(offset int64, format string, args ...any) *damage {
	return &damage{block: -1, offset: offset, detail: fmt.Sprintf(format, args...)}
}

// readFooter reads and checks a file's footer.
func readFooter(f File) (footer, error) {
	fileSize, err := f.Size()
	if err != nil {
		return footer{}, err
	}
	at := fileSize - footerSize
	if at < 0 {
		return footer{}, damaged(0, "the file ends at byte %d", fileSize)
	}
	var b [footerSize]byte
	if err := readFull(f, b[:], at); err != nil {
		return footer{}, err
	}
	word := func(i int) uint64 { return binary.LittleEndian.Uint64(b[8*i:]) }
	ft := footer{
		size: int64(word(1)), indexLen: int64(word(2)), headerLen: int64(word(3)), // checked below
		sumsXXH: word(4), indexXXH: word(5), headerXXH: word(6), version: word(7), seal: word(9),
	}
	if string(b[:8]) != footerMagic || xxh3.Hash(b[:footerSize-8]) != ft.seal {
		return footer{}, damaged(at, "the file ends at byte %d without a valid footer: it was cut off, or its end is damaged", fileSize)
	}
	for _, n := range []int64{ft.size, ft.indexLen, ft.headerLen} {
		if n < 0 || n > math.MaxInt64/8 {
			return footer{}, damaged(at, "the footer has an impossible length")
		}
	}
	if ft.at() != at {
		return footer{}, damaged(at, "the file has %d bytes, %d by its footer", fileSize, ft.at()+footerSize)
	}
	return ft, nil
}

// readSection reads a part of the trailer and checks it.
func readSection(f File, what string, at, n int64, want uint64) ([]byte, error) {
	b := make([]byte, n)
	if err := readFull(f, b, at); err != nil {
		return nil, err
	}
	if xxh3.Hash(b) != want {
		return nil, damaged(at, "the %s does not match its checksum", what)
	}
	return b, nil
}

func (f *footer) readSums(file File) ([]uint64, error) {
	b, err := readSection(file, "list of block checksums", f.sumsAt(), f.sumsLen(), f.sumsXXH)
	if err != nil {
		return nil, err
	}
	sums := make([]uint64, len(b)/8)
	for i := range sums {
		sums[i] = binary.LittleEndian.Uint64(b[8*i:])
	}
	return sums, nil
}

func (f *footer) readIndex(file File) ([]byte, error) {
	return readSection(file, "member index", f.indexAt(), f.indexLen, f.indexXXH)
}

// readHeader reads whose file it is.
func (f *footer) readHeader(file File) (Info, error) {
	b, err := readSection(file, "object header", f.headerAt(), f.headerLen, f.headerXXH)
	if err != nil {
		return Info{}, err
	}
	d := decoder{rest: b}
	var i Info
	if d.info(&i); d.bad || i.Payload() != f.size || i.Version != f.version {
		return Info{}, damaged(f.headerAt(), "the object header can't be read")
	}
	return i, nil
}

// readFull reads len(p) bytes; a file that ends before them is damaged.
func readFull(f io.ReaderAt, p []byte, at int64) error {
	n, err := f.ReadAt(p, at)
	if n == len(p) {
		return nil
	}
	if errors.Is(err, io.EOF) {
		if n == 0 {
			return damaged(at, "the file ends before byte %d", at)
		}
		return damaged(at+int64(n), "the file ends at byte %d", at+int64(n))
	}
	return err
}

// checkBlocks compares payload bytes that begin at a block with the checksums of their blocks.
func checkBlocks(p []byte, first int64, sums []uint64) error {
	for i := first; len(p) > 0; i++ {
		n := min(len(p), BlockSize)
		if xxh3.Hash(p[:n]) != sums[i] {
			return &damage{block: i, offset: i * BlockSize, detail: "it does not match its checksum"}
		}
		p = p[n:]
	}
	return nil
}
