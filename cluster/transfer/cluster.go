package transfer

import (
	"context"
	"errors"
	"io"
	"iter"
	"net/http"
	"strconv"
	"strings"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/backend"
)

// Cluster is a bucket of a cluster, or what is below a prefix of it.
type Cluster struct {
	client  *api.Client
	address string // as messages have it
	bucket  string
	prefix  string // "" or ending in a slash
	sites   []Site
}

// NewCluster makes a side of a bucket, which must exist. The address is the bucket's, such as ss://HOST:PORT/digits.
func NewCluster(ctx context.Context, client *api.Client, address, bucket, prefix string) (*Cluster, error) {
	b, err := client.Bucket(ctx, bucket)
	if err != nil {
		return nil, err
	}
	m, err := client.Map(ctx)
	if err != nil {
		return nil, err
	}
	c := &Cluster{client: client, address: strings.TrimSuffix(address, "/") + "/" + prefix, bucket: bucket, prefix: prefix}
	c.sites = []Site{{Store: "cluster " + m.Cluster + " " + bucket, Path: prefix}}
	if b.Backend != nil { // what is copied to the bucket may end up there
		at, err := backend.ParseAddress(b.Backend.URL)
		if err == nil {
			c.sites = append(c.sites, siteOf(at, prefix))
		}
	}
	return c, nil
}

func (c *Cluster) String() string { return c.address }

// Sites implements Side.
func (c *Cluster) Sites() []Site { return c.sites }

// List implements Side.
func (c *Cluster) List(ctx context.Context, prefix string) iter.Seq2[File, error] {
	return func(yield func(File, error) bool) {
		for object, err := range c.client.Objects(ctx, c.bucket, api.ListOptions{Prefix: c.prefix + prefix}) {
			if err != nil {
				yield(File{}, err)
				return
			}
			if !yield(c.file(object), nil) {
				return
			}
		}
	}
}

func (c *Cluster) file(o api.Object) File {
	f := File{Entry: backend.Entry{
		Name: strings.TrimPrefix(o.Name, c.prefix), Size: o.Size, Modified: o.Created, Tag: o.ETag, ContentType: o.ContentType,
	}, Meta: o.Meta}
	// Of what a cluster knows but has never read the checksum is none, or zero.
	if sum, err := strconv.ParseUint(o.XXH3, 16, 64); err == nil && sum != 0 {
		f.Sums.XXH3 = &sum
	}
	return f
}

// Stat implements Side.
func (c *Cluster) Stat(ctx context.Context, name string) (File, error) {
	object, err := c.client.StatObject(ctx, c.bucket, c.prefix+name)
	if err != nil {
		return File{}, c.failure("stat", name, err)
	}
	return c.file(object), nil
}

// Open implements Side.
func (c *Cluster) Open(ctx context.Context, name string, offset int64, tag string) (io.ReadCloser, error) {
	reader, err := c.client.GetObject(ctx, c.bucket, c.prefix+name, api.GetOptions{Offset: offset, IfMatch: tag})
	if err != nil {
		return nil, c.failure("open", name, err)
	}
	return &clusterReader{ObjectReader: reader, side: c, name: name}, nil
}

// clusterReader says what goes wrong in terms of this package.
type clusterReader struct {
	*api.ObjectReader
	side *Cluster
	name string
}

// Read implements io.Reader.
func (r *clusterReader) Read(p []byte) (int, error) {
	n, err := r.ObjectReader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = r.side.failure("read", r.name, err)
	}
	return n, err
}

// Put implements Side. The client compares what was stored with what it sent.
func (c *Cluster) Put(ctx context.Context, name string, body *Body, size int64, o PutOptions) (File, error) {
	options := api.PutOptions{
		ContentType: o.ContentType, Opaque: o.Opaque, Meta: userMeta(o.Source.Meta),
		Checksums: api.Checksums{XXH3: o.Source.Sums.XXH3},
	}
	if options.ContentType == "" {
		options.ContentType = o.Source.ContentType
	}
	if o.NoOverwrite {
		options.IfNoneMatch = "*"
	}
	var reader io.Reader = body
	if size < 0 {
		reader = struct{ io.Reader }{body} // it may be a pipe, which can't be sent twice
	}
	// The client takes a failure of the source for one of the cluster, which may pass: it must not send again.
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	body.stop = stop
	object, err := c.client.PutObject(ctx, c.bucket, c.prefix+name, reader, size, options)
	if err != nil {
		if source := body.failure(); source != nil {
			return File{}, source
		}
		return File{}, c.failure("put", name, err)
	}
	return c.file(object), nil
}

// userMeta leaves out what clusters keep for themselves.
func userMeta(meta map[string]string) map[string]string {
	var users map[string]string
	for name, value := range meta {
		if strings.HasPrefix(name, "shardstream-") {
			continue
		}
		if users == nil {
			users = map[string]string{}
		}
		users[name] = value
	}
	return users
}

// Delete implements Side.
func (c *Cluster) Delete(ctx context.Context, name string) error {
	err := c.failure("delete", name, c.client.DeleteObject(ctx, c.bucket, c.prefix+name))
	if backend.KindOf(err) == backend.NotFound {
		return nil
	}
	return err
}

// failure tells apart what callers do. Messages of a cluster name the object already, and what to do.
func (c *Cluster) failure(op, name string, err error) error {
	var answer *api.Error
	var known *backend.Error
	if err == nil || errors.As(err, &known) || errors.Is(err, context.Canceled) || !errors.As(err, &answer) {
		return err
	}
	kind := backend.Failed
	switch answer.Code {
	case api.CodeNotFound:
		return failure(c, op, name, backend.NotFound, nil)
	case api.CodeNoBucket:
		kind = backend.NoBucket
	case api.CodePrecondition, api.CodeChanged:
		if op == "put" && answer.Status == http.StatusPreconditionFailed {
			return failure(c, op, name, backend.Failed, ErrExists)
		}
		kind = backend.Changed
	case api.CodeBadChecksum, api.CodeCorrupt:
		kind = backend.Corrupt
	case api.CodeUnavailable, api.CodeBackendBusy:
		kind = backend.Passing
	case api.CodeBusy:
		kind = backend.Busy
	case api.CodeDenied:
		kind = backend.Denied
	}
	return failure(c, op, name, kind, err)
}

// Close implements Side. The client is its maker's.
func (c *Cluster) Close() error { return nil }

func hasCode(err error, code string) bool {
	var answer *api.Error
	return errors.As(err, &answer) && answer.Code == code
}
