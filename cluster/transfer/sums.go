package transfer

import (
	"bytes"
	"crypto/md5" //nolint:gosec // the checksum that vendors keep; nothing is kept secret by it
	"crypto/sha256"
	"fmt"
	"hash"
	"hash/crc32"

	"github.com/zeebo/xxh3"

	"github.com/shardstream/shardstream/core/backend"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// hasher computes the checksums of a file as its bytes go by: those that cost little always, the others where a side has
// nothing else to compare with.
type hasher struct {
	xxh3   *xxh3.Hasher
	crc32c uint32
	md5    hash.Hash // nil: not wanted
	sha256 hash.Hash
}

// newHasher makes one that has what known can be compared with; md5 asks for that besides.
func newHasher(known backend.Sums, withMD5 bool) *hasher {
	h := &hasher{xxh3: xxh3.New()}
	cheap := known.XXH3 != nil || known.CRC32C != nil
	if withMD5 || (!cheap && known.MD5 != nil) {
		h.md5 = md5.New() //nolint:gosec // see above
	}
	if !cheap && known.MD5 == nil && known.SHA256 != nil {
		h.sha256 = sha256.New()
	}
	return h
}

func (h *hasher) write(p []byte) {
	_, _ = h.xxh3.Write(p)
	h.crc32c = crc32.Update(h.crc32c, castagnoli, p)
	if h.md5 != nil {
		_, _ = h.md5.Write(p)
	}
	if h.sha256 != nil {
		_, _ = h.sha256.Write(p)
	}
}

func (h *hasher) sums() backend.Sums {
	x, c := h.xxh3.Sum64(), h.crc32c
	s := backend.Sums{XXH3: &x, CRC32C: &c}
	if h.md5 != nil {
		s.MD5 = h.md5.Sum(nil)
	}
	if h.sha256 != nil {
		s.SHA256 = h.sha256.Sum(nil)
	}
	return s
}

// compareSums compares what both have. common says that there is such, difference which sum differs, "" where none does.
func compareSums(a, b backend.Sums) (common bool, difference string) {
	if a.XXH3 != nil && b.XXH3 != nil {
		if common = true; *a.XXH3 != *b.XXH3 {
			return true, fmt.Sprintf("xxh3 %016x, not %016x", *a.XXH3, *b.XXH3)
		}
	}
	if a.CRC32C != nil && b.CRC32C != nil {
		if common = true; *a.CRC32C != *b.CRC32C {
			return true, fmt.Sprintf("crc32c %08x, not %08x", *a.CRC32C, *b.CRC32C)
		}
	}
	if len(a.MD5) > 0 && len(b.MD5) > 0 {
		if common = true; !bytes.Equal(a.MD5, b.MD5) {
			return true, fmt.Sprintf("md5 %x, not %x", a.MD5, b.MD5)
		}
	}
	if len(a.SHA256) > 0 && len(b.SHA256) > 0 {
		if common = true; !bytes.Equal(a.SHA256, b.SHA256) {
			return true, fmt.Sprintf("sha256 %x, not %x", a.SHA256, b.SHA256)
		}
	}
	return common, ""
}
