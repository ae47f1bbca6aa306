package target

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/membership"
	"github.com/shardstream/shardstream/core/archive"
	"github.com/shardstream/shardstream/core/store"
)

// maxMeta bounds the user metadata of one object, names and values together.
const maxMeta = 8 << 10

func (t *Target) putObject(r *Request) error {
	err := t.put(r)
	if err != nil {
		r.drainUpload()
	}
	return err
}

func (t *Target) put(r *Request) error {
	bucket, key, err := r.wholeObject()
	if err != nil {
		return err
	}
	before, err := t.members.FindBucket(r.Context(), bucket)
	if err != nil {
		return err
	}
	placer := t.Placer()
	if owner, ok := placer.Owner(bucket, key); ok && owner.ID != t.id {
		r.redirect(owner, "")
		r.SetConnectionClose() // the body is not going to be read
		return nil
	}
	options, err := putOptions(r, key)
	if err != nil {
		return err
	}
	info, err := t.keep(r.Context(), before, placer.Former(bucket, key), key, &uploadMarker{r.upload()}, options)
	if err != nil {
		return err
	}
	setObjectHeader(r, info)
	r.Response.Header.Del("Last-Modified")
	return r.WriteJSON(http.StatusOK, objectOf(info))
}

// keep stores an object that this target owns, in a bucket that was there before.
func (t *Target) keep(ctx context.Context, bucket membership.Bucket, former []api.Node, key string, body io.Reader, o store.PutOptions) (store.Info, error) {
	if err := t.checkFormer(ctx, former, bucket.Name, key, o.Condition); err != nil {
		return store.Info{}, err
	}
	info, err := t.store.Put(ctx, bucket.Name, key, body, o)
	if err != nil {
		return info, err
	}
	if err := t.stillThere(ctx, bucket, info); err != nil {
		return info, err
	}
	t.dropFormer(ctx, former, info)
	return info, nil
}

// stillThere makes sure that the bucket was not deleted while an object came in: then the object must
// go, as the deletion did not see it.
func (t *Target) stillThere(ctx context.Context, before membership.Bucket, info store.Info) error {
	now, err := t.members.FindBucket(ctx, before.Name)
	var away *membership.UnavailableError
	if errors.As(err, &away) || err == nil && now.Identity == before.Identity {
		return nil
	}
	err = t.store.Delete(ctx, info.Bucket, info.Name, store.Condition{IfMatch: info.ETag()})
	if err != nil && !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrPrecondition) {
		return err
	}
	return fmt.Errorf("bucket %s was deleted meanwhile: %w", before.Name, membership.ErrNoBucket)
}

// uploadMarker marks the errors of the sender.
type uploadMarker struct {
	r interface{ Read([]byte) (int, error) }
}

func (m *uploadMarker) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	if err != nil && !isEOF(err) {
		err = &uploadError{err}
	}
	return n, err
}

// putOptions reads the headers of a PUT.
func putOptions(r *Request, key string) (store.PutOptions, error) {
	o := store.PutOptions{
		Size:        int64(r.Request.Header.ContentLength()),
		ContentType: r.Header("Content-Type"),
		Archive:     archive.FormatOf(key),
		Condition:   store.Condition{IfMatch: r.Header("If-Match"), IfNoneMatch: r.Header("If-None-Match")},
	}
	if r.Request.IsBodyStream() && o.Size < 0 {
		o.Size = -1 // chunked
	}
	sums, err := api.ParseChecksums(r.Header(api.HeaderChecksum))
	if err != nil {
		return o, api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "%s: %v", api.HeaderChecksum, err)
	}
	o.XXH3, o.CRC32 = sums.XXH3, sums.CRC32
	switch kind := r.Header(api.HeaderArchive); kind {
	case "":
	case "none":
		o.Archive = archive.None
	default:
		return o, api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "%s: %q is not known; send none, or leave it out", api.HeaderArchive, kind)
	}
	if o.Meta, err = metaOf(r); err != nil {
		return o, err
	}
	if len(o.ContentType) > 256 {
		return o, api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "Content-Type is longer than 256 bytes")
	}
	return o, nil
}

func metaOf(r *Request) (map[string]string, error) {
	var meta map[string]string
	size := 0
	for name, value := range r.Request.Header.All() {
		if len(name) <= len(api.HeaderMetaPrefix) || !strings.EqualFold(string(name[:len(api.HeaderMetaPrefix)]), api.HeaderMetaPrefix) {
			continue
		}
		if meta == nil {
			meta = map[string]string{}
		}
		meta[strings.ToLower(string(name[len(api.HeaderMetaPrefix):]))] = string(value)
		size += len(name) + len(value)
	}
	if size > maxMeta {
		return nil, api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "user metadata is %d bytes, more than %d", size, maxMeta)
	}
	return meta, nil
}

func objectOf(i store.Info) api.Object {
	return api.Object{
		Bucket: i.Bucket, Name: i.Name, Size: i.Size, Version: i.Version,
		XXH3: api.FormatXXH3(i.XXH3), CRC32: api.FormatCRC32(i.CRC32), ETag: i.ETag(), Created: i.Created.UTC(),
		ContentType: i.ContentType, Archive: string(i.Archive),
		Members: i.Members, Samples: i.Samples, MaxSample: i.MaxSample, Meta: i.Meta,
	}
}

// setObjectHeader describes an object in the headers of an answer.
func setObjectHeader(r *Request, i store.Info) {
	h := &r.Response.Header
	h.Set("ETag", i.ETag())
	h.Set("Last-Modified", i.Created.UTC().Format(http.TimeFormat))
	h.Set(api.HeaderVersion, strconv.FormatUint(i.Version, 10))
	h.Set(api.HeaderChecksum, api.Checksums{XXH3: &i.XXH3, CRC32: &i.CRC32}.String())
	h.Set(api.HeaderMap, strconv.FormatInt(r.Target.Placer().Map.Version, 10))
	if i.Archive != archive.None {
		h.Set(api.HeaderArchive, string(i.Archive))
		h.Set(api.HeaderMembers, strconv.FormatInt(i.Members, 10))
		h.Set(api.HeaderSamples, strconv.FormatInt(i.Samples, 10))
		h.Set(api.HeaderMaxSample, strconv.FormatInt(i.MaxSample, 10))
	}
	for name, value := range i.Meta {
		h.Set(api.HeaderMetaPrefix+name, value)
	}
}

func (t *Target) deleteObject(r *Request) error {
	bucket, key, err := r.wholeObject()
	if err != nil {
		return err
	}
	condition := store.Condition{IfMatch: r.Header("If-Match"), IfNoneMatch: r.Header("If-None-Match")}
	placer := t.Placer()
	if owner, ok := placer.Owner(bucket, key); ok && owner.ID != t.id && !r.local() {
		r.redirect(owner, "")
		return nil
	}
	var former []api.Node
	if !r.local() {
		former = placer.Former(bucket, key)
	}
	// Earlier owners first: were the present copy gone and one of theirs left, it would come back.
	elsewhere, err := t.deleteFormer(r.Context(), former, bucket, key, condition)
	if err != nil {
		return err
	}
	err = t.store.Delete(r.Context(), bucket, key, condition)
	if errors.Is(err, store.ErrNotFound) {
		if elsewhere {
			err = nil
		} else {
			err = t.absent(r.Context(), bucket, key)
		}
	}
	if err == nil {
		r.SetStatusCode(http.StatusNoContent)
	}
	return err
}

// absent is the error for an object that is nowhere: the bucket may be the reason.
func (t *Target) absent(ctx context.Context, bucket, key string) error {
	if _, err := t.members.FindBucket(ctx, bucket); err != nil {
		return err
	}
	return fmt.Errorf("%s: %w", api.Address(bucket, key), store.ErrNotFound)
}
