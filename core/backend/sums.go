package backend

import (
	"bytes"
	"crypto/md5" //nolint:gosec // against damage, as the vendors give it
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"hash/crc32"

	"github.com/zeebo/xxh3"
)

// verifier compares bytes with the checksum that is the cheapest to compute of those there are.
type verifier struct {
	name string
	hash hash.Hash
	want []byte
}

// newVerifier is nil where there is no checksum.
func newVerifier(s Sums) *verifier {
	switch {
	case s.XXH3 != nil:
		return &verifier{"xxh3", xxh3.New(), binary.BigEndian.AppendUint64(nil, *s.XXH3)}
	case s.CRC32C != nil:
		return &verifier{"crc32c", crc32.New(Castagnoli), binary.BigEndian.AppendUint32(nil, *s.CRC32C)}
	case len(s.SHA256) == sha256.Size:
		return &verifier{"sha256", sha256.New(), s.SHA256}
	case len(s.MD5) == md5.Size:
		return &verifier{"md5", md5.New(), s.MD5} //nolint:gosec // as above
	}
	return nil
}

func (v *verifier) write(p []byte) { _, _ = v.hash.Write(p) }

func (v *verifier) check() error {
	if got := v.hash.Sum(nil); !bytes.Equal(got, v.want) {
		return fmt.Errorf("%s is %x, and that of the object %x", v.name, got, v.want)
	}
	return nil
}
