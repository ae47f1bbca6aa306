package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/zeebo/xxh3"
)

// maxHops bounds the redirects of one request.
const maxHops = 5

// PutOptions describe an object that is put.
type PutOptions struct {
	ContentType string
	Meta        map[string]string
	Checksums   Checksums // where the caller knows them; the target refuses other bytes
	Opaque      bool      // store an archive unindexed
	IfMatch     string    // ETag that the present object must have, or "*"
	IfNoneMatch string    // "*": put only where there is none
}

// PutObject stores size bytes of body (-1: as many as there are) and returns once they are durable.
// The answer's checksum is compared with that of the bytes that were sent. Where body is an io.Seeker,
// it is sent again after a failure that passes; elsewhere a failure is final.
func (c *Client) PutObject(ctx context.Context, bucket, key string, body io.Reader, size int64, o PutOptions) (Object, error) {
	var object Object
	seeker, start, ok := seekable(body)
	if !ok {
		// The body can be sent but once: make sure of the map first.
		_, err := c.RefreshMap(ctx)
		if err == nil {
			object, err = c.putOnce(ctx, bucket, key, body, size, o)
		}
		return object, err
	}
	err := c.retry(ctx, func() (err error) {
		if _, err := seeker.Seek(start, io.SeekStart); err != nil {
			return fmt.Errorf("send %s again: %w", Address(bucket, key), err)
		}
		lent := &lentReader{source: body}
		defer lent.takeBack()
		object, err = c.putOnce(ctx, bucket, key, lent, size, o)
		return err
	})
	return object, err
}

// lentReader lends a source to one request. A transport may go on reading a body after it has given up the request; the
// next attempt must have the source to itself.
type lentReader struct {
	mu     sync.Mutex
	source io.Reader // nil once it was taken back
}

func (l *lentReader) Read(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.source == nil {
		return 0, errTakenBack
	}
	return l.source.Read(p)
}

// takeBack returns when nobody reads the source any more, nor will.
func (l *lentReader) takeBack() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.source = nil
}

var errTakenBack = errors.New("the request that this body was for has ended")

// seekable tells whether a body can be read twice, and from where. Standard input is an io.Seeker
// that can't seek where it is a pipe.
func seekable(body io.Reader) (io.Seeker, int64, bool) {
	seeker, ok := body.(io.Seeker)
	if !ok {
		return nil, 0, false
	}
	start, err := seeker.Seek(0, io.SeekCurrent)
	return seeker, start, err == nil
}

func (c *Client) putOnce(ctx context.Context, bucket, key string, body io.Reader, size int64, o PutOptions) (Object, error) {
	owner, err := c.owner(ctx, bucket, key)
	if err != nil {
		return Object{}, err
	}
	ctx, guard := newGuard(ctx, c.options.Timeout)
	defer guard.stop()
	sum := xxh3.New()
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://"+owner.Addr+ObjectPath(bucket, key), http.NoBody)
	if err != nil {
		return Object{}, fmt.Errorf("put %s: %w", Address(bucket, key), err)
	}
	request.ContentLength = size
	if size != 0 {
		request.Body = io.NopCloser(guard.writing(io.TeeReader(body, sum)))
	}
	setPutHeader(request.Header, o)
	response, err := c.do(request, owner, false)
	if err != nil {
		return Object{}, err
	}
	defer drain(response)
	switch {
	case response.StatusCode >= 400:
		return Object{}, ErrorOf(response)
	case response.StatusCode >= 300: // this node is not the owner by a newer map
		c.forgetMap()
		return Object{}, Errorf(http.StatusServiceUnavailable, CodeUnavailable,
			"%s has moved to another target while it was sent; send it again", Address(bucket, key))
	}
	var object Object
	if err := json.NewDecoder(io.LimitReader(response.Body, 1<<20)).Decode(&object); err != nil {
		return Object{}, fmt.Errorf("put %s: the answer does not parse: %w", Address(bucket, key), err)
	}
	if sent := FormatXXH3(sum.Sum64()); object.XXH3 != sent {
		return object, Errorf(http.StatusBadRequest, CodeBadChecksum,
			"%s was stored as other bytes than were sent (xxh3 %s, sent %s); send it again", Address(bucket, key), object.XXH3, sent)
	}
	return object, nil
}

func setPutHeader(h http.Header, o PutOptions) {
	for name, value := range map[string]string{
		"Content-Type": o.ContentType, HeaderChecksum: o.Checksums.String(),
		"If-Match": o.IfMatch, "If-None-Match": o.IfNoneMatch,
	} {
		if value != "" {
			h.Set(name, value)
		}
	}
	if o.Opaque {
		h.Set(HeaderArchive, "none")
	}
	for name, value := range o.Meta {
		h.Set(HeaderMetaPrefix+name, value)
	}
}

// StatObject describes an object without its bytes.
func (c *Client) StatObject(ctx context.Context, bucket, key string) (Object, error) {
	var object Object
	err := c.retry(ctx, func() error {
		ctx, cancel := context.WithTimeoutCause(ctx, c.options.Timeout, errStalled)
		defer cancel()
		response, err := c.send(ctx, http.MethodHead, bucket, key, nil, nil)
		if err != nil {
			return err
		}
		defer drain(response)
		if response.StatusCode >= 300 {
			return describe(ErrorOf(response), bucket, key)
		}
		object = ObjectOf(response.Header, bucket, key)
		object.Size = response.ContentLength
		return nil
	})
	return object, err
}

// DeleteObject removes an object; CodeNotFound if there is none. After a failure that passes it is
// repeated, and finding nothing then is success.
func (c *Client) DeleteObject(ctx context.Context, bucket, key string) error {
	again := false
	return c.retry(ctx, func() error {
		ctx, cancel := context.WithTimeoutCause(ctx, c.options.Timeout, errStalled)
		defer cancel()
		response, err := c.send(ctx, http.MethodDelete, bucket, key, nil, nil)
		if err != nil {
			again = true
			return err
		}
		defer drain(response)
		if response.StatusCode < 300 {
			return nil
		}
		err = ErrorOf(response)
		var answer *Error
		if again && errors.As(err, &answer) && answer.Code == CodeNotFound {
			return nil
		}
		again = true
		return err
	})
}

// Locate says where the copies of an object lie.
func (c *Client) Locate(ctx context.Context, bucket, key string) (Location, error) {
	return fetch[Location](ctx, c, ObjectPath(bucket, key), url.Values{"op": {"locate"}})
}

// ListOptions select objects of a bucket.
type ListOptions struct {
	Prefix     string
	Delimiter  string // "/": names beyond the next one after the prefix are summed up as Prefixes
	StartAfter string
	Limit      int // of one page; 0: the gateway's own
	// Cached lists what is in the cluster of a bucket with a backend, and does not ask the backend.
	Cached bool
}

// ListObjects is one page of a bucket's listing; ask for the next with its Next as StartAfter.
func (c *Client) ListObjects(ctx context.Context, bucket string, o ListOptions) (ObjectList, error) {
	query := url.Values{}
	for name, value := range map[string]string{"prefix": o.Prefix, "delimiter": o.Delimiter, "start_after": o.StartAfter} {
		if value != "" {
			query.Set(name, value)
		}
	}
	if o.Limit > 0 {
		query.Set("limit", strconv.Itoa(o.Limit))
	}
	if o.Cached {
		query.Set("cached", "true")
	}
	return fetch[ObjectList](ctx, c, bucketPath(bucket)+"/objects", query)
}

// Objects goes through all pages of a listing. An error ends it.
func (c *Client) Objects(ctx context.Context, bucket string, o ListOptions) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		for {
			page, err := c.ListObjects(ctx, bucket, o)
			if err != nil {
				yield(Object{}, err)
				return
			}
			for _, object := range page.Objects {
				if !yield(object, nil) {
					return
				}
			}
			if page.Next == "" {
				return
			}
			o.StartAfter = page.Next
		}
	}
}

func (c *Client) owner(ctx context.Context, bucket, key string) (Node, error) {
	p, err := c.Placer(ctx)
	if err != nil {
		return Node{}, err
	}
	owner, ok := p.Owner(bucket, key)
	if !ok || owner.Away { // of what is mirrored, the first that is not away knows
		owner, ok = p.Primary(bucket, key, 2)
	}
	if !ok {
		c.forgetMap()
		return Node{}, Errorf(http.StatusServiceUnavailable, CodeUnavailable, "the cluster has no target yet: start one")
	}
	return owner, nil
}

// send asks the owner of an object, following redirects. The request has no body.
func (c *Client) send(ctx context.Context, method, bucket, key string, query url.Values, header http.Header) (*http.Response, error) {
	owner, err := c.owner(ctx, bucket, key)
	if err != nil {
		return nil, err
	}
	at := "http://" + owner.Addr + ObjectPath(bucket, key)
	if len(query) > 0 {
		at += "?" + query.Encode()
	}
	for range maxHops {
		request, err := http.NewRequestWithContext(ctx, method, at, http.NoBody)
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", method, Address(bucket, key), err)
		}
		for name, values := range header {
			request.Header[name] = values
		}
		response, err := c.do(request, owner, query.Has("etl"))
		if err != nil {
			return nil, err
		}
		if !redirect(response) {
			return response, nil
		}
		drain(response)
		location, err := response.Location()
		if err != nil || location.Scheme != "http" && location.Scheme != "https" {
			return nil, fmt.Errorf("%s %s: %s redirects nowhere", method, Address(bucket, key), owner.ID)
		}
		at, owner = location.String(), Node{ID: "the node", Addr: location.Host}
	}
	c.forgetMap()
	return nil, Errorf(http.StatusServiceUnavailable, CodeUnavailable, "%s %s: more than %d redirects: it is moving", method, Address(bucket, key), maxHops)
}

func redirect(r *http.Response) bool {
	return r.StatusCode == http.StatusTemporaryRedirect || r.StatusCode == http.StatusPermanentRedirect
}

// do makes one request to a target. One that does not answer makes the map doubtful. A slow request may take any time
// to be answered.
func (c *Client) do(request *http.Request, owner Node, slow bool) (*http.Response, error) {
	c.sign(request)
	client := c.data
	if slow {
		client = c.documents
	}
	response, err := client.Do(request)
	if err != nil {
		c.forgetMap()
		if request.Context().Err() != nil && context.Cause(request.Context()) != errStalled { //nolint:errorlint // set by us
			return nil, err
		}
		failed := Errorf(http.StatusServiceUnavailable, CodeUnavailable, "%s (%s) does not answer: %v", owner.ID, owner.Addr, unwrapURL(err))
		failed.Cause = err
		return nil, failed
	}
	c.noteMap(response.Header)
	if response.StatusCode == http.StatusServiceUnavailable { // others may have taken over from it
		c.forgetMap()
	}
	return response, nil
}

func unwrapURL(err error) error {
	var request *url.Error
	if errors.As(err, &request) {
		return request.Err
	}
	return err
}

// describe adds the object to an error that came without a document.
func describe(err error, bucket, key string) error {
	var answer *Error
	if errors.As(err, &answer) && !strings.Contains(answer.Message, key) {
		answer.Message = Address(bucket, key) + ": " + answer.Message
	}
	return err
}

// ObjectOf reads an object's properties from the headers of an answer.
func ObjectOf(h http.Header, bucket, key string) Object {
	o := Object{
		Bucket: bucket, Name: key,
		ETag: h.Get("ETag"), ContentType: h.Get("Content-Type"), Archive: h.Get(HeaderArchive),
		Members: number(h, HeaderMembers), Samples: number(h, HeaderSamples), MaxSample: number(h, HeaderMaxSample),
	}
	o.Version, _ = strconv.ParseUint(h.Get(HeaderVersion), 10, 64)
	o.Created, _ = time.Parse(http.TimeFormat, h.Get("Last-Modified"))
	if sums, err := ParseChecksums(h.Get(HeaderChecksum)); err == nil {
		if sums.XXH3 != nil {
			o.XXH3 = FormatXXH3(*sums.XXH3)
		}
		if sums.CRC32 != nil {
			o.CRC32 = FormatCRC32(*sums.CRC32)
		}
	}
	for name, values := range h {
		if meta, ok := strings.CutPrefix(name, HeaderMetaPrefix); ok && len(values) > 0 {
			if o.Meta == nil {
				o.Meta = map[string]string{}
			}
			o.Meta[strings.ToLower(meta)] = values[0]
		}
	}
	return o
}

func number(h http.Header, name string) int64 {
	n, _ := strconv.ParseInt(h.Get(name), 10, 64) // absent: 0
	return n
}
