package api

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Object is an object's entry in a listing and the answer to a PUT.
type Object struct {
	Bucket      string            `json:"bucket"`
	Name        string            `json:"name"`
	Size        int64             `json:"size"`
	Version     uint64            `json:"version"`
	XXH3        string            `json:"xxh3"`
	CRC32       string            `json:"crc32"`
	ETag        string            `json:"etag"`
	Created     time.Time         `json:"created"`
	ContentType string            `json:"content_type,omitempty"`
	Archive     string            `json:"archive,omitempty"` // "tar" where members are indexed
	Members     int64             `json:"members,omitempty"`
	Samples     int64             `json:"samples,omitempty"`
	MaxSample   int64             `json:"max_sample,omitempty"` // bytes of its largest sample
	Meta        map[string]string `json:"meta,omitempty"`
	// Cached says, in a bucket with a backend, whether the bytes are in the cluster.
	Cached *bool `json:"cached,omitempty"`
}

// ObjectList is one page of a listing, sorted by name.
type ObjectList struct {
	Objects  []Object `json:"objects"`
	Prefixes []string `json:"prefixes,omitempty"` // with a delimiter
	Next     string   `json:"next,omitempty"`     // pass as start_after; empty on the last page
}

// Names asks a target, on behalf of a gateway, which of the objects of a bucket it has; the answer is an
// ObjectList.
type Names struct {
	Names []string `json:"names"`
}

// Location is the answer to GET ?op=locate and `object locate --json`.
type Location struct {
	Object  string `json:"object"` // ss://bucket/key
	Version uint64 `json:"version"`
	URL     string `json:"url"` // of the owner, whether or not the object exists (version 0)
	Copies  []Copy `json:"copies"`
}

// Copy is one stored copy of an object.
type Copy struct {
	Node  string   `json:"node"`
	Disk  string   `json:"disk"`
	Kind  string   `json:"kind"`            // KindWhole, KindSlice or KindStub
	Slice int      `json:"slice,omitempty"` // which one, of a slice
	Files []string `json:"files"`
	// Version is the copy's; one that is lower than the object's is on its way out.
	Version uint64 `json:"version,omitempty"`
}

// Kinds of copies.
const (
	KindWhole = "whole"
	KindSlice = "slice" // of an erasure-coded object
	KindStub  = "stub"  // all but the bytes, which are in slices or at a backend
	KindCache = "cache" // a whole copy that may be dropped, as slices or a backend have the bytes, too
)

// maxHops bounds the redirects of one request.
const maxHops = 5

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
