package target

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"strings"

	"github.com/shardstream/shardstream/cluster/api"
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
	p, err := t.place(r.Context(), bucket, key)
	if err != nil {
		return err
	}
	if p.primary.ID != t.id {
		r.SetConnectionClose() // the body is not going to be read
		return r.passOn(&p)
	}
	if err := t.leased(&p.bucket.Bucket); err != nil {
		return err
	}
	options, err := putOptions(r, key)
	if err != nil {
		return err
	}
	k, err := t.keepBy(r.Context(), p, &uploadMarker{r.upload()}, options)
	if err != nil {
		return err
	}
	setObjectHeader(r, k.Info)
	r.Response.Header.Del("Last-Modified")
	if d := k.degraded(); d != "" {
		r.Response.Header.Set(api.HeaderDegraded, d)
	}
	return r.WriteJSON(http.StatusOK, objectOf(k.Info))
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
		own := strings.ToLower(string(name[len(api.HeaderMetaPrefix):]))
		if api.IsReservedMeta(own) {
			return nil, api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "user metadata %q: names that begin with shardstream- are the cluster's own", own)
		}
		meta[own] = string(value)
		size += len(name) + len(value)
	}
	if size > maxMeta {
		return nil, api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "user metadata is %d bytes, more than %d", size, maxMeta)
	}
	return meta, nil
}

func objectOf(i store.Info) api.Object {
	o := api.Object{
		Bucket: i.Bucket, Name: i.Name, Size: i.Size, Version: i.Version, ETag: i.ETag(), Created: i.Created.UTC(),
		ContentType: i.ContentType, Archive: string(i.Archive),
		Members: i.Members, Samples: i.Samples, MaxSample: i.MaxSample, Meta: userMeta(i.Meta),
	}
	if !i.Unread() {
		o.XXH3, o.CRC32 = api.FormatXXH3(i.XXH3), api.FormatCRC32(i.CRC32)
	}
	return o
}

// userMeta is what users have said of an object, without the cluster's own marks.
func userMeta(meta map[string]string) map[string]string {
	for name := range meta {
		if api.IsReservedMeta(name) {
			own := maps.Clone(meta) // the original is shared
			maps.DeleteFunc(own, func(name, _ string) bool { return api.IsReservedMeta(name) })
			return own
		}
	}
	return meta
}

// setObjectHeader describes an object in the headers of an answer.
func setObjectHeader(r *Request, i store.Info) {
	h := &r.Response.Header
	h.Set("ETag", i.ETag())
	h.Set("Last-Modified", i.Created.UTC().Format(http.TimeFormat))
	h.Set(api.HeaderVersion, strconv.FormatUint(i.Version, 10))
	if !i.Unread() {
		h.Set(api.HeaderChecksum, api.Checksums{XXH3: &i.XXH3, CRC32: &i.CRC32}.String())
	}
	h.Set(api.HeaderMap, strconv.FormatInt(r.Target.Placer().Map.Version, 10))
	if i.Archive != archive.None {
		h.Set(api.HeaderArchive, string(i.Archive))
		h.Set(api.HeaderMembers, strconv.FormatInt(i.Members, 10))
		h.Set(api.HeaderSamples, strconv.FormatInt(i.Samples, 10))
		h.Set(api.HeaderMaxSample, strconv.FormatInt(i.MaxSample, 10))
	}
	for name, value := range userMeta(i.Meta) {
		h.Set(api.HeaderMetaPrefix+name, value)
	}
}

func (t *Target) deleteObject(r *Request) error {
	bucket, key, err := r.wholeObject()
	if err != nil {
		return err
	}
	condition := store.Condition{IfMatch: r.Header("If-Match"), IfNoneMatch: r.Header("If-None-Match")}
	p, err := t.place(r.Context(), bucket, key)
	if err != nil {
		return err
	}
	if p.primary.ID != t.id {
		return r.passOn(&p)
	}
	if err = t.leased(&p.bucket.Bucket); err == nil {
		erase := t.erase
		if p.bucket.Backend != nil {
			erase = t.eraseThrough
		}
		err = erase(r.Context(), p, condition)
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
