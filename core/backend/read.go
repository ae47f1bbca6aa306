package backend

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Header is the Range header of what is to be read; "" for all of an object.
func (o OpenOptions) Header() string {
	switch {
	case o.Length > 0:
		return fmt.Sprintf("bytes=%d-%d", o.Offset, o.Offset+o.Length-1)
	case o.Offset > 0:
		return fmt.Sprintf("bytes=%d-", o.Offset)
	}
	return ""
}

// ParseContentRange reads the header that an answer with a part of an object has; size is -1 where it is not said.
func ParseContentRange(text string) (offset, length, size int64, err error) {
	bad := fmt.Errorf("the answer's Content-Range %.60q is none", text)
	text, found := strings.CutPrefix(text, "bytes ")
	part, whole, slash := strings.Cut(text, "/")
	from, to, dash := strings.Cut(part, "-")
	if !found || !slash || !dash {
		return 0, 0, 0, bad
	}
	first, err := strconv.ParseInt(from, 10, 64)
	if err != nil {
		return 0, 0, 0, bad
	}
	last, err := strconv.ParseInt(to, 10, 64)
	if err != nil {
		return 0, 0, 0, bad
	}
	size = -1
	if whole != "*" {
		if size, err = strconv.ParseInt(whole, 10, 64); err != nil {
			return 0, 0, 0, bad
		}
	}
	switch {
	case size >= 0 && first >= size: // Azurite, instead of an error 416
		return 0, 0, 0, &Error{Kind: Range}
	case first < 0 || last < first || size >= 0 && last >= size:
		return 0, 0, 0, bad
	}
	return first, last - first + 1, size, nil
}

// NewBody makes the body of an answer: its length is what the answer said, in Content-Length or by contentRange ("" for a whole
// object). fail makes an *Error of what reading it meets. An answer with another range than was asked for is an error:
// its bytes would be taken for others. So is one with another tag, from servers that do not know conditions.
func NewBody(rc io.ReadCloser, e Entry, o OpenOptions, length int64, contentRange string, fail func(error) error) (*Body, error) {
	b := &Body{Entry: e, Offset: o.Offset, Length: length}
	if o.Tag != "" && e.Tag != "" && e.Tag != o.Tag {
		_ = rc.Close()
		return nil, fail(&Error{Kind: Changed, Err: fmt.Errorf("it has tag %q, and %q was asked for", e.Tag, o.Tag)})
	}
	if o.Header() != "" {
		offset, n, size, err := ParseContentRange(contentRange)
		if err == nil && (offset != o.Offset || o.Length > 0 && n > o.Length || length >= 0 && n != length) {
			err = fmt.Errorf("the answer has %q, and %q was asked for", contentRange, o.Header())
		}
		if err != nil {
			_ = rc.Close()
			if KindOf(err) != Range {
				err = &Error{Kind: Unsupported, Err: fmt.Errorf("ranges do not work there: %w", err)}
			}
			return nil, fail(err)
		}
		b.Length, b.Entry.Size = n, size
	}
	b.ReadCloser = &reader{ReadCloser: rc, left: b.Length, fail: fail}
	return b, nil
}

// Untagged is the error of an answer without a tag, of a service whose objects all have one. It is not the service's but
// somebody's on the way, such as a proxy that wants its user to log in: nothing was read or stored, whatever it says.
func (a Address) Untagged(op, name string) error {
	return &Error{Backend: a.String(), Op: op, Name: name, Kind: Passing, Err: errUntagged}
}

var errUntagged = errors.New("the answer has no tag: it is not the service's own")

// NoListing is the error of an answer that is none to a request for a listing: it would be taken for an empty one.
func (a Address) NoListing() error {
	return &Error{Backend: a.String(), Op: "list", Kind: Passing, Err: errors.New("the answer is no listing: it is not the service's own")}
}

// NewTaggedBody is NewBody for services whose objects all have a tag; see Untagged.
func NewTaggedBody(rc io.ReadCloser, e Entry, o OpenOptions, length int64, contentRange string, fail func(error) error) (*Body, error) {
	if e.Tag == "" {
		_ = rc.Close()
		return nil, fail(&Error{Kind: Passing, Err: errUntagged})
	}
	return NewBody(rc, e, o, length, contentRange, fail)
}

// reader ends with an *Error where it ends early.
type reader struct {
	io.ReadCloser
	left int64 // -1: not known
	fail func(error) error
	err  error
}

func (r *reader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	n, err := r.ReadCloser.Read(p)
	if r.left >= 0 {
		if int64(n) > r.left {
			n, err = int(r.left), errors.New("the answer is longer than it said")
		}
		r.left -= int64(n)
	}
	switch {
	case err == nil:
		return n, nil
	case !errors.Is(err, io.EOF):
		r.err = r.fail(err)
	case r.left > 0:
		r.err = r.fail(io.ErrUnexpectedEOF)
	default:
		r.err = io.EOF
	}
	return n, r.err
}
