package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"

	"github.com/zeebo/xxh3"

	"github.com/shardstream/shardstream/core/archive"
)

// ErrRange is returned for a range that does not lie within the object.
var ErrRange = errors.New("range is outside of the object")

// Object is one version of an object, open for reading: it stays what it is while the name is overwritten
// or deleted. Its methods may be called from any goroutine; Close it after the last.
type Object struct {
	h      *handle
	cache  *cache
	closed atomic.Bool
}

// Open pins the newest version of an object.
func (s *Store) Open(bucket, name string) (*Object, error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	key := objectKey{bucket, name}
	if h := s.cache.get(key); h != nil {
		return &Object{h: h, cache: s.cache}, nil
	}
	if err := checkNames(bucket, name); err != nil {
		return nil, err
	}
	k := s.stripe(bucket, name)
	k.Lock()
	defer k.Unlock()
	if h := s.cache.get(key); h != nil { // someone was faster
		return &Object{h: h, cache: s.cache}, nil
	}
	c, err := s.newest(bucket, name)
	if err != nil {
		return nil, err
	}
	switch c.info.Kind {
	case Stub:
		return nil, fmt.Errorf("object %s/%s: %w", bucket, name, ErrStub)
	case Lost:
		return nil, fmt.Errorf("object %s/%s on disk %s: %w", bucket, name, c.disk.ID, ErrLost)
	default:
	}
	h, err := openHandle(c)
	if err != nil {
		return nil, err
	}
	s.cache.put(key, h)
	return &Object{h: h, cache: s.cache}, nil
}

// openHandle opens the file of a copy and reads what is needed to verify it.
func openHandle(c *copyOf) (*handle, error) {
	h := &handle{info: c.info, disk: c.disk}
	f, err := c.disk.fs.OpenFile(c.file.path(), os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		err = &damage{block: -1, detail: "its data file is missing: " + c.disk.path(c.file), cause: errMissing}
	}
	if err != nil {
		return nil, h.explain(err)
	}
	h.file = f
	if h.footer, err = readFooter(f); err == nil && h.footer.seal != c.seal {
		err = damaged(h.footer.at(), "the data file is not the one that its metadata knows")
	}
	if err == nil {
		h.sums, err = h.footer.readSums(f)
	}
	if err != nil {
		return nil, errors.Join(h.explain(err), f.Close())
	}
	h.refs.Store(1)
	return h, nil
}

// explain says whose the damage is, or in what a read failed.
func (h *handle) explain(err error) error {
	var d *damage
	if errors.As(err, &d) {
		return &CorruptError{
			Bucket: h.info.Bucket, Name: h.info.Name, Disk: h.info.Disk,
			Block: d.block, Offset: d.offset, Detail: d.detail, cause: d.cause,
		}
	}
	return fmt.Errorf("object %s/%s on disk %s: %w", h.info.Bucket, h.info.Name, h.info.Disk, err)
}

// Info describes the version that is pinned.
func (o *Object) Info() Info { return o.h.info }

// File is the data file itself; the payload is its first Info().Size bytes. They are not verified: it is for a
// receiver that does so (sendfile, mmap), and may be used, but not closed or seeked, until Close.
func (o *Object) File() *os.File { return o.h.file.OS() }

// Index says where the members of an archive are; nil for an opaque object. It is shared by all who ask.
func (o *Object) Index() (*archive.Index, error) {
	h := o.h
	if x := h.index.Load(); x != nil || h.info.Archive == archive.None {
		return x, nil
	}
	h.load.Lock()
	defer h.load.Unlock()
	if x := h.index.Load(); x != nil {
		return x, nil
	}
	b, err := h.footer.readIndex(h.file)
	if err != nil {
		return nil, h.explain(err)
	}
	x, err := archive.UnmarshalIndex(b)
	if err != nil {
		return nil, h.explain(damaged(h.footer.indexAt(), "its member index: %v", err))
	}
	h.index.Store(x)
	o.cache.grow(h, x.MemoryBytes())
	return x, nil
}

// Close unpins the version.
func (o *Object) Close() error {
	if o.closed.Swap(true) {
		return nil
	}
	return o.h.release()
}

// ReadSample reads sample i of an indexed archive at once, with the tar headers that lie between its members:
// member m of it begins at Member(m).Offset - base. Each member is verified against its own checksum in the
// index, so that a small sample does not cost whole blocks. buf is used if it is large enough.
func (o *Object) ReadSample(i int, buf []byte) (span []byte, base int64, err error) {
	x, err := o.Index()
	if err != nil {
		return nil, 0, err
	}
	if x == nil || i < 0 || i >= x.NumSamples() {
		return nil, 0, fmt.Errorf("object %s/%s: sample %d: %w", o.h.info.Bucket, o.h.info.Name, i, ErrRange)
	}
	first, count := x.Sample(i)
	last := x.Member(first + count - 1)
	base = x.Member(first).Offset
	n := last.Offset + last.Size - base
	if n < 0 || base+n > o.h.info.Size {
		return nil, 0, o.h.explain(damaged(o.h.footer.indexAt(), "its member index points outside"))
	}
	if int64(cap(buf)) < n {
		buf = make([]byte, n)
	}
	span = buf[:n]
	if err := readFull(o.h.file, span, base); err != nil {
		return nil, 0, o.h.explain(err)
	}
	for k := first; k < first+count; k++ {
		m := x.Member(k)
		at := m.Offset - base
		if at < 0 || at+m.Size > n || xxh3.Hash(span[at:at+m.Size]) != m.Sum {
			clear(span)
			return nil, 0, o.h.explain(&damage{
				block: m.Offset / BlockSize, offset: m.Offset, detail: "member " + m.Name + " does not match its checksum",
			})
		}
	}
	return span, base, nil
}

// spanSize is how much is read and verified at once.
const spanSize = 1 << 20

var spans = sync.Pool{New: func() any { return new([spanSize]byte) }}

// spanReader walks over a range of the payload in spans of whole blocks, each verified before it is given out.
type spanReader struct {
	h        *handle
	buf      *[spanSize]byte
	at, end  int64
	verified []byte // the last span, cut to the range
}

// next reads the next span; false at the end of the range.
func (r *spanReader) next() (bool, error) {
	if r.at >= r.end {
		return false, nil
	}
	first := r.at / BlockSize
	from := first * BlockSize
	to := min(from+spanSize, (r.end+BlockSize-1)/BlockSize*BlockSize, r.h.info.Size)
	b := r.buf[:to-from]
	if err := readFull(r.h.file, b, from); err != nil {
		return false, r.h.explain(err)
	}
	if err := checkBlocks(b, first, r.h.sums); err != nil {
		return false, r.h.explain(err)
	}
	stop := min(r.end, to)
	r.verified = b[r.at-from : stop-from]
	r.at = stop
	return true, nil
}

func (h *handle) spans(off, n int64) (spanReader, error) {
	if off < 0 || n < 0 || off > h.info.Size || n > h.info.Size-off {
		return spanReader{}, fmt.Errorf("object %s/%s of %d bytes: %d bytes from %d: %w",
			h.info.Bucket, h.info.Name, h.info.Size, n, off, ErrRange)
	}
	buf, _ := spans.Get().(*[spanSize]byte)
	return spanReader{h: h, buf: buf, at: off, end: off + n}, nil
}

func (o *Object) checkOpen() error {
	if o.closed.Load() {
		return fmt.Errorf("object %s/%s: %w", o.h.info.Bucket, o.h.info.Name, os.ErrClosed)
	}
	return nil
}

// ReadAt reads verified bytes, as io.ReaderAt says. What it counts in n is right even where it then fails.
func (o *Object) ReadAt(p []byte, off int64) (n int, err error) {
	if err := o.checkOpen(); err != nil {
		return 0, err
	}
	return o.h.readAt(p, off)
}

func (h *handle) readAt(p []byte, off int64) (n int, err error) {
	want, size := int64(len(p)), h.info.Size
	if off >= size && off >= 0 {
		if want == 0 {
			return 0, nil
		}
		return 0, io.EOF
	}
	r, err := h.spans(off, min(want, size-off))
	if err != nil {
		return 0, err
	}
	defer spans.Put(r.buf)
	for {
		ok, err := r.next()
		if err != nil {
			return n, err
		}
		if !ok {
			break
		}
		n += copy(p[n:], r.verified)
	}
	if int64(n) < want {
		return n, io.EOF
	}
	return n, nil
}

// WriteRange writes n verified bytes from off to w, in pieces of up to 1 MiB that w may not keep. It stops
// before the first block that is damaged.
func (o *Object) WriteRange(w io.Writer, off, n int64) (written int64, err error) {
	if err := o.checkOpen(); err != nil {
		return 0, err
	}
	return o.h.writeRange(w, off, n)
}

func (h *handle) writeRange(w io.Writer, off, n int64) (written int64, err error) {
	r, err := h.spans(off, n)
	if err != nil {
		return 0, err
	}
	defer spans.Put(r.buf)
	for {
		ok, err := r.next()
		if err != nil || !ok {
			return written, err
		}
		m, err := w.Write(r.verified)
		written += int64(m)
		if err != nil {
			return written, err
		}
	}
}

// VerifyRange reads n bytes from off and verifies them.
func (o *Object) VerifyRange(off, n int64) error {
	_, err := o.WriteRange(io.Discard, off, n)
	return err
}
