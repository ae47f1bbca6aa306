package target

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/archive"
	"github.com/shardstream/shardstream/core/store"
)

// Section is a part of an object that a GET is about: the whole, or one member of an archive.
type Section struct {
	Object *store.Object // closed by whoever opened it
	Member string        // "" for the whole object
	Offset int64
	Size   int64
}

// ReadAll reads and verifies the section.
func (s *Section) ReadAll() ([]byte, error) {
	data := make([]byte, s.Size)
	return data, readFull(s.Object, data, s.Offset)
}

// getObject answers GET and HEAD.
func (t *Target) getObject(r *Request) error {
	bucket, key, err := r.names()
	if err != nil {
		return err
	}
	switch op := r.Query("op"); op {
	case "":
	case "locate":
		return t.locate(r, bucket, key)
	default:
		return api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "op=%q is not known; locate is", op)
	}
	if len(r.QueryArgs().PeekMulti("etl")) > 1 {
		return api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "etl is given more than once; several transformations are etl=a,b")
	}
	if r.local() {
		return t.getLocal(r, bucket, key)
	}
	p, err := t.place(r.Context(), bucket, key)
	if err != nil {
		return err
	}
	if p.primary.ID != t.id {
		return r.passOn(&p)
	}
	if err := t.leased(&p.bucket.Bucket); err != nil {
		return err
	}
	if p.bucket.Backend != nil {
		err = t.getCached(r, p)
		if t.mended(r.Context(), p, err) {
			err = t.getCached(r, p)
		}
		return err
	}
	if !t.isCertain(&p) {
		f, err := t.newest(r.Context(), p)
		if err != nil {
			return err
		}
		if !f.here && len(f.holders) > 0 {
			r.redirect(f.holders[0], "local=true&version="+strconv.FormatUint(f.newest.Version, 10))
			return nil
		}
	}
	err = t.getHere(r, p)
	if t.mended(r.Context(), p, err) {
		err = t.getHere(r, p)
	}
	return err
}

// getHere answers a read with what this target has, as its primary.
func (t *Target) getHere(r *Request, p placed) error {
	if r.IsHead() && r.Query("member") == "" && r.Query("etl") == "" {
		if info, err := t.store.Stat(p.bucket.Name, p.key); err == nil && info.Kind == store.Stub {
			return tell(r, info)
		}
	}
	object, err := t.open(r.Context(), p)
	if errors.Is(err, store.ErrNotFound) {
		return t.absent(r.Context(), p.bucket.Name, p.key)
	}
	if err != nil {
		return err
	}
	return t.answer(r, object)
}

// getLocal answers a read with what lies here, of a version if it names one.
func (t *Target) getLocal(r *Request, bucket, key string) error {
	object, err := t.store.Open(bucket, key)
	if errors.Is(err, store.ErrNotFound) {
		return t.absent(r.Context(), bucket, key)
	}
	if err != nil {
		return err
	}
	if version := r.Query("version"); version != "" && version != strconv.FormatUint(object.Info().Version, 10) {
		return errors.Join(unavailable("%s was overwritten or moved meanwhile; read it again", api.Address(bucket, key)), object.Close())
	}
	return t.answer(r, object)
}

// answer answers a read with an object, and closes it.
func (t *Target) answer(r *Request, object *store.Object) error {
	kept := false
	defer func() {
		if !kept {
			_ = object.Close()
		}
	}()
	etls := r.Query("etl")
	if etls == "" {
		if err := checkPlain(r); err != nil {
			return err
		}
		if err := checkConditions(r, object.Info()); err != nil {
			return err
		}
	}
	section, sum, err := sectionOf(object, r.Query("member"))
	if err != nil {
		return err
	}
	setObjectHeader(r, object.Info())
	if etls != "" {
		if t.transform == nil {
			return api.Errorf(http.StatusNotFound, api.CodeNoETL, "this node runs no transformations")
		}
		kept, err = t.transform(r, section, strings.Split(etls, ","))
		return err
	}
	kept, err = t.send(r, section, sum)
	return err
}

// tell answers a HEAD without the object's bytes.
func tell(r *Request, info store.Info) error {
	if err := errors.Join(checkPlain(r), checkConditions(r, info)); err != nil {
		return err
	}
	setObjectHeader(r, info)
	r.Response.Header.Set("Accept-Ranges", "bytes")
	r.SetContentType(contentType(info, ""))
	r.Response.Header.SetContentLength(int(info.Size))
	r.Response.SkipBody = true
	return nil
}

// sectionOf finds what a request is about, and its checksum where the index knows it.
func sectionOf(object *store.Object, member string) (*Section, *uint64, error) {
	info := object.Info()
	if member == "" {
		return &Section{Object: object, Size: info.Size}, nil, nil
	}
	index, err := object.Index()
	if err != nil {
		return nil, nil, err
	}
	address := api.Address(info.Bucket, info.Name)
	if index == nil {
		return nil, nil, api.Errorf(http.StatusBadRequest, api.CodeBadRequest,
			"%s is not an indexed archive, so it has no members; archives are told by their name (.tar)", address)
	}
	m, ok := index.Lookup(member)
	if !ok {
		return nil, nil, api.Errorf(http.StatusNotFound, api.CodeNotFound, "%s has no member %q", address, member)
	}
	return &Section{Object: object, Member: member, Offset: m.Offset, Size: m.Size}, &m.Sum, nil
}

// checkPlain refuses parameters that mean nothing without a transformation.
func checkPlain(r *Request) error {
	for _, parameter := range []string{"etl_args", "cache"} {
		if r.Query(parameter) != "" {
			return api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "%s goes with etl=NAME only", parameter)
		}
	}
	return nil
}

// checkConditions evaluates If-Match and If-None-Match of a read.
func checkConditions(r *Request, info store.Info) error {
	etag := info.ETag()
	if list := r.Header("If-Match"); list != "" && !matches(list, etag) {
		return fmt.Errorf("%s has the ETag %s: %w", api.Address(info.Bucket, info.Name), etag, store.ErrPrecondition)
	}
	if list := r.Header("If-None-Match"); list != "" && matches(list, etag) {
		r.Response.Header.Set("ETag", etag)
		return &api.Error{Status: http.StatusNotModified, Code: api.CodeNotModified, Message: "not modified"}
	}
	return nil
}

// matches says whether a list of entity tags has this one.
func matches(list, etag string) bool {
	for one := range strings.SplitSeq(list, ",") {
		one = strings.TrimSpace(one)
		if one == "*" || strings.TrimPrefix(one, "W/") == etag {
			return true
		}
	}
	return false
}

// send answers with the section or the range of it that was asked for. The answer keeps the object
// open where kept is true.
func (t *Target) send(r *Request, s *Section, sum *uint64) (kept bool, err error) {
	info := s.Object.Info()
	h := &r.Response.Header
	h.Set("Accept-Ranges", "bytes")
	h.Set("X-Content-Type-Options", "nosniff")
	r.SetContentType(contentType(info, s.Member))

	off, n, status := int64(0), s.Size, http.StatusOK
	if value := r.Header("Range"); value != "" && sameVersion(r.Header("If-Range"), info) {
		part, err := parseRange(value, s.Size)
		if err != nil {
			h.Set("Content-Range", fmt.Sprintf("bytes */%d", s.Size))
			return false, err
		}
		if part != nil {
			off, n, status = part.off, part.n, http.StatusPartialContent
			h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", off, off+n-1, s.Size))
			sum = nil
		}
	}
	r.SetStatusCode(status)
	if r.IsHead() {
		h.SetContentLength(int(n))
		r.Response.SkipBody = true
		return false, nil
	}
	body, err := newSectionBody(r, s.Object, s.Offset+off, n)
	if err != nil {
		return false, err
	}
	if body.data != nil && (status == http.StatusPartialContent || s.Member != "") {
		h.Set(api.HeaderBodyChecksum, api.Checksums{XXH3: body.sum(sum)}.String())
	} else if sum != nil {
		h.Set(api.HeaderBodyChecksum, api.Checksums{XXH3: sum}.String())
	}
	r.body = body
	r.Response.SetBodyStream(body, int(n))
	return true, nil
}

func sameVersion(ifRange string, info store.Info) bool {
	return ifRange == "" || ifRange == info.ETag()
}

func contentType(info store.Info, member string) string {
	switch {
	case member != "":
		return "application/octet-stream"
	case info.ContentType != "":
		return info.ContentType
	case info.Archive == archive.Tar:
		return "application/x-tar"
	}
	return "application/octet-stream"
}

type byteRange struct{ off, n int64 }

// parseRange reads a Range header. Units other than bytes and lists of several ranges are ignored, as
// RFC 9110 allows: nil. A range with no byte of the object in it is an error.
func parseRange(value string, size int64) (*byteRange, error) {
	spec, ok := strings.CutPrefix(value, "bytes=")
	if !ok || strings.Contains(spec, ",") {
		return nil, nil //nolint:nilnil // no range
	}
	first, last, dash := strings.Cut(strings.TrimSpace(spec), "-")
	from, to := int64(0), size-1
	var err error
	switch {
	case !dash || first == "" && last == "":
		err = strconv.ErrSyntax
	case first == "":
		var suffix int64
		if suffix, err = position(last); err == nil {
			from = max(0, size-suffix)
		}
	default:
		if from, err = position(first); err == nil && last != "" {
			to, err = position(last)
			if err == nil && to < from {
				err = strconv.ErrRange
			}
			to = min(to, size-1)
		}
	}
	if err != nil || from > to || from >= size {
		return nil, api.Errorf(http.StatusRequestedRangeNotSatisfiable, api.CodeRange,
			"range %q has no byte of the %d that there are", clip(value), size)
	}
	return &byteRange{off: from, n: to - from + 1}, nil
}

// position reads digits; a number too large for an int64 is past any end.
func position(digits string) (int64, error) {
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return 0, strconv.ErrSyntax
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if errors.Is(err, strconv.ErrRange) {
		return 1<<63 - 1, nil
	}
	return n, err
}

func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "..."
	}
	return s
}

func isEOF(err error) bool { return errors.Is(err, io.EOF) }
