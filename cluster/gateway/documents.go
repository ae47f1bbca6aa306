package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/membership"
	"github.com/shardstream/shardstream/core/store"
)

// AsError is the error document for an error of the cluster.
func AsError(err error) *api.Error {
	var (
		answer      *api.Error
		name        *store.NameError
		unavailable *membership.UnavailableError
		full        *membership.FullError
	)
	message := func(status int, code string) *api.Error { return api.Errorf(status, code, "%s", err.Error()) }
	switch {
	case errors.As(err, &answer):
		return answer
	case errors.As(err, &name):
		return message(http.StatusBadRequest, api.CodeBadName)
	case errors.Is(err, membership.ErrNoBucket):
		return message(http.StatusNotFound, api.CodeNoBucket)
	case errors.Is(err, membership.ErrBucketExists):
		return message(http.StatusConflict, api.CodeExists)
	case errors.Is(err, membership.ErrNoNode):
		return message(http.StatusNotFound, api.CodeNotFound)
	case errors.Is(err, membership.ErrNotDrained):
		return message(http.StatusConflict, api.CodeNotDrained)
	case errors.Is(err, membership.ErrRefused), errors.Is(err, membership.ErrUnsettled):
		return message(http.StatusConflict, api.CodeRefused)
	case errors.Is(err, membership.ErrMapChanged):
		return message(http.StatusConflict, api.CodeStaleMap)
	case errors.As(err, &unavailable), errors.As(err, &full), errors.Is(err, membership.ErrConflict):
		return message(http.StatusServiceUnavailable, api.CodeUnavailable)
	}
	return api.Errorf(http.StatusInternalServerError, api.CodeInternal, "the gateway failed on this request; see its log")
}

// retryBackend is how many seconds clients are asked to wait for a backend that is busy.
const retryBackend = "5"

// WriteError answers with an error document.
func WriteError(w http.ResponseWriter, e *api.Error) {
	w.Header().Set(api.HeaderError, e.Code)
	if e.Code == api.CodeBackendBusy {
		w.Header().Set("Retry-After", retryBackend)
	}
	write(w, e.Status, append(api.MarshalError(e), '\n'))
}

// WriteJSON answers with a document.
func WriteJSON(w http.ResponseWriter, status int, v any) error {
	document, err := json.Marshal(v)
	if err != nil {
		return err
	}
	write(w, status, append(document, '\n'))
	return nil
}

func write(w http.ResponseWriter, status int, document []byte) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(bodyTimeout)) // not all writers have one
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(document) // the client is gone: nobody to tell
}

// ReadJSON reads a document of at most limit bytes.
func ReadJSON(w http.ResponseWriter, r *http.Request, limit int64, out any) error {
	data, err := readBody(w, r, limit)
	if err != nil {
		return err
	}
	return unexpected(json.Unmarshal(data, out))
}

// ReadKnownJSON is ReadJSON for documents in which a member that is misspelt must not be taken for one that was left out.
func ReadKnownJSON(w http.ResponseWriter, r *http.Request, limit int64, out any) error {
	data, err := readBody(w, r, limit)
	if err != nil {
		return err
	}
	if !json.Valid(data) {
		return unexpected(json.Unmarshal(data, out)) // a decoder passes over what follows a document
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	return unexpected(decoder.Decode(out))
}

// unexpected is the error for a document that can't be taken.
func unexpected(err error) error {
	if err == nil {
		return nil
	}
	reason := strings.TrimPrefix(err.Error(), "json: ")
	if wrong := (*json.UnmarshalTypeError)(nil); errors.As(err, &wrong) {
		reason = fmt.Sprintf("it can't be a JSON %s", wrong.Value)
		if wrong.Field != "" {
			reason = fmt.Sprintf("%s can't be a JSON %s", wrong.Field, wrong.Value)
		}
	}
	return api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "the body is not the JSON that was expected: %s", reason)
}

func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout)) // not all writers have one
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, api.Errorf(http.StatusRequestEntityTooLarge, api.CodeBadRequest, "the body is larger than %d bytes", limit)
	case err != nil:
		return nil, api.Errorf(http.StatusBadRequest, api.CodeIncomplete, "the body broke off: %v", err)
	}
	return data, nil
}
