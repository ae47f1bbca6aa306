package target

import (
	"bytes"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"net/http"
	"os"
	"syscall"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/store"
	"github.com/shardstream/shardstream/etl"
	"github.com/shardstream/shardstream/etl/outputs"
)

// firstBytes is what is awaited of an output whose end is not near before its status is sent. Of samples, where the next
// one may fail, it is as much as of any whole answer (maxWhole).
const firstBytes = 64 << 10

// checkConditions evaluates If-Match and If-None-Match by what the output is made of: nothing runs for it. If-Match may
// name the object's version as well, to be sure of what is transformed.
func (x *inline) checkConditions(r *Request) error {
	etag := x.id.ETag()
	if list := r.Header("If-Match"); list != "" && !matches(list, etag) && !matches(list, x.id.Object) {
		return fmt.Errorf("%s through these transformations has the ETag %s: %w", x.name(), etag, store.ErrPrecondition)
	}
	if list := r.Header("If-None-Match"); list != "" && matches(list, etag) {
		r.Response.Header.Set("ETag", etag)
		return &api.Error{Status: http.StatusNotModified, Code: api.CodeNotModified, Message: "not modified"}
	}
	return nil
}

// setHeader replaces what the headers say of the object by what they say of the output.
func (x *inline) setHeader(r *Request) {
	h := &r.Response.Header
	for _, of := range []string{api.HeaderChecksum, api.HeaderArchive, api.HeaderMembers, api.HeaderSamples, api.HeaderMaxSample} {
		h.Del(of)
	}
	h.Set("ETag", x.id.ETag())
	h.Set("Accept-Ranges", "bytes")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-cache") // keep it, but ask whether it is still what it was
}

// head answers HEAD with what is known without a run: the output's size and type only where it is kept.
func (x *inline) head(r *Request, keep bool) error {
	r.Response.SkipBody = true
	r.SetStatusCode(http.StatusOK)
	if x.chain.level != etl.LevelObject {
		r.SetContentType(contentTypeTar)
	}
	if keep {
		r.Response.Header.Set(api.HeaderCache, "miss")
		if c := x.etls.outputs; c != nil {
			if out := c.Get(x.id); out != nil {
				defer func() { _ = out.Close() }()
				r.Response.Header.Set(api.HeaderCache, "hit")
				r.SetContentType(out.ContentType)
				r.Response.Header.SetContentLength(int(out.Size))
				return nil
			}
		}
	}
	r.Response.Header.SetContentLength(-1) // not known
	return nil
}

// send answers with an output as it is made. It takes over release and the output.
func (x *inline) send(r *Request, out *etl.Output, release func()) (kept bool, err error) {
	b := &answerBody{conn: r.Conn(), rest: out.Body, broke: x.brokeOff}
	b.onClose = func() {
		_ = out.Body.Close() // what matters of it was read
		release()
	}
	defer func() {
		if !kept {
			b.release()
		}
	}()
	r.SetContentType(out.ContentType)
	size := out.Size
	if size < 0 && !r.Request.Header.IsHTTP11() || size < 0 && r.Header("Range") != "" {
		// Who asks for a range, or knows no chunks, has to be told the size.
		if size, err = x.settle(b); err != nil {
			return false, err
		}
	}
	part, err := x.rangeOf(r, size)
	if err != nil {
		return false, err
	}
	if part != nil {
		if err := b.seek(part.off); err != nil {
			return false, err
		}
		size = part.n
	}
	first := int64(maxWhole)
	if x.chain.level == etl.LevelObject && (size < 0 || size > maxWhole) {
		first = firstBytes
	}
	if size, err = b.await(first, size); err != nil {
		return false, err
	}
	return x.start(r, b, size)
}

// sendKept answers with an output that is kept. It takes over the output.
func (x *inline) sendKept(r *Request, out *outputs.Output) (kept bool, err error) {
	b := &answerBody{conn: r.Conn(), broke: x.brokeOff, onClose: func() { _ = out.Close() }}
	defer func() {
		if !kept {
			b.release()
		}
	}()
	part, err := x.rangeOf(r, out.Size)
	if err != nil {
		return false, err
	}
	off, size := int64(0), out.Size
	if part != nil {
		off, size = part.off, part.n
	}
	r.SetContentType(out.ContentType)
	b.rest = out.Reader(off, size)
	if size <= maxWhole {
		_, err = b.await(maxWhole, size)
	} else {
		_, err = out.WriteRange(io.Discard, off, 1) // the status leaves with the first block: that one must be good
	}
	if errors.Is(err, outputs.ErrCorrupt) { // dropped: it is made again, and kept when it is next asked for
		b.release()
		r.Response.Header.Set(api.HeaderCache, "miss")
		return x.get(r, false)
	}
	if err != nil {
		return false, err
	}
	return x.start(r, b, size)
}

// rangeOf finds the part that is asked for, nil for the whole, and sets the status.
func (x *inline) rangeOf(r *Request, size int64) (*byteRange, error) {
	r.SetStatusCode(http.StatusOK)
	value, only := r.Header("Range"), r.Header("If-Range")
	if value == "" || only != "" && only != x.id.ETag() {
		return nil, nil //nolint:nilnil // no range
	}
	part, err := parseRange(value, size)
	if err != nil {
		r.Response.Header.Set("Content-Range", fmt.Sprintf("bytes */%d", size))
		return nil, err
	}
	if part != nil {
		r.SetStatusCode(http.StatusPartialContent)
		r.Response.Header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", part.off, part.off+part.n-1, size))
	}
	return part, nil
}

// start hands the body to the server. Its checksums are in the header where all of it is here, and follow the body
// where its end is not known yet.
func (x *inline) start(r *Request, b *answerBody, size int64) (kept bool, err error) {
	h := &r.Response.Header
	switch {
	case b.rest == nil:
		h.Set(api.HeaderBodyChecksum, checksumsOf(b.head))
	case size < 0:
		if err := h.AddTrailer(api.HeaderBodyChecksum); err != nil {
			return false, err
		}
		sums := &summing{r: b.rest, xxh3: xxh3.New(), crc32: crc32.NewIEEE()}
		_, _ = sums.xxh3.Write(b.head)
		_, _ = sums.crc32.Write(b.head)
		sums.end = func(value string) { h.Set(api.HeaderBodyChecksum, value) }
		b.rest = sums
	default:
		b.rest = &exactly{r: b.rest, left: size - int64(len(b.head))}
	}
	if err := r.SetWriteDeadline(time.Now().Add(downloadPause)); err != nil {
		return false, err
	}
	onClose, object := b.onClose, x.section.Object
	b.onClose = func() {
		onClose()
		x.close()
		if err := object.Close(); err != nil {
			x.etls.target.log.Warn("closing an object failed", "error", err)
		}
	}
	r.body = b
	r.Response.SetBodyStream(b, int(size))
	return true, nil
}

// brokeOff notes that an answer was cut short: its client learns no more than that.
func (x *inline) brokeOff(err error) {
	x.etls.target.log.Warn("a transformation failed when a part of its output was sent; the answer was cut short",
		"object", x.name(), "error", x.explain(err))
}

func checksumsOf(data []byte) string {
	sum, crc := xxh3.Hash(data), crc32.ChecksumIEEE(data)
	return api.Checksums{XXH3: &sum, CRC32: &crc}.String()
}

// settle takes an output to its end, aside where it is not small, to know its size.
func (x *inline) settle(b *answerBody) (int64, error) {
	size, err := b.await(maxWhole, -1)
	if err != nil || size >= 0 {
		return size, err
	}
	file, err := os.CreateTemp(x.etls.aside, "etl-output-")
	if err != nil {
		return 0, err
	}
	onClose := b.onClose
	b.onClose = func() {
		onClose()
		_ = file.Close()
	}
	if err := os.Remove(file.Name()); err != nil { // it lives as long as it is open
		return 0, err
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{file}, io.LimitReader(io.MultiReader(bytes.NewReader(b.head), b.rest), etl.MaxOutput+1), make([]byte, pieceBytes))
	switch {
	case errors.Is(err, syscall.ENOSPC):
		return 0, api.Errorf(http.StatusInsufficientStorage, api.CodeNoSpace, "no room to lay the output aside for %s; read it without a range", x.name())
	case err != nil:
		return 0, err
	case n > etl.MaxOutput:
		return 0, api.Errorf(http.StatusRequestEntityTooLarge, api.CodeBadRequest, "the output for %s has more than %d bytes, too many for a range of it", x.name(), int64(etl.MaxOutput))
	}
	b.giveBack()
	b.rest = io.NewSectionReader(file, 0, n)
	return n, nil
}

// exactly reads what was promised; less of it is a failure.
type exactly struct {
	r    io.Reader
	left int64
}

func (e *exactly) Read(p []byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	n, err := e.r.Read(p[:min(int64(len(p)), e.left)])
	if e.left -= int64(n); isEOF(err) && e.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// summing sums up what goes through it.
type summing struct {
	r     io.Reader
	xxh3  *xxh3.Hasher
	crc32 hash.Hash32
	end   func(checksums string)
}

func (s *summing) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	_, _ = s.xxh3.Write(p[:n])
	_, _ = s.crc32.Write(p[:n])
	if isEOF(err) {
		sum, crc := s.xxh3.Sum64(), s.crc32.Sum32()
		s.end(api.Checksums{XXH3: &sum, CRC32: &crc}.String())
	}
	return n, err
}
