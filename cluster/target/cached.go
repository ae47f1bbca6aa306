package target

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/cache"
	"github.com/shardstream/shardstream/cluster/placement"
	"github.com/shardstream/shardstream/core/archive"
	"github.com/shardstream/shardstream/core/backend"
	"github.com/shardstream/shardstream/core/store"
)

// Objects of buckets with backends are read and written through the cache (see cluster/cache), by their primary.

// newCache makes what keeps objects of buckets with backends.
func (t *Target) newCache(c Config) *cache.Cache {
	origins := c.Origins
	if origins == nil {
		origins = noOrigins{}
	}
	return cache.New(cache.Config{
		Store: t.store, Backends: &traced{Backends: origins}, Logger: t.log, High: c.CacheHigh, Low: c.CacheLow,
		Enter: t.enterCached, Lock: t.lockCached, Learn: t.learn, Share: t.share,
		Bucket: func(name string) (*api.Bucket, bool) {
			b, ok := t.members.View().Bucket(name)
			return &b.Bucket, ok && !b.Deleting
		},
		Buckets: t.farBuckets,
		Version: func() uint64 {
			t.store.SetFloor(placement.FirstVersion(t.mapVersion()))
			return t.store.NextVersion()
		},
	})
}

// farBuckets are those with backends.
func (t *Target) farBuckets() (names []string) {
	for _, b := range t.members.View().Buckets() {
		if b.Backend != nil {
			names = append(names, b.Name)
		}
	}
	return names
}

// noOrigins is for a target that was made without backends.
type noOrigins struct{}

func (noOrigins) Get(_ context.Context, b *api.Bucket) (backend.Backend, error) {
	return nil, &backend.Error{
		Backend: b.Backend.URL, Op: "connect", Kind: backend.Unsupported, Err: errors.New("this node has no backends"),
	}
}

// Cache is what this target has of buckets with backends.
func (t *Target) Cache() *cache.Cache { return t.cache }

// getCached answers a read of a bucket with a backend.
func (t *Target) getCached(r *Request, p placed) error {
	b, ctx := &p.bucket.Bucket, r.Context()
	if r.Query("etl") != "" {
		object, hit, err := t.cache.Whole(ctx, b, p.key)
		if err != nil {
			return err
		}
		tellCache(r, hit)
		return t.answer(r, object)
	}
	if err := checkPlain(r); err != nil {
		return err
	}
	switch {
	case r.Query("member") != "":
		return t.getMember(r, b, p.key)
	case r.IsHead():
		info, err := t.cache.Stat(ctx, b, p.key)
		if err != nil {
			return err
		}
		tellCache(r, info.Kind == store.Whole)
		return tell(r, info)
	}
	object, reading, err := t.readCached(r, b, p.key)
	if err != nil {
		return err
	}
	tellCache(r, object != nil)
	if object != nil {
		return t.answer(r, object)
	}
	return t.sendReading(r, reading)
}

// readCached begins to read what a request is about. Only one that depends on what there is asks for that first.
func (t *Target) readCached(r *Request, b *api.Bucket, key string) (*store.Object, *cache.Reading, error) {
	if r.Header("Range") == "" && r.Header("If-Match") == "" && r.Header("If-None-Match") == "" {
		return t.cache.Get(r.Context(), b, key)
	}
	return t.cache.Part(r.Context(), b, key, func(info *store.Info) (off, n int64, err error) {
		if err := checkConditions(r, *info); err != nil {
			return 0, 0, err
		}
		part, err := rangeOf(r, info, info.Size)
		if err != nil || part == nil || part.n == info.Size {
			return 0, -1, err
		}
		return part.off, part.n, nil
	})
}

// rangeOf is the range of a section that is asked for; nil: all of it.
func rangeOf(r *Request, info *store.Info, size int64) (*byteRange, error) {
	value := r.Header("Range")
	if value == "" || size < 0 || !sameVersion(r.Header("If-Range"), *info) {
		return nil, nil //nolint:nilnil // no range
	}
	part, err := parseRange(value, size)
	if err != nil {
		r.Response.Header.Set("Content-Range", fmt.Sprintf("bytes */%d", size))
	}
	return part, err
}

func tellCache(r *Request, hit bool) {
	value := "miss"
	if hit {
		value = "hit"
	}
	r.Response.Header.Set(api.HeaderCache, value)
}

// sendReading answers with an object that is being fetched, or with a part of one that is not here.
func (t *Target) sendReading(r *Request, reading *cache.Reading) error {
	info := reading.Info
	if err := checkConditions(r, info); err != nil {
		return errors.Join(err, reading.Body.Close())
	}
	setObjectHeader(r, info)
	h := &r.Response.Header
	h.Set("Accept-Ranges", "bytes")
	h.Set("X-Content-Type-Options", "nosniff")
	r.SetContentType(contentType(info, ""))
	part, err := rangeOf(r, &info, info.Size)
	if err == nil && part != nil && (part.off != reading.Offset || part.n != reading.Size) {
		err = changedNow(&info) // the range was of what the object was a moment ago
	}
	if err != nil {
		return errors.Join(err, reading.Body.Close())
	}
	if part != nil {
		setContentRange(r, part, info.Size)
	}
	return t.sendBody(r, reading)
}

func setContentRange(r *Request, part *byteRange, size int64) {
	r.SetStatusCode(http.StatusPartialContent)
	r.Response.Header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", part.off, part.off+part.n-1, size))
}

// changedNow is the error for a read of a part of an object that was replaced in between.
func changedNow(info *store.Info) error {
	return unavailable("%s has changed a moment ago; read it again", api.Address(info.Bucket, info.Name))
}

// readingHead is what is read of a body before its status is sent: an error that comes at once is an answer then.
const readingHead = 32 << 10

// sendBody sends what a reading has. Where that fails, the connection ends.
func (t *Target) sendBody(r *Request, reading *cache.Reading) error {
	info, ctx := reading.Info, r.Context()
	head := make([]byte, readingHead)
	n, err := reading.Body.Read(head)
	if err != nil && !errors.Is(err, io.EOF) {
		return errors.Join(err, reading.Body.Close())
	}
	body := &answerBody{
		conn: r.Conn(), head: head[:n], rest: reading.Body,
		onClose: func() { _ = reading.Body.Close() }, // only read
		broke: func(err error) {
			t.log.WarnContext(ctx, "an object that was being fetched broke off; the answer was cut short",
				"object", api.Address(info.Bucket, info.Name), "error", err)
		},
	}
	if err := r.SetWriteDeadline(time.Now().Add(downloadPause)); err != nil {
		return errors.Join(err, reading.Body.Close())
	}
	r.body = body
	r.Response.SetBodyStream(body, int(reading.Size)) // -1 where it is not known: in chunks
	return nil
}

// smallMember is the size up to which a member of an archive that is not here is read, and checked, before it is sent.
const smallMember = 1 << 20

// getMember answers a read of a member of an archive that may not be here.
func (t *Target) getMember(r *Request, b *api.Bucket, key string) error {
	ctx := r.Context()
	info, index, err := t.cache.Member(ctx, b, key)
	if err != nil {
		return err
	}
	if info.Kind != store.Stub {
		object, _, err := t.cache.Whole(ctx, b, key)
		if err != nil {
			return err
		}
		tellCache(r, true)
		return t.answer(r, object)
	}
	m, err := memberOf(&info, index, r.Query("member"))
	if err != nil {
		return err
	}
	if err := checkConditions(r, info); err != nil {
		return err
	}
	tellCache(r, false)
	setObjectHeader(r, info)
	h := &r.Response.Header
	h.Set("Accept-Ranges", "bytes")
	h.Set("X-Content-Type-Options", "nosniff")
	r.SetContentType(contentType(info, m.Name))
	part, err := rangeOf(r, &info, m.Size)
	if err != nil {
		return err
	}
	off, n := int64(0), m.Size
	if part != nil {
		off, n = part.off, part.n
		setContentRange(r, part, m.Size)
	} else if index.Checked() {
		h.Set(api.HeaderBodyChecksum, api.Checksums{XXH3: &m.Sum}.String())
	}
	if r.IsHead() {
		h.SetContentLength(int(n))
		r.Response.SkipBody = true
		return nil
	}
	reading, err := t.cache.PartOf(ctx, b, &info, m.Offset+off, n)
	if cache.Again(err) {
		return changedNow(&info)
	}
	if err != nil {
		return err
	}
	if n > smallMember {
		return t.sendBody(r, reading)
	}
	data, err := io.ReadAll(reading.Body)
	if err = errors.Join(err, reading.Body.Close()); err != nil {
		return err
	}
	sum := xxh3.Hash(data)
	if index.Checked() && n == m.Size && sum != m.Sum {
		return api.Errorf(http.StatusConflict, api.CodeChanged, "member %q of %s has changed at the backend", m.Name, api.Address(info.Bucket, info.Name))
	}
	h.Set(api.HeaderBodyChecksum, api.Checksums{XXH3: &sum}.String())
	return t.sendBody(r, &cache.Reading{Info: info, Size: n, Body: io.NopCloser(bytes.NewReader(data))})
}

// memberOf finds a member in an index.
func memberOf(info *store.Info, index *archive.Index, member string) (archive.Member, error) {
	address := api.Address(info.Bucket, info.Name)
	if index == nil {
		return archive.Member{}, api.Errorf(http.StatusBadRequest, api.CodeBadRequest,
			"%s is not an indexed archive, so it has no members; archives are told by their name (.tar)", address)
	}
	m, ok := index.Lookup(member)
	if !ok {
		return m, api.Errorf(http.StatusNotFound, api.CodeNotFound, "%s has no member %q", address, member)
	}
	return m, nil
}
