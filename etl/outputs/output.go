package outputs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/zeebo/xxh3"
)

// ErrCorrupt is the error of a read that met bytes which are not those that were written. The entry is dropped then.
var ErrCorrupt = errors.New("a kept output is damaged; it is made again when it is next asked for")

// Output is an output that is kept, open for reading. It stays readable when it is evicted meanwhile.
type Output struct {
	Size        int64
	ContentType string
	XXH3        uint64 // of the whole
	CRC32       uint32

	cache  *Cache
	file   *os.File
	key    Key
	meta   meta
	sums   []byte
	onDisk int64
}

// WriteRange writes n bytes from off on, each verified before it is written.
func (o *Output) WriteRange(w io.Writer, off, n int64) (written int64, err error) {
	if off < 0 || n < 0 || off > o.Size-n {
		return 0, fmt.Errorf("bytes %d to %d of an output of %d", off, off+n, o.Size)
	}
	pooled := blocks.Get().(*[]byte) //nolint:forcetypeassert // the pool's own
	defer blocks.Put(pooled)
	defer func() { o.cache.served.Add(written) }()
	for n > 0 {
		block, err := o.block(*pooled, off/blockBytes)
		if err != nil {
			return written, err
		}
		from := off % blockBytes
		m, err := w.Write(block[from:min(int64(len(block)), from+n)])
		written, off, n = written+int64(m), off+int64(m), n-int64(m)
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// Reader reads n bytes from off on, as WriteRange does.
func (o *Output) Reader(off, n int64) io.Reader { return &reader{output: o, off: off, left: n} }

type reader struct {
	output    *Output
	off, left int64
}

func (r *reader) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	n, err := r.output.WriteRange(&fixed{p}, r.off, min(r.left, int64(len(p))))
	r.off, r.left = r.off+n, r.left-n
	return int(n), err
}

func (r *reader) WriteTo(w io.Writer) (int64, error) {
	n, err := r.output.WriteRange(w, r.off, r.left)
	r.off, r.left = r.off+n, r.left-n
	return n, err
}

// fixed is a slice to be filled.
type fixed struct{ left []byte }

func (f *fixed) Write(p []byte) (int, error) {
	n := copy(f.left, p)
	f.left = f.left[n:]
	return n, nil
}

// block reads and verifies one block.
func (o *Output) block(buf []byte, i int64) ([]byte, error) {
	buf = buf[:min(blockBytes, o.Size-i*blockBytes)]
	if _, err := o.file.ReadAt(buf, i*blockBytes); err != nil {
		return nil, o.damaged(err)
	}
	if xxh3.Hash(buf) != binary.LittleEndian.Uint64(o.sums[i*8:]) {
		return nil, o.damaged(fmt.Errorf("block %d does not match its checksum", i))
	}
	return buf, nil
}

func (o *Output) damaged(reason error) error {
	o.cache.corrupt(o.key, reason)
	return ErrCorrupt
}

// Close gives the file back.
func (o *Output) Close() error { return o.file.Close() }
