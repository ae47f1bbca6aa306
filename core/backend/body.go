package backend

import (
	"bytes"
	"crypto/md5" //nolint:gosec // what vendors compute
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"sync"

	"github.com/zeebo/xxh3"
)

// Castagnoli is the polynomial of CRC32C.
var Castagnoli = crc32.MakeTable(crc32.Castagnoli)

// AllSums asks Summed for every checksum there is.
var AllSums = Sums{MD5: []byte{}, SHA256: []byte{}, CRC32C: new(uint32), XXH3: new(uint64)}

// errBody is of what a caller of Put has given.
var errBody = errors.New("the body to be put")

// Summed reads a body that is to be put once, from its start, and returns its checksums: those of sums, which must be
// the same, and those of also. The body is at its start again.
//
// Vendors want checksums in front of a body, and compare what they received with them. So a body that is read
// differently the second time is refused as well.
func Summed(body io.ReadSeeker, size int64, sums Sums, also Sums) (Sums, error) {
	if _, err := body.Seek(0, io.SeekStart); err != nil {
		return Sums{}, fmt.Errorf("%w: %w", errBody, err)
	}
	md5sum, sha, crc, xxh := md5.New(), sha256.New(), crc32.New(Castagnoli), xxh3.New() //nolint:gosec // see above
	var all []io.Writer
	for _, h := range []struct {
		hash.Hash
		wanted bool
	}{
		{md5sum, sums.MD5 != nil || also.MD5 != nil},
		{sha, sums.SHA256 != nil || also.SHA256 != nil},
		{crc, sums.CRC32C != nil || also.CRC32C != nil},
		{xxh, sums.XXH3 != nil || also.XXH3 != nil},
	} {
		if h.wanted {
			all = append(all, h)
		}
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(all...)}, io.LimitReader(body, size+1), make([]byte, 256<<10))
	if err != nil {
		return Sums{}, fmt.Errorf("%w: %w", errBody, err)
	}
	if n != size {
		return Sums{}, fmt.Errorf("%w has %d bytes at least and should have %d", errBody, n, size)
	}
	got := Sums{}
	if sums.MD5 != nil || also.MD5 != nil {
		got.MD5 = md5sum.Sum(nil)
	}
	if sums.SHA256 != nil || also.SHA256 != nil {
		got.SHA256 = sha.Sum(nil)
	}
	if sums.CRC32C != nil || also.CRC32C != nil {
		c := crc.Sum32()
		got.CRC32C = &c
	}
	if sums.XXH3 != nil || also.XXH3 != nil {
		x := xxh.Sum64()
		got.XXH3 = &x
	}
	if name := sums.Differs(got); name != "" {
		return Sums{}, &Error{Op: "put", Kind: Corrupt, Err: fmt.Errorf("%w has another %s than it should", errBody, name)}
	}
	_, err = body.Seek(0, io.SeekStart)
	return got, err
}

// Differs names a checksum that both have, with different values; "" without one.
func (s Sums) Differs(o Sums) string {
	switch {
	case s.MD5 != nil && o.MD5 != nil && !bytes.Equal(s.MD5, o.MD5):
		return "MD5"
	case s.SHA256 != nil && o.SHA256 != nil && !bytes.Equal(s.SHA256, o.SHA256):
		return "SHA-256"
	case s.CRC32C != nil && o.CRC32C != nil && *s.CRC32C != *o.CRC32C:
		return "CRC32C"
	case s.XXH3 != nil && o.XXH3 != nil && *s.XXH3 != *o.XXH3:
		return "XXH3"
	}
	return ""
}

// ReaderAt reads any part of a body, from several goroutines: as files do, or by seeking, one after the other.
func ReaderAt(body io.ReadSeeker) io.ReaderAt {
	if at, ok := body.(io.ReaderAt); ok {
		return at
	}
	return &seekingReader{body: body}
}

type seekingReader struct {
	mu   sync.Mutex
	body io.ReadSeeker
}

func (r *seekingReader) ReadAt(p []byte, offset int64) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := r.body.Seek(offset, io.SeekStart); err != nil {
		return 0, err
	}
	n, err := io.ReadFull(r.body, p)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	return n, err
}

// Refused is the error of a body that is not what it should be: nothing of it was sent.
func (a Address) Refused(name string, err error) error {
	e := &Error{Backend: a.String(), Op: "put", Name: name, Kind: KindOf(err), Err: err}
	var own *Error
	if errors.As(err, &own) {
		e.Err = own.Err
	}
	return e
}
