package gcs

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"

	"google.golang.org/api/googleapi"
	storage "google.golang.org/api/storage/v1"

	"github.com/shardstream/shardstream/core/backend"
)

// chunk is how much of a large object one request of a resumable upload has. It is kept in memory until the service
// has it, and the client repeats it by itself for some seconds.
const chunk = 16 << 20

func (b *bucket) Put(ctx context.Context, name string, body io.ReadSeeker, size int64, o backend.PutOptions) (backend.Entry, error) {
	sums, err := backend.Summed(body, size, o.Sums, backend.Sums{CRC32C: new(uint32)})
	if err != nil {
		return backend.Entry{}, b.Refused(name, err)
	}
	kind := o.ContentType
	if kind == "" {
		kind = "application/octet-stream"
	}
	// The service refuses a body with other checksums, at the end of the upload.
	object := &storage.Object{
		Name: b.key(name), ContentType: kind, Metadata: o.Meta,
		Crc32c: base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, *sums.CRC32C)),
	}
	if sums.MD5 != nil {
		object.Md5Hash = base64.StdEncoding.EncodeToString(sums.MD5)
	}
	media := []googleapi.MediaOption{googleapi.ContentType(kind), googleapi.ChunkSize(0)}
	if size > 2*chunk {
		media[1] = googleapi.ChunkSize(chunk)
	}
	put, err := b.objects.Insert(b.Host, object).Media(body, media...).Fields(fields...).Context(ctx).Do()
	if err != nil {
		return backend.Entry{}, b.absent(ctx, "put", name, err)
	}
	e := entry(put)
	e.Name = name
	if which := sums.Differs(e.Sums); which != "" || e.Size != size {
		return backend.Entry{}, &backend.Error{
			Backend: b.String(), Op: "put", Name: name, Kind: backend.Corrupt,
			Err: fmt.Errorf("what arrived has %d bytes and not %d, or another checksum (%s)", e.Size, size, which),
		}
	}
	return e, nil
}

func (b *bucket) Delete(ctx context.Context, name string) error {
	err := b.objects.Delete(b.Host, b.key(name)).Context(ctx).Do()
	if err == nil {
		return nil
	}
	if err = b.absent(ctx, "delete", name, err); backend.KindOf(err) == backend.NotFound {
		return nil
	}
	return err
}
