package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/zeebo/xxh3"
)

// probeBytes is what a reader asks for first after a cut: little enough that the target verifies all
// of it before it answers, so that damage comes back as an error that names it.
const probeBytes = 1 << 20

// maxCuts bounds the attempts that bring nothing new.
const maxCuts = 4

// GetOptions select what of an object is read.
type GetOptions struct {
	Offset int64
	Length int64    // 0: to the end
	Member string   // a member of an archive
	ETL    []string // transformations to apply, in order; Offset and Length are then of what comes out
	// ETLArgs are the transformations' arguments as JSON: an object, or for several transformations an array with
	// an object or null for each.
	ETLArgs     json.RawMessage
	Cache       bool // have the target keep what comes out, or give what it kept
	IfMatch     string
	IfNoneMatch string // an unchanged object is then an *Error with status 304
}

// ObjectReader reads an object's bytes. A whole object's checksum is verified: the last Read returns
// an error in place of io.EOF where it does not match. A transfer that breaks off is taken up again
// where it stopped, on the same version. It is not safe for concurrent use.
type ObjectReader struct {
	Object Object // as the first answer described it; Size is the body's, -1 where a transformation has not told it yet
	Total  int64  // bytes of the whole object, of which a range may be read; -1 where the answer does not say
	Cached bool   // the output had been kept
	client *Client
	ctx    context.Context //nolint:containedctx // of the call that opened the reader; it bounds all reads
	o      GetOptions

	body     io.ReadCloser
	guard    *guard
	part     int64 // bytes left of this answer
	next     int64 // offset of the next byte within the object
	end      int64 // offset after the last byte; -1 where unknown: no resuming
	hash     *xxh3.Hasher
	want     string      // its xxh3, "" where the answer carried none
	trailer  http.Header // filled at the end of the body
	cuts     int
	finished error
}

// GetObject opens an object for reading. The context bounds the reader too.
func (c *Client) GetObject(ctx context.Context, bucket, key string, o GetOptions) (*ObjectReader, error) {
	r := &ObjectReader{client: c, ctx: ctx, o: o, next: o.Offset, end: -1, hash: xxh3.New(), Object: Object{Bucket: bucket, Name: key}}
	if err := c.retry(ctx, func() error { return r.open(ctx, 0) }); err != nil {
		return nil, err
	}
	return r, nil
}

// plain tells a read of the object's own bytes, which can be resumed.
func (r *ObjectReader) plain() bool { return r.o.Member == "" && len(r.o.ETL) == 0 }

// etlPatience is how long a transformation may take to begin, or go on, with its answer. What it does may take long; the
// target ends it when it takes too long.
const etlPatience = 20 * time.Minute

// patience is how long the network may stand still.
func (r *ObjectReader) patience() time.Duration {
	if len(r.o.ETL) > 0 {
		return max(etlPatience, r.client.options.Timeout)
	}
	return r.client.options.Timeout
}

// open asks for the bytes from r.next on; limit 0: all of them.
func (r *ObjectReader) open(ctx context.Context, limit int64) error {
	first := r.guard == nil
	ctx, guard := newGuard(ctx, r.patience())
	guard.begin()
	query, header := r.request(limit, first)
	response, err := r.client.send(ctx, http.MethodGet, r.Object.Bucket, r.Object.Name, query, header)
	guard.end()
	if err != nil {
		guard.stop()
		return err
	}
	if response.StatusCode >= 300 {
		err := describe(ErrorOf(response), r.Object.Bucket, r.Object.Name)
		drain(response)
		guard.stop()
		return err
	}
	if first {
		r.first(response)
	}
	r.body, r.guard, r.part, r.trailer = response.Body, guard, response.ContentLength, response.Trailer
	return nil
}

func (r *ObjectReader) request(limit int64, first bool) (url.Values, http.Header) {
	query, header := url.Values{}, http.Header{}
	if r.o.Member != "" {
		query.Set("member", r.o.Member)
	}
	if len(r.o.ETL) > 0 {
		query.Set("etl", strings.Join(r.o.ETL, ","))
	}
	if len(r.o.ETLArgs) > 0 {
		query.Set("etl_args", string(r.o.ETLArgs))
	}
	if r.o.Cache {
		query.Set("cache", "true")
	}
	last := r.end - 1
	if first && r.o.Length > 0 {
		last = r.o.Offset + r.o.Length - 1
	}
	if limit > 0 {
		last = min(last, r.next+limit-1)
	}
	switch {
	case first && r.o.Offset == 0 && r.o.Length == 0:
	case last < 0:
		header.Set("Range", fmt.Sprintf("bytes=%d-", r.next))
	default:
		header.Set("Range", fmt.Sprintf("bytes=%d-%d", r.next, last))
	}
	match := r.o.IfMatch
	if !first {
		match = r.Object.ETag
	}
	if match != "" {
		header.Set("If-Match", match)
	}
	if r.o.IfNoneMatch != "" && first {
		header.Set("If-None-Match", r.o.IfNoneMatch)
	}
	return query, header
}

// first takes the object's description from the first answer.
func (r *ObjectReader) first(response *http.Response) {
	r.Object = ObjectOf(response.Header, r.Object.Bucket, r.Object.Name)
	r.Object.Size = response.ContentLength
	r.Total = total(response)
	r.want, r.Cached = bodySum(response.Header), response.Header.Get(HeaderCache) == "hit"
	if !r.plain() {
		return
	}
	if response.StatusCode == http.StatusOK {
		r.want = r.Object.XXH3
	}
	if response.ContentLength >= 0 {
		r.end = r.next + response.ContentLength
	}
}

// total is the size of a whole object by the answer to a request for it, or for a range.
func total(response *http.Response) int64 {
	if response.StatusCode != http.StatusPartialContent {
		return response.ContentLength
	}
	_, text, _ := strings.Cut(response.Header.Get("Content-Range"), "/")
	size, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return -1
	}
	return size
}

// bodySum is the xxh3 of a body as header or trailer have it.
func bodySum(h http.Header) string {
	sums, err := ParseChecksums(h.Get(HeaderBodyChecksum))
	if err != nil || sums.XXH3 == nil {
		return ""
	}
	return FormatXXH3(*sums.XXH3)
}

// Read implements io.Reader.
func (r *ObjectReader) Read(p []byte) (int, error) {
	if r.finished != nil {
		return 0, r.finished
	}
	for {
		if r.body == nil {
			if err := r.resume(); err != nil {
				r.finished = err
				return 0, err
			}
		}
		r.guard.begin()
		n, err := r.body.Read(p)
		r.guard.end()
		r.account(p[:n])
		switch {
		case err == nil:
			return n, nil
		case errors.Is(err, io.EOF) && (r.end < 0 || r.next == r.end):
			r.finished = r.verify()
		case errors.Is(err, io.EOF) && r.part == 0: // the end of a probe
			r.closeBody()
		default:
			r.finished = r.cut(err)
		}
		if n > 0 {
			return n, nil
		}
		if r.finished != nil {
			return 0, r.finished
		}
	}
}

func (r *ObjectReader) account(p []byte) {
	if len(p) == 0 {
		return
	}
	_, _ = r.hash.Write(p)
	r.next += int64(len(p))
	r.part -= int64(len(p))
	r.cuts = 0
}

// cut handles a transfer that broke off: nil if it can be resumed.
func (r *ObjectReader) cut(err error) error {
	if cause := context.Cause(r.ctx); cause != nil {
		return cause
	}
	r.closeBody()
	r.cuts++
	if len(r.o.ETL) > 0 {
		return fmt.Errorf("read %s through %s: broke off after %d bytes: %w; where a transformation failed, the node's log says why",
			Address(r.Object.Bucket, r.Object.Name), strings.Join(r.o.ETL, ","), r.next-r.o.Offset, noEOF(err))
	}
	if r.end < 0 || r.cuts > maxCuts || r.client.options.RetryFor < 0 {
		return fmt.Errorf("read %s: broke off after %d bytes: %w",
			Address(r.Object.Bucket, r.Object.Name), r.next-r.o.Offset, noEOF(err))
	}
	return nil
}

func (r *ObjectReader) resume() error {
	limit := int64(0)
	if r.cuts > 0 {
		limit = probeBytes
	}
	err := r.client.retry(r.ctx, func() error { return r.open(r.ctx, limit) })
	var answer *Error
	if errors.As(err, &answer) && answer.Code == CodePrecondition {
		return Errorf(http.StatusConflict, CodeChanged, "%s was overwritten while it was read; read it again",
			Address(r.Object.Bucket, r.Object.Name))
	}
	return err
}

// verify ends the reader: io.EOF if all is well.
func (r *ObjectReader) verify() error {
	if r.want == "" && !r.plain() {
		r.want = bodySum(r.trailer)
	}
	r.closeBody()
	if got := FormatXXH3(r.hash.Sum64()); r.want != "" && got != r.want {
		return Errorf(http.StatusInternalServerError, CodeBadChecksum, "%s arrived damaged (xxh3 %s, want %s); read it again",
			Address(r.Object.Bucket, r.Object.Name), got, r.want)
	}
	return io.EOF
}

func (r *ObjectReader) closeBody() {
	if r.body != nil {
		_ = r.body.Close()
		r.body = nil
	}
	r.guard.stop()
}

// Close gives the connection back. Reads fail afterwards.
func (r *ObjectReader) Close() error {
	if r.finished == nil {
		r.finished = errors.New("read of a closed object reader")
	}
	if r.body != nil {
		r.closeBody()
	}
	return nil
}

// noEOF keeps a cut from looking like a clean end.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
