package gcs

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"iter"
	"net/http"
	"strconv"
	"strings"
	"time"

	"google.golang.org/api/googleapi"
	storage "google.golang.org/api/storage/v1"

	"github.com/shardstream/shardstream/core/backend"
)

// What is asked of an object's description.
var (
	fields = []googleapi.Field{"name", "size", "timeCreated", "generation", "contentType", "md5Hash", "crc32c"}
	listed = []googleapi.Field{"nextPageToken", "items(name,size,timeCreated,generation,contentType,md5Hash,crc32c)"}
)

func (b *bucket) List(ctx context.Context, prefix, after string) iter.Seq2[backend.Entry, error] {
	return backend.Listing(ctx, b.Address, func(yield func(backend.Entry, error) bool) {
		call := b.objects.List(b.Host).Prefix(b.key(prefix)).Fields(listed...).Context(ctx)
		if after != "" {
			call.StartOffset(b.key(after)) // from this name on
		}
		for {
			page, err := call.Do()
			if err != nil {
				yield(backend.Entry{}, b.fail(ctx, "list", "", err))
				return
			}
			for _, o := range page.Items {
				e := entry(o)
				e.Name = o.Name
				if after != "" && e.Name <= b.key(after) {
					continue
				}
				if !yield(e, nil) {
					return
				}
			}
			if page.NextPageToken == "" {
				return
			}
			call.PageToken(page.NextPageToken)
		}
	})
}

func (b *bucket) Stat(ctx context.Context, name string) (backend.Entry, error) {
	o, err := b.objects.Get(b.Host, b.key(name)).Fields(fields...).Context(ctx).Do()
	if err != nil {
		return backend.Entry{}, b.absent(ctx, "stat", name, err)
	}
	e := entry(o)
	e.Name = name
	return e, nil
}

func (b *bucket) Open(ctx context.Context, name string, o backend.OpenOptions) (*backend.Body, error) {
	call := b.objects.Get(b.Host, b.key(name)).Context(ctx)
	if o.Tag != "" {
		generation, err := strconv.ParseInt(o.Tag, 10, 64)
		if err != nil {
			return nil, &backend.Error{Backend: b.String(), Op: "open", Name: name, Kind: backend.Changed}
		}
		call.IfGenerationMatch(generation)
	}
	if part := o.Header(); part != "" {
		call.Header().Set("Range", part)
	}
	answer, err := call.Download() //nolint:bodyclose // it is the caller's
	if err != nil {
		return nil, b.absent(ctx, "open", name, err)
	}
	h := answer.Header
	length := answer.ContentLength
	if stored, err := strconv.ParseInt(h.Get("X-Goog-Stored-Content-Length"), 10, 64); err == nil && length < 0 && o.Header() == "" {
		length = stored
	}
	e := backend.Entry{
		Name: name, Size: length, Tag: h.Get("X-Goog-Generation"), ContentType: h.Get("Content-Type"),
	}
	if at, err := http.ParseTime(h.Get("Last-Modified")); err == nil {
		e.Modified = at
	}
	for _, hashes := range h.Values("X-Goog-Hash") {
		for hash := range strings.SplitSeq(hashes, ",") {
			kind, value, _ := strings.Cut(strings.TrimSpace(hash), "=")
			switch kind {
			case "crc32c":
				e.Sums.CRC32C = crc(value)
			case "md5":
				e.Sums.MD5 = decode(value, 16)
			}
		}
	}
	return backend.NewTaggedBody(answer.Body, e, o, length, h.Get("Content-Range"), func(err error) error {
		return b.fail(ctx, "read", name, err)
	})
}

// entry is what the service says of an object, but for its name.
func entry(o *storage.Object) backend.Entry {
	e := backend.Entry{
		Size: int64(o.Size), Tag: strconv.FormatInt(o.Generation, 10), ContentType: o.ContentType,
		Sums: backend.Sums{CRC32C: crc(o.Crc32c), MD5: decode(o.Md5Hash, 16)},
	}
	if at, err := time.Parse(time.RFC3339, o.TimeCreated); err == nil {
		e.Modified = at
	}
	return e
}

func crc(text string) *uint32 {
	raw := decode(text, 4)
	if raw == nil {
		return nil
	}
	c := binary.BigEndian.Uint32(raw)
	return &c
}

func decode(text string, size int) []byte {
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(raw) != size {
		return nil
	}
	return raw
}
