package api

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// Error codes of the JSON error document. A code is stable; a message is for people.
const (
	CodeBadRequest   = "bad_request"        // 400
	CodeBadName      = "bad_name"           // 400
	CodeBadArchive   = "bad_archive"        // 400
	CodeBadChecksum  = "bad_checksum"       // 400
	CodeIncomplete   = "incomplete_body"    // 400
	CodeETLFailed    = "etl_failed"         // 422: user code raised
	CodeTooManyErrs  = "too_many_errors"    // of a job or a stream: more than max_errors allows
	CodeDecodeFailed = "decode_failed"      // of a sample: a field is not what its decoder takes
	CodeNotFound     = "not_found"          // 404: object, member or node
	CodeNoBucket     = "no_such_bucket"     // 404
	CodeNoETL        = "no_such_etl"        // 404
	CodeNoJob        = "no_such_job"        // 404
	CodeNoSnapshot   = "no_such_snapshot"   // 404
	CodeNoMatch      = "no_match"           // 404: a source that matches nothing
	CodeExists       = "already_exists"     // 409
	CodeNotEmpty     = "bucket_not_empty"   // 409
	CodeChanged      = "changed"            // 409: overwritten since the snapshot
	CodeMissingPages = "missing_pages"      // 409: of a snapshot, and no peer has them
	CodeStaleMap     = "stale_map"          // 409: between nodes: the sender goes by an older map than this node knows
	CodeSuperseded   = "superseded"         // 409: between nodes: what is there is as new, or newer
	CodeNotDrained   = "not_drained"        // 409: a target that is to be removed may hold objects
	CodeRefused      = "refused"            // 409: the cluster could not go on without it
	CodePrecondition = "precondition"       // 412
	CodeRange        = "range"              // 416
	CodeBusy         = "busy"               // 429
	CodeCorrupt      = "corrupt"            // 500: names object, block and disk
	CodeInternal     = "internal"           // 500
	CodeUnavailable  = "unavailable"        // 503
	CodeDescribing   = "describing"         // 503: a stream's shards are being described at their backend; ask again
	CodeTooFew       = "too_few_targets"    // 503: fewer are up than the bucket's redundancy takes
	CodeNoSpace      = "no_space"           // 507
	CodeReadOnly     = "read_only"          // 405: of a bucket whose backend is not written to
	CodeNoSecret     = "no_such_secret"     // 404
	CodeBackend      = "backend_failed"     // 502: names the backend and what it said
	CodeDenied       = "backend_denied"     // 502: the backend refuses the credentials
	CodeLoop         = "backend_loop"       // 508: buckets of several clusters are backends of each other, in a circle
	CodeBackendBusy  = "backend_busy"       // 503: it asks to be left alone, or does not answer; with Retry-After
	CodeMethod       = "method_not_allowed" // 405
	CodeNotModified  = "not_modified"       // 304: If-None-Match names what is there
)

// Error is the error document of every route: {"error": {"code": ..., "message": ...}}.
type Error struct {
	Status  int    `json:"-"`
	Code    string `json:"code"`
	Message string `json:"message"`
	// Cause is what a request ended with that had no answer; nil for an answer.
	Cause error `json:"-"`
}

func (e *Error) Error() string { return fmt.Sprintf("%s (%s)", e.Message, e.Code) }

// Errorf makes an Error.
func Errorf(status int, code, format string, args ...any) *Error {
	return &Error{Status: status, Code: code, Message: fmt.Sprintf(format, args...)}
}

// maxHeaderMessage bounds the bytes of a message that a header has: it is up to three times as long there.
const maxHeaderMessage = 1000

// HeaderMessage is the message as HeaderErrorMessage has it.
func (e *Error) HeaderMessage() string {
	return url.PathEscape(strings.ToValidUTF8(e.Message[:min(len(e.Message), maxHeaderMessage)], ""))
}

// ErrorBody wraps an Error as it travels.
type ErrorBody struct {
	Error *Error `json:"error"`
}

// MarshalError renders an error document.
func MarshalError(e *Error) []byte {
	b, err := json.Marshal(ErrorBody{Error: e})
	if err != nil {
		return []byte(`{"error":{"code":"internal","message":"unprintable error"}}`)
	}
	return b
}

// ErrorOf is the error document of an answer, or what can be said of one without.
func ErrorOf(r *http.Response) error {
	document, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	var body ErrorBody
	if json.Unmarshal(document, &body) == nil && body.Error != nil && body.Error.Code != "" {
		body.Error.Status = r.StatusCode
		return body.Error
	}
	code := codeOf(r)
	if r.Header.Get(HeaderError) != "" { // to HEAD: no body
		if message, err := url.PathUnescape(r.Header.Get(HeaderErrorMessage)); err == nil && message != "" {
			return &Error{Status: r.StatusCode, Code: code, Message: message}
		}
		return &Error{Status: r.StatusCode, Code: code, Message: strings.ReplaceAll(code, "_", " ")}
	}
	return &Error{Status: r.StatusCode, Code: code, Message: fmt.Sprintf("%s answered %s", r.Request.URL.Host, r.Status)}
}

// codeOf is the code for an answer that has no document: to HEAD, or of a server that is not ours.
func codeOf(r *http.Response) string {
	if code := r.Header.Get(HeaderError); code != "" {
		return code
	}
	switch r.StatusCode {
	case http.StatusNotModified:
		return CodeNotModified
	case http.StatusNotFound:
		return CodeNotFound
	case http.StatusPreconditionFailed:
		return CodePrecondition
	case http.StatusRequestedRangeNotSatisfiable:
		return CodeRange
	case http.StatusTooManyRequests:
		return CodeBusy
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return CodeUnavailable
	case http.StatusInsufficientStorage:
		return CodeNoSpace
	}
	if r.StatusCode < 500 {
		return CodeBadRequest
	}
	return CodeInternal
}
