package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/zeebo/xxh3"
)

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
