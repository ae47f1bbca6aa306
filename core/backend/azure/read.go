package azure

import (
	"context"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"

	"github.com/shardstream/shardstream/core/backend"
)

func (b *bucket) Stat(ctx context.Context, name string) (backend.Entry, error) {
	out, err := b.container.NewBlobClient(b.key(name)).GetProperties(ctx, nil)
	if err != nil {
		return backend.Entry{}, b.fail(ctx, "stat", name, err)
	}
	if tag(out.ETag) == "" {
		return backend.Entry{}, b.Untagged("stat", name)
	}
	return backend.Entry{
		Name:        name,
		Size:        orZero(out.ContentLength),
		Modified:    orZero(out.LastModified),
		Tag:         tag(out.ETag),
		ContentType: orZero(out.ContentType),
		Sums:        backend.Sums{MD5: md5(out.ContentMD5)},
	}, nil
}

func (b *bucket) Open(ctx context.Context, name string, o backend.OpenOptions) (*backend.Body, error) {
	in := &blob.DownloadStreamOptions{Range: blob.HTTPRange{Offset: o.Offset, Count: o.Length}}
	if o.Tag != "" {
		etag := azcore.ETag(`"` + o.Tag + `"`)
		in.AccessConditions = &blob.AccessConditions{ModifiedAccessConditions: &blob.ModifiedAccessConditions{IfMatch: &etag}}
	}
	out, err := b.container.NewBlobClient(b.key(name)).DownloadStream(ctx, in)
	if err != nil {
		return nil, b.fail(ctx, "open", name, err)
	}
	length := int64(-1)
	if out.ContentLength != nil {
		length = *out.ContentLength
	}
	e := backend.Entry{
		Name:        name,
		Size:        length,
		Modified:    orZero(out.LastModified),
		Tag:         tag(out.ETag),
		ContentType: orZero(out.ContentType),
	}
	// Of a range, Content-MD5 would be the range's.
	if o.Header() == "" {
		e.Sums.MD5 = md5(out.ContentMD5)
	} else {
		e.Sums.MD5 = md5(out.BlobContentMD5)
	}
	return backend.NewTaggedBody(out.Body, e, o, length, orZero(out.ContentRange), func(err error) error {
		return b.fail(ctx, "read", name, err)
	})
}

func orZero[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// tag is an ETag without its quotes, which a listing does not have.
func tag(etag *azcore.ETag) string { return strings.Trim(string(orZero(etag)), `"`) }

func md5(sum []byte) []byte {
	if len(sum) != 16 {
		return nil
	}
	return sum
}
