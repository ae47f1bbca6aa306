// Package remote makes a backend of another cluster: ss://HOST:PORT/BUCKET/PREFIX, where HOST:PORT is one of its gateways.
// Metadata comes from there, data from its targets, so that both have to be within reach. Field of a secret: token.
package remote

import (
	"context"
	"errors"
	"io"
	"iter"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/backend"
)

// Cluster is a part of a bucket of another cluster.
type Cluster struct {
	address   backend.Address
	bucket    string
	prefix    string // of its objects' names there
	client    *api.Client
	transport *http.Transport
}

// Open opens a part of a bucket of another cluster.
func Open(_ context.Context, c backend.Config) (backend.Backend, error) {
	if err := c.CheckFields("token"); err != nil {
		return nil, err
	}
	bucket, path, _ := strings.Cut(c.Path, "/")
	if bucket == "" {
		return nil, &backend.Error{
			Backend: c.Address.String(), Op: "connect", Kind: backend.Unsupported, Err: errors.New("it names no bucket; write ss://HOST:PORT/BUCKET"),
		}
	}
	transport, err := c.Transport()
	if err != nil {
		return nil, err
	}
	token := c.Credentials["token"]
	client, err := api.NewClient(api.Options{
		Endpoint: "http://" + c.Host, Token: token, NoToken: token == "", Timeout: c.Timeout, RetryFor: -1,
		Transport: &passing{transport, c.Via},
	})
	if err != nil {
		return nil, &backend.Error{Backend: c.Address.String(), Op: "connect", Kind: backend.Unsupported, Err: err}
	}
	return &Cluster{
		address: c.Address, bucket: bucket, prefix: backend.Address{Path: path}.Prefix(), client: client, transport: transport,
	}, nil
}

// passing tells the other cluster which buckets a request came through.
type passing struct {
	*http.Transport
	via string // the bucket that asks; "": none
}

// RoundTrip implements http.RoundTripper.
func (p *passing) RoundTrip(r *http.Request) (*http.Response, error) {
	via := slices.Clone(backend.Via(r.Context()))
	if p.via != "" {
		via = append(via, p.via)
	}
	if len(via) > 0 {
		r = r.Clone(r.Context())
		r.Header.Set(api.HeaderVia, api.FormatVia(via))
	}
	return p.Transport.RoundTrip(r)
}

// fail makes an *Error of what the client says.
func (c *Cluster) fail(ctx context.Context, op, name string, err error) error {
	e := &backend.Error{Backend: c.address.String(), Op: op, Name: name}
	var answer *api.Error
	if errors.As(err, &answer) && answer.Cause != nil {
		err = answer.Cause
	} else if ctx.Err() == nil && answer != nil {
		e.Kind, e.Status, e.Err = kindOf(answer), answer.Status, errors.New(answer.Message)
		return e
	}
	e.Kind, e.Err = backend.Broken(ctx, err)
	return e
}

func kindOf(e *api.Error) backend.Kind {
	switch e.Code {
	case api.CodeNotFound:
		return backend.NotFound
	case api.CodeNoBucket:
		return backend.NoBucket
	case api.CodePrecondition, api.CodeChanged:
		return backend.Changed
	case api.CodeRange:
		return backend.Range
	case api.CodeBadChecksum:
		return backend.Corrupt
	case api.CodeBusy, api.CodeBackendBusy:
		return backend.Busy
	case api.CodeUnavailable, api.CodeTooFew:
		return backend.Passing
	case api.CodeLoop:
		return backend.Loop
	case api.CodeReadOnly:
		return backend.Unsupported
	case api.CodeCorrupt, api.CodeDenied, api.CodeBackend, api.CodeNoSpace: // another attempt meets the same
		return backend.Failed
	}
	return backend.KindOfStatus(e.Status)
}

// entry is an object there. size is the whole object's.
func (c *Cluster) entry(o api.Object, size int64) backend.Entry {
	e := backend.Entry{
		Name: strings.TrimPrefix(o.Name, c.prefix), Size: size, Modified: o.Created, Tag: o.ETag, ContentType: o.ContentType,
	}
	// What a cluster has but described has no checksum yet.
	if sum, err := strconv.ParseUint(o.XXH3, 16, 64); err == nil && sum != 0 {
		e.Sums.XXH3 = &sum
	}
	return e
}

// List implements backend.Backend.
func (c *Cluster) List(ctx context.Context, prefix, after string) iter.Seq2[backend.Entry, error] {
	return func(yield func(backend.Entry, error) bool) {
		o := api.ListOptions{Prefix: c.prefix + prefix, StartAfter: after}
		if after != "" {
			o.StartAfter = c.prefix + after
		}
		for object, err := range c.client.Objects(ctx, c.bucket, o) {
			if err == nil && object.ETag == "" { // of a bucket that has a backend itself: it knows by asking that
				listed := object
				object, err = c.client.StatObject(ctx, c.bucket, listed.Name)
				var answer *api.Error
				switch errors.As(err, &answer); {
				case answer == nil:
				case answer.Code == api.CodeNotFound:
					continue // removed meanwhile
				case listed.Size < 0 && (answer.Code == api.CodeDenied || answer.Code == api.CodeBackend):
					object, err = listed, nil // its own backend refuses it, and nothing else
				}
			}
			if err != nil {
				yield(backend.Entry{}, c.fail(ctx, "list", "", err))
				return
			}
			if !yield(c.entry(object, object.Size), nil) {
				return
			}
		}
	}
}

// Stat implements backend.Backend.
func (c *Cluster) Stat(ctx context.Context, name string) (backend.Entry, error) {
	object, err := c.client.StatObject(ctx, c.bucket, c.prefix+name)
	if err != nil {
		return backend.Entry{}, c.fail(ctx, "stat", name, err)
	}
	if object.ETag == "" {
		return backend.Entry{}, c.address.Untagged("stat", name)
	}
	return c.entry(object, object.Size), nil
}

// Open implements backend.Backend.
func (c *Cluster) Open(ctx context.Context, name string, o backend.OpenOptions) (*backend.Body, error) {
	r, err := c.client.GetObject(ctx, c.bucket, c.prefix+name, api.GetOptions{Offset: o.Offset, Length: o.Length, IfMatch: o.Tag})
	if err != nil {
		return nil, c.fail(ctx, "open", name, err)
	}
	if r.Object.ETag == "" {
		_ = r.Close()
		return nil, c.address.Untagged("open", name)
	}
	return &backend.Body{
		ReadCloser: &body{r, func(err error) error { return c.fail(ctx, "read", name, err) }},
		Entry:      c.entry(r.Object, r.Total), Offset: o.Offset, Length: r.Object.Size,
	}, nil
}

// body makes *backend.Errors of what reading meets.
type body struct {
	*api.ObjectReader
	fail func(error) error
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ObjectReader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = b.fail(err)
	}
	return n, err
}

// Put implements backend.Backend. A cluster stores whole objects or none, and compares checksums.
func (c *Cluster) Put(ctx context.Context, name string, source io.ReadSeeker, size int64, o backend.PutOptions) (backend.Entry, error) {
	sums := o.Sums
	// The cluster compares XXH3 alone, and without it would keep what is sent of a body that is longer than it was said to be.
	if sums.XXH3 == nil || sums.MD5 != nil || sums.SHA256 != nil || sums.CRC32C != nil {
		var err error
		if sums, err = backend.Summed(source, size, o.Sums, backend.Sums{XXH3: new(uint64)}); err != nil {
			e := &backend.Error{Backend: c.address.String(), Op: "put", Name: name, Kind: backend.KindOf(err), Err: err}
			return backend.Entry{}, e
		}
	}
	start, err := source.Seek(0, io.SeekCurrent)
	if err != nil {
		return backend.Entry{}, c.fail(ctx, "put", name, err)
	}
	options := api.PutOptions{ContentType: o.ContentType, Meta: o.Meta, Checksums: api.Checksums{XXH3: sums.XXH3}}
	object, err := c.client.PutObject(ctx, c.bucket, c.prefix+name, source, size, options)
	var answer *api.Error
	if errors.As(err, &answer) && answer.Code == api.CodeBadArchive { // whoever puts it takes it as it is
		options.Opaque = true
		if _, err = source.Seek(start, io.SeekStart); err == nil {
			object, err = c.client.PutObject(ctx, c.bucket, c.prefix+name, source, size, options)
		}
	}
	if err != nil {
		return backend.Entry{}, c.fail(ctx, "put", name, err)
	}
	if object.ETag == "" {
		return backend.Entry{}, c.address.Untagged("put", name)
	}
	object.Name = c.prefix + name
	return c.entry(object, object.Size), nil
}

// Delete implements backend.Backend.
func (c *Cluster) Delete(ctx context.Context, name string) error {
	err := c.client.DeleteObject(ctx, c.bucket, c.prefix+name)
	var answer *api.Error
	if errors.As(err, &answer) && answer.Code == api.CodeNotFound {
		return nil
	}
	if err != nil {
		return c.fail(ctx, "delete", name, err)
	}
	return nil
}

// Close implements backend.Backend.
func (c *Cluster) Close() error {
	c.client.Close()
	c.transport.CloseIdleConnections()
	return nil
}
