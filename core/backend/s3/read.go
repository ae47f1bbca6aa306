package s3

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"iter"
	"net/url"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"

	"github.com/shardstream/shardstream/core/backend"
)

func (b *bucket) List(ctx context.Context, prefix, after string) iter.Seq2[backend.Entry, error] {
	return backend.Listing(ctx, b.Address, func(yield func(backend.Entry, error) bool) {
		in := &s3.ListObjectsV2Input{
			Bucket: &b.Host,
			Prefix: b.key(prefix),
			// Names may have characters that XML can't.
			EncodingType: types.EncodingTypeUrl,
		}
		if after != "" {
			in.StartAfter = b.key(after)
		}
		for {
			page, err := b.client.ListObjectsV2(ctx, in)
			if err != nil {
				yield(backend.Entry{}, b.fail(ctx, "list", "", err))
				return
			}
			if page.Name == nil && page.KeyCount == nil && page.IsTruncated == nil {
				yield(backend.Entry{}, b.NoListing())
				return
			}
			for _, o := range page.Contents {
				key := aws.ToString(o.Key)
				if page.EncodingType == types.EncodingTypeUrl {
					if key, err = url.QueryUnescape(key); err != nil {
						yield(backend.Entry{}, b.fail(ctx, "list", "", err))
						return
					}
				}
				e := backend.Entry{Name: key, Size: aws.ToInt64(o.Size), Modified: aws.ToTime(o.LastModified), Tag: tag(o.ETag)}
				if !yield(e, nil) {
					return
				}
			}
			if !aws.ToBool(page.IsTruncated) {
				return
			}
			if page.NextContinuationToken == nil { // what is left must not look as if it were not there
				yield(backend.Entry{}, b.fail(ctx, "list", "", errors.New("the listing goes on, and the answer does not say where")))
				return
			}
			in.ContinuationToken = page.NextContinuationToken
		}
	})
}

func (b *bucket) Stat(ctx context.Context, name string) (backend.Entry, error) {
	out, err := b.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &b.Host, Key: b.key(name), ChecksumMode: types.ChecksumModeEnabled})
	if err != nil {
		err = b.fail(ctx, "stat", name, err)
		if backend.KindOf(err) == backend.NotFound {
			err = b.absent(ctx, name, err)
		}
		return backend.Entry{}, err
	}
	if tag(out.ETag) == "" {
		return backend.Entry{}, b.Untagged("stat", name)
	}
	return backend.Entry{
		Name:        name,
		Size:        aws.ToInt64(out.ContentLength),
		Modified:    aws.ToTime(out.LastModified),
		Tag:         tag(out.ETag),
		ContentType: aws.ToString(out.ContentType),
		Sums: b.sums(known{
			etag: out.ETag, crc32c: out.ChecksumCRC32C, sha256: out.ChecksumSHA256, kind: out.ChecksumType,
			encryption: out.ServerSideEncryption, customer: out.SSECustomerAlgorithm,
		}),
	}, nil
}

// absent finds out what it is that is not there: the answer to a HEAD has no body that says it. Who may read objects but not
// list them is believed.
func (b *bucket) absent(ctx context.Context, name string, err error) error {
	_, gone := b.client.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: &b.Host, Prefix: b.key(name), MaxKeys: aws.Int32(1)})
	var answer smithy.APIError
	if gone == nil || errors.As(gone, &answer) && answer.ErrorCode() == "AccessDenied" {
		return err
	}
	return b.fail(ctx, "stat", name, gone)
}

func (b *bucket) Open(ctx context.Context, name string, o backend.OpenOptions) (*backend.Body, error) {
	in := &s3.GetObjectInput{Bucket: &b.Host, Key: b.key(name)}
	if o.Tag != "" {
		in.IfMatch = aws.String(`"` + o.Tag + `"`)
	}
	if part := o.Header(); part != "" {
		in.Range = &part
	} else {
		in.ChecksumMode = types.ChecksumModeEnabled
	}
	out, err := b.client.GetObject(ctx, in)
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
		Modified:    aws.ToTime(out.LastModified),
		Tag:         tag(out.ETag),
		ContentType: aws.ToString(out.ContentType),
	}
	if in.Range == nil {
		e.Sums = b.sums(known{
			etag: out.ETag, crc32c: out.ChecksumCRC32C, sha256: out.ChecksumSHA256, kind: out.ChecksumType,
			encryption: out.ServerSideEncryption, customer: out.SSECustomerAlgorithm,
		})
	}
	return backend.NewTaggedBody(out.Body, e, o, length, aws.ToString(out.ContentRange), func(err error) error {
		return b.fail(ctx, "read", name, err)
	})
}

// tag is an ETag without its quotes.
func tag(etag *string) string { return strings.Trim(aws.ToString(etag), `"`) }

// known is what an answer says of an object's checksums.
type known struct {
	etag, crc32c, sha256 *string
	kind                 types.ChecksumType
	encryption           types.ServerSideEncryption
	customer             *string
}

// sums are the checksums that are of the whole object, as it is read. An ETag is its MD5 only where it was put in one
// request, and is not encrypted with a key of somebody's.
func (b *bucket) sums(k known) backend.Sums {
	var s backend.Sums
	parts := strings.Contains(aws.ToString(k.etag), "-")
	plain := k.customer == nil && (k.encryption == "" || k.encryption == types.ServerSideEncryptionAes256)
	if raw, err := hex.DecodeString(tag(k.etag)); b.md5 && plain && !parts && err == nil && len(raw) == 16 {
		s.MD5 = raw
	}
	if k.kind != types.ChecksumTypeFullObject && (k.kind != "" || parts) {
		return s
	}
	if raw := decode(k.crc32c, 4); raw != nil {
		c := binary.BigEndian.Uint32(raw)
		s.CRC32C = &c
	}
	s.SHA256 = decode(k.sha256, 32)
	return s
}

func decode(text *string, size int) []byte {
	raw, err := base64.StdEncoding.DecodeString(aws.ToString(text))
	if err != nil || len(raw) != size {
		return nil
	}
	return raw
}
