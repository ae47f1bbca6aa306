package target

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/telemetry"
	"github.com/shardstream/shardstream/core/backend"
	"github.com/shardstream/shardstream/core/store"
)

// Request is a request under way. Like the RequestCtx in it, it must not be kept past the handler.
type Request struct {
	*fasthttp.RequestCtx
	Target    *Target
	RequestID string

	params   map[string]string
	received int64 // bytes of the body that were read
	body     body
	err      error // as it was before it became a document
}

// body is an answer that is sent after its handler has returned.
type body interface {
	release()
	whenDone(f func(out int64, err error))
}

// Context is the target's, with the request's id and the buckets that it came through. It may be kept.
func (r *Request) Context() context.Context {
	return backend.WithVia(telemetry.WithRequestID(r.Target.ctx, r.RequestID), api.ParseVia(r.Header(api.HeaderVia)))
}

// Param is a parameter of the route's pattern, decoded.
func (r *Request) Param(name string) string { return r.params[name] }

// Query is a parameter of the query, "" where it is absent.
func (r *Request) Query(name string) string { return string(r.QueryArgs().Peek(name)) }

// Header is a header of the request, "" where it is absent.
func (r *Request) Header(name string) string { return string(r.Request.Header.Peek(name)) }

// local tells a request that is to be answered from this node's disks alone.
func (r *Request) local() bool { return r.Query("local") == "true" }

// JSON reads the body as a document of at most limit bytes.
func (r *Request) JSON(limit int64, out any) error {
	data, err := r.Bytes(limit)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, out); err != nil {
		return api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "the body is not the JSON that was expected: %v", err)
	}
	return nil
}

// Bytes reads a body of at most limit bytes.
func (r *Request) Bytes(limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r.upload(), limit+1))
	if err != nil {
		return nil, api.Errorf(http.StatusBadRequest, api.CodeIncomplete, "the body broke off: %v", err)
	}
	if int64(len(data)) > limit {
		return nil, api.Errorf(http.StatusRequestEntityTooLarge, api.CodeBadRequest, "the body is larger than %d bytes", limit)
	}
	return data, nil
}

// WriteJSON answers with a document.
func (r *Request) WriteJSON(status int, v any) error {
	document, err := json.Marshal(v)
	if err != nil {
		return err
	}
	r.SetStatusCode(status)
	r.SetContentType("application/json")
	r.Response.SetBodyRaw(append(document, '\n'))
	return nil
}

// fail answers with an error document.
func (r *Request) fail(err error) {
	r.err = err
	var corrupt *store.CorruptError
	if errors.As(err, &corrupt) {
		r.Target.metrics.CorruptRead(corrupt.Disk)
		r.Target.log.ErrorContext(r.Context(), "damaged object", "error", err)
	}
	e := AsError(err)
	if e.Code == api.CodeBackendBusy {
		r.Response.Header.Set("Retry-After", strconv.Itoa(retryAfter(err)))
	}
	if e.Code == api.CodeInternal {
		r.Target.log.ErrorContext(r.Context(), "request failed", "path", string(r.URI().PathOriginal()), "error", err)
	}
	if r.body != nil {
		r.body.release()
		r.body = nil
	}
	writeError(r.RequestCtx, e)
}

// retryAfter is in how many seconds a backend that asked to be left alone may be asked again.
func retryAfter(err error) int {
	var busy *backend.Error
	if errors.As(err, &busy) && busy.After > 0 {
		return int(min(max(busy.After.Round(time.Second), time.Second), time.Minute) / time.Second)
	}
	return 1
}

func writeError(ctx *fasthttp.RequestCtx, e *api.Error) {
	ctx.Response.ResetBody()
	ctx.SetStatusCode(e.Status)
	ctx.Response.Header.Set(api.HeaderError, e.Code)
	if e.Status == http.StatusNotModified {
		return
	}
	if ctx.IsHead() {
		ctx.Response.Header.Set(api.HeaderErrorMessage, e.HeaderMessage())
	}
	ctx.SetContentType("application/json")
	ctx.Response.SetBodyRaw(append(api.MarshalError(e), '\n'))
}

// upload is the request's body. Each read has a deadline of its own, so that a slow sender may take
// hours but a silent one does not.
func (r *Request) upload() io.Reader {
	stream := r.RequestBodyStream()
	if stream == nil {
		return strings.NewReader("")
	}
	return &upload{r: r, stream: stream}
}

type upload struct {
	r      *Request
	stream io.Reader
}

func (u *upload) Read(p []byte) (int, error) {
	if err := u.r.SetReadDeadline(time.Now().Add(uploadPause)); err != nil {
		return 0, err
	}
	n, err := u.stream.Read(p)
	u.r.received += int64(n)
	if isEOF(err) && u.r.Request.Header.ContentLength() == chunked && !u.ended() {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// chunked is what fasthttp gives for the length of a body that says its length piece by piece.
const chunked = -1

// ended tells a chunked body's end from a connection that broke off between two chunks, for which
// fasthttp gives io.EOF just the same. At the end of the body another read touches nothing; elsewhere
// it goes on to the connection, whose deadline is over.
func (u *upload) ended() bool {
	var b [1]byte
	if err := u.r.SetReadDeadline(time.Unix(1, 0)); err != nil {
		return false
	}
	_, err := u.stream.Read(b[:])
	return err == io.EOF
}

// Bounds of what is read of a body that was refused, so that its sender sees the answer and not a
// broken connection.
const (
	maxDrain     = 256 << 20
	drainTimeout = 5 * time.Second
)

func (r *Request) drainUpload() {
	stream := r.RequestBodyStream()
	if stream == nil {
		return
	}
	if r.SetReadDeadline(time.Now().Add(drainTimeout)) == nil {
		_, _ = io.CopyN(io.Discard, stream, maxDrain)
	}
}

// names takes bucket and object from the path and checks them.
func (r *Request) names() (bucket, key string, err error) {
	bucket, key = r.Param("bucket"), r.Param("key")
	if err = store.CheckBucket(bucket); err == nil {
		err = store.CheckName(key)
	}
	return bucket, key, err
}

// wholeObject takes the names for a write, and refuses what would read as a write of a part: a DELETE
// of ?member= must not take the archive away, nor a PUT of it replace the archive.
func (r *Request) wholeObject() (bucket, key string, err error) {
	if bucket, key, err = r.names(); err != nil {
		return bucket, key, err
	}
	for _, parameter := range []string{"op", "member", "etl"} {
		if r.Query(parameter) != "" {
			err = api.Errorf(http.StatusBadRequest, api.CodeBadRequest,
				"%s is of a whole object; it has no parameter %s", r.Method(), parameter)
		}
	}
	return bucket, key, err
}

// number is a parameter of the query as a decimal number; without it, the default.
func (r *Request) number(name string, otherwise int64) (int64, error) {
	value := r.Query(name)
	if value == "" {
		return otherwise, nil
	}
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil || n < 0 {
		return 0, api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "%s=%q is not a whole number of 0 or more", name, value)
	}
	return n, nil
}

// flag is a parameter of the query that is true or false, false where it is absent.
func (r *Request) flag(name string) (bool, error) {
	switch value := r.Query(name); value {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	default:
		return false, api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "%s=%q is neither true nor false", name, clip(value))
	}
}

// redirect sends the client to another node, to the same path with a query of ours added.
func (r *Request) redirect(to api.Node, extra string) {
	location := "http://" + to.Addr + string(r.URI().PathOriginal())
	query := string(r.URI().QueryString())
	if extra != "" && query != "" {
		query += "&"
	}
	if query += extra; query != "" {
		location += "?" + query
	}
	r.Response.Header.Set("Location", location)
	r.SetStatusCode(http.StatusTemporaryRedirect)
}
