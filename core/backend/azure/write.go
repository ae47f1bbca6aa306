package azure

import (
	"context"
	md5sum "crypto/md5" //nolint:gosec // what the service compares
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"golang.org/x/sync/errgroup"

	"github.com/shardstream/shardstream/core/backend"
)

const (
	whole     = 32 << 20 // what is larger is put in blocks
	block     = 16 << 20 // at least
	maxBlocks = 50_000
	atOnce    = 4
)

func (b *bucket) Put(ctx context.Context, name string, body io.ReadSeeker, size int64, o backend.PutOptions) (backend.Entry, error) {
	sums, err := backend.Summed(body, size, o.Sums, backend.Sums{MD5: []byte{}})
	if err != nil {
		return backend.Entry{}, b.Refused(name, err)
	}
	headers := &blob.HTTPHeaders{BlobContentMD5: sums.MD5}
	if o.ContentType != "" {
		headers.BlobContentType = &o.ContentType
	}
	client := b.container.NewBlockBlobClient(b.key(name))
	var etag *azcore.ETag
	if size <= whole {
		var out blockblob.UploadResponse
		out, err = client.Upload(ctx, streaming.NopCloser(body), &blockblob.UploadOptions{
			HTTPHeaders: headers, Metadata: metadata(o.Meta), TransactionalValidation: blob.TransferValidationTypeMD5(sums.MD5),
		})
		etag = out.ETag
	} else {
		etag, err = putBlocks(ctx, client, body, size, &blockblob.CommitBlockListOptions{HTTPHeaders: headers, Metadata: metadata(o.Meta)})
	}
	if err != nil {
		return backend.Entry{}, b.fail(ctx, "put", name, err)
	}
	if tag(etag) == "" {
		return backend.Entry{}, b.Untagged("put", name)
	}
	return backend.Entry{Name: name, Size: size, Tag: tag(etag), ContentType: o.ContentType, Sums: sums}, nil
}

// putBlocks uploads blocks, some at once, and makes a blob of them. Blocks of an upload that fails are in no blob; the
// service drops them after a week, and can't be asked to do so earlier.
func putBlocks(
	ctx context.Context, client *blockblob.Client, body io.ReadSeeker, size int64, o *blockblob.CommitBlockListOptions,
) (*azcore.ETag, error) {
	step := max(block, (size+maxBlocks-1)/maxBlocks)
	ids := make([]string, (size+step-1)/step)
	mark := rand.Text() // blocks of another upload under the name must not get into this one
	at := backend.ReaderAt(body)
	group, inner := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for i := range ids {
		ids[i] = base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%s%06d", mark[:24], i))
		group.Go(func() error {
			if inner.Err() != nil {
				return inner.Err()
			}
			offset := int64(i) * step
			section := io.NewSectionReader(at, offset, min(step, size-offset))
			sum := md5sum.New() //nolint:gosec // see above
			if _, err := io.Copy(sum, section); err != nil {
				return err
			}
			if _, err := section.Seek(0, io.SeekStart); err != nil {
				return err
			}
			_, err := client.StageBlock(inner, ids[i], streaming.NopCloser(section), &blockblob.StageBlockOptions{
				TransactionalValidation: blob.TransferValidationTypeMD5(sum.Sum(nil)),
			})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	out, err := client.CommitBlockList(ctx, ids, o)
	return out.ETag, err
}

// metadata keeps what Azure can: its names are identifiers of C#.
func metadata(meta map[string]string) map[string]*string {
	kept := make(map[string]*string, len(meta))
	for name, value := range meta {
		if identifier(name) {
			kept[name] = &value
		}
	}
	return kept
}

func identifier(name string) bool {
	for i, r := range name {
		letter := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || r == '_'
		if !letter && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return name != ""
}

func (b *bucket) Delete(ctx context.Context, name string) error {
	snapshots := blob.DeleteSnapshotsOptionTypeInclude
	_, err := b.container.NewBlobClient(b.key(name)).Delete(ctx, &blob.DeleteOptions{DeleteSnapshots: &snapshots})
	if err != nil {
		if err = b.fail(ctx, "delete", name, err); backend.KindOf(err) == backend.NotFound {
			return nil
		}
	}
	return err
}
