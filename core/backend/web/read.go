package web

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/shardstream/shardstream/core/backend"
)

// maxSkip is how much of an object is read past for a range, where the server does not know ranges.
const maxSkip = 16 << 20

// Stat implements backend.Backend.
func (w *Web) Stat(ctx context.Context, name string) (backend.Entry, error) {
	at, err := w.find(ctx, "stat", name)
	if err != nil {
		return backend.Entry{}, err
	}
	return w.stat(ctx, name, at)
}

func (w *Web) find(ctx context.Context, op, name string) (*url.URL, error) {
	if !plain(name) {
		return nil, w.fail(op, name, backend.NotFound, errors.New("no file has such a name"))
	}
	at, err := w.names.find(ctx, name)
	var failed *backend.Error
	if errors.As(err, &failed) {
		failed.Op, failed.Name = op, name
	}
	return at, err
}

// stat asks for an object's headers, by a request for its first byte where the server does not know HEAD.
func (w *Web) stat(ctx context.Context, name string, at *url.URL) (backend.Entry, error) {
	if !w.noHead.Load() {
		r, err := w.request(ctx, http.MethodHead, at, nil)
		if err != nil {
			return backend.Entry{}, w.broken(ctx, "stat", name, err)
		}
		_ = r.Body.Close()
		switch r.StatusCode {
		case http.StatusOK:
			if r.ContentLength >= 0 {
				return entry(name, r, r.ContentLength), nil
			} // else a GET may tell
		case http.StatusMethodNotAllowed, http.StatusNotImplemented:
			w.noHead.Store(true)
		case http.StatusForbidden, http.StatusBadRequest: // where a signature is for GET alone
		default:
			return backend.Entry{}, w.refused("stat", name, r)
		}
	}
	r, err := w.request(ctx, http.MethodGet, at, http.Header{"Range": {"bytes=0-0"}})
	if err != nil {
		return backend.Entry{}, w.broken(ctx, "stat", name, err)
	}
	defer func() { _ = r.Body.Close() }()
	switch r.StatusCode {
	case http.StatusOK:
		return entry(name, r, r.ContentLength), nil
	case http.StatusPartialContent:
		_, _, size, err := backend.ParseContentRange(r.Header.Get("Content-Range"))
		if err != nil {
			return backend.Entry{}, w.fail("stat", name, backend.Failed, err)
		}
		return entry(name, r, size), nil
	case http.StatusRequestedRangeNotSatisfiable:
		if r.Header.Get("Content-Range") == "bytes */0" {
			return entry(name, r, 0), nil
		}
	}
	return backend.Entry{}, w.refused("stat", name, r)
}

// entry is an object by the headers of an answer about it.
func entry(name string, r *http.Response, size int64) backend.Entry {
	e := backend.Entry{Name: name, Size: size, ContentType: r.Header.Get("Content-Type"), Sums: sums(r)}
	e.Modified, _ = time.Parse(http.TimeFormat, r.Header.Get("Last-Modified"))
	switch tag := r.Header.Get("Etag"); {
	case strings.HasPrefix(tag, `"`):
		e.Tag = tag
	case !e.Modified.IsZero() && size >= 0:
		e.Tag = fmt.Sprintf("%d-%d", e.Modified.Unix(), size)
	}
	return e
}

// sums are the checksums that the server has of the whole object: RFC 9530, its predecessors, and Google's.
func sums(r *http.Response) (s backend.Sums) {
	h := r.Header
	for _, field := range strings.Split(h.Get("Repr-Digest"), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(field), "=")
		if sum := decode(strings.Trim(value, ":")); strings.EqualFold(name, "sha-256") && len(sum) == 32 {
			s.SHA256 = sum
		}
	}
	if sum := decode(h.Get("Content-MD5")); len(sum) == 16 && r.StatusCode == http.StatusOK {
		s.MD5 = sum
	}
	if h.Get("Content-Encoding") != "" {
		return s // Google's are of what comes out of it
	}
	for _, field := range h.Values("X-Goog-Hash") {
		for part := range strings.SplitSeq(field, ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
			sum := decode(value)
			switch {
			case name == "crc32c" && len(sum) == 4:
				crc := binary.BigEndian.Uint32(sum)
				s.CRC32C = &crc
			case name == "md5" && len(sum) == 16:
				s.MD5 = sum
			}
		}
	}
	return s
}

func decode(text string) []byte {
	sum, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil
	}
	return sum
}

// Open implements backend.Backend.
func (w *Web) Open(ctx context.Context, name string, o backend.OpenOptions) (*backend.Body, error) {
	at, err := w.find(ctx, "open", name)
	if err != nil {
		return nil, err
	}
	header := http.Header{}
	if part := o.Header(); part != "" {
		header.Set("Range", part)
	}
	if strings.HasPrefix(o.Tag, `"`) {
		header.Set("If-Match", o.Tag)
	}
	r, err := w.request(ctx, http.MethodGet, at, header)
	if err != nil {
		return nil, w.broken(ctx, "open", name, err)
	}
	body, err := w.body(ctx, name, o, r)
	if err != nil {
		_ = r.Body.Close()
		return nil, err
	}
	if o.Tag != "" && body.Entry.Tag != o.Tag {
		_ = body.Close()
		return nil, w.fail("open", name, backend.Changed, fmt.Errorf("its tag is %q, not %q", body.Entry.Tag, o.Tag))
	}
	return body, nil
}

// body is that of an answer; where it fails the answer is still to be closed.
func (w *Web) body(ctx context.Context, name string, o backend.OpenOptions, r *http.Response) (*backend.Body, error) {
	fail := func(err error) error { return w.broken(ctx, "read", name, err) }
	switch r.StatusCode {
	case http.StatusPartialContent:
		_, _, size, err := backend.ParseContentRange(r.Header.Get("Content-Range"))
		if err != nil {
			return nil, w.fail("open", name, backend.Failed, err)
		}
		unfit := func(err error) error { return w.fail("open", name, backend.Failed, err) }
		body, err := backend.NewBody(r.Body, entry(name, r, size), o, r.ContentLength, r.Header.Get("Content-Range"), unfit)
		if err != nil {
			return nil, err
		}
		body.ReadCloser = &typed{body.ReadCloser, fail}
		return body, nil
	case http.StatusOK:
		return w.whole(name, o, r, fail)
	case http.StatusRequestedRangeNotSatisfiable:
		if o.Offset == 0 && r.Header.Get("Content-Range") == "bytes */0" { // an empty object, of which a range was asked for
			e := entry(name, r, 0)
			return &backend.Body{ReadCloser: http.NoBody, Entry: e}, r.Body.Close()
		}
	}
	return nil, w.refused("open", name, r)
}

// typed makes *backend.Errors of what reading meets.
type typed struct {
	io.ReadCloser
	fail func(error) error
}

func (t *typed) Read(p []byte) (int, error) {
	n, err := t.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		var own *backend.Error
		if errors.As(err, &own) && own.Err != nil {
			err = own.Err // as it was told when the answer was opened
		}
		err = t.fail(err)
	}
	return n, err
}

// whole is the body of an answer that has all of the object, whatever was asked for.
func (w *Web) whole(name string, o backend.OpenOptions, r *http.Response, fail func(error) error) (*backend.Body, error) {
	e := entry(name, r, r.ContentLength)
	if o.Offset > 0 && e.Size >= 0 && o.Offset >= e.Size {
		return nil, w.fail("open", name, backend.Range, fmt.Errorf("it has %d bytes", e.Size))
	}
	if o.Offset > maxSkip {
		return nil, w.fail("open", name, backend.Unsupported, errors.New("the server sends whole files only; ranges do not work there"))
	}
	all, err := backend.NewBody(r.Body, e, backend.OpenOptions{}, r.ContentLength, "", fail)
	if err != nil {
		return nil, err
	}
	if o.Header() == "" {
		return all, nil
	}
	n, err := io.CopyN(io.Discard, all, o.Offset)
	if errors.Is(err, io.EOF) {
		return nil, w.fail("open", name, backend.Range, fmt.Errorf("it has %d bytes", n))
	}
	if err != nil {
		return nil, err
	}
	length := int64(-1)
	if e.Size >= 0 {
		length = e.Size - o.Offset
	}
	if o.Length > 0 && (length < 0 || o.Length < length) {
		all.ReadCloser = &part{io.LimitReader(all.ReadCloser, o.Length), all.ReadCloser}
		if length >= 0 {
			length = o.Length
		}
	}
	return &backend.Body{ReadCloser: all.ReadCloser, Entry: e, Offset: o.Offset, Length: length}, nil
}

type part struct {
	io.Reader
	io.Closer
}
