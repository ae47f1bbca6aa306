package s3

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"
	"io"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"golang.org/x/sync/errgroup"

	"github.com/shardstream/shardstream/core/backend"
)

const (
	whole    = 32 << 20 // what is larger is put in parts
	part     = 16 << 20 // at least
	maxParts = 10_000
	atOnce   = 4
	cleanup  = 30 * time.Second
)

func (b *bucket) Put(ctx context.Context, name string, body io.ReadSeeker, size int64, o backend.PutOptions) (backend.Entry, error) {
	sums, err := backend.Summed(body, size, o.Sums, backend.Sums{CRC32C: new(uint32)})
	if err != nil {
		return backend.Entry{}, b.Refused(name, err)
	}
	e := backend.Entry{Name: name, Size: size, ContentType: o.ContentType, Sums: sums}
	if size > whole {
		if e.Tag, err = b.putParts(ctx, name, body, size, o, *sums.CRC32C); err != nil {
			return backend.Entry{}, err
		}
		return b.stored(e)
	}
	in := &s3.PutObjectInput{
		Bucket: &b.Host, Key: b.key(name), Body: body, ContentLength: &size, Metadata: o.Meta,
		ChecksumAlgorithm: types.ChecksumAlgorithmCrc32c, ChecksumCRC32C: encode(*sums.CRC32C),
	}
	if o.ContentType != "" {
		in.ContentType = &o.ContentType
	}
	out, err := b.client.PutObject(ctx, in)
	if err != nil {
		return backend.Entry{}, b.fail(ctx, "put", name, err)
	}
	e.Tag = tag(out.ETag)
	return b.stored(e)
}

// stored is an object that was put, if it was the service that has said so.
func (b *bucket) stored(e backend.Entry) (backend.Entry, error) {
	if e.Tag == "" {
		return backend.Entry{}, b.Untagged("put", e.Name)
	}
	return e, nil
}

// putParts uploads the parts of an object, some at once, and makes an object of them. Where it fails, nothing is left.
func (b *bucket) putParts(
	ctx context.Context, name string, body io.ReadSeeker, size int64, o backend.PutOptions, crc uint32,
) (string, error) {
	in := &s3.CreateMultipartUploadInput{
		Bucket: &b.Host, Key: b.key(name), Metadata: o.Meta,
		ChecksumAlgorithm: types.ChecksumAlgorithmCrc32c, ChecksumType: types.ChecksumTypeFullObject,
	}
	if o.ContentType != "" {
		in.ContentType = &o.ContentType
	}
	upload, err := b.client.CreateMultipartUpload(ctx, in)
	if err != nil {
		return "", b.fail(ctx, "put", name, err)
	}
	etag, err := b.upload(ctx, name, upload, body, size, crc)
	if err != nil {
		// Parts are paid for until they are removed, so this goes on when the caller has left.
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanup)
		defer cancel()
		_, _ = b.client.AbortMultipartUpload(end, &s3.AbortMultipartUploadInput{Bucket: &b.Host, Key: b.key(name), UploadId: upload.UploadId})
		return "", b.fail(ctx, "put", name, err)
	}
	return etag, nil
}

func (b *bucket) upload(
	ctx context.Context, name string, upload *s3.CreateMultipartUploadOutput, body io.ReadSeeker, size int64, crc uint32,
) (string, error) {
	step := max(part, (size+maxParts-1)/maxParts)
	parts := make([]types.CompletedPart, (size+step-1)/step)
	at := backend.ReaderAt(body)
	group, inner := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for i := range parts {
		group.Go(func() error {
			if inner.Err() != nil {
				return inner.Err()
			}
			offset := int64(i) * step
			section := io.NewSectionReader(at, offset, min(step, size-offset))
			sum := crc32.New(backend.Castagnoli)
			if _, err := io.Copy(sum, section); err != nil {
				return err
			}
			if _, err := section.Seek(0, io.SeekStart); err != nil {
				return err
			}
			number, check := aws.Int32(int32(i+1)), encode(sum.Sum32())
			out, err := b.client.UploadPart(inner, &s3.UploadPartInput{
				Bucket: &b.Host, Key: b.key(name), UploadId: upload.UploadId, PartNumber: number, Body: section,
				ContentLength: aws.Int64(section.Size()), ChecksumAlgorithm: types.ChecksumAlgorithmCrc32c, ChecksumCRC32C: check,
			})
			if err != nil {
				return err
			}
			parts[i] = types.CompletedPart{ETag: out.ETag, PartNumber: number, ChecksumCRC32C: check}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return "", err
	}
	in := &s3.CompleteMultipartUploadInput{
		Bucket: &b.Host, Key: b.key(name), UploadId: upload.UploadId,
		MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
	}
	// Servers that know of checksums of whole objects compare this one; others know those of the parts.
	if upload.ChecksumType == types.ChecksumTypeFullObject {
		in.ChecksumType, in.ChecksumCRC32C, in.MpuObjectSize = upload.ChecksumType, encode(crc), &size
	}
	backend.Await(body, completion)
	out, err := b.client.CompleteMultipartUpload(ctx, in, func(o *s3.Options) { o.HTTPClient = b.patient })
	if err != nil {
		return "", err
	}
	return tag(out.ETag), nil
}

func encode(crc uint32) *string {
	return aws.String(base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, crc)))
}

func (b *bucket) Delete(ctx context.Context, name string) error {
	_, err := b.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &b.Host, Key: b.key(name)})
	if err != nil {
		if err = b.fail(ctx, "delete", name, err); backend.KindOf(err) == backend.NotFound {
			return nil
		}
	}
	return err
}
