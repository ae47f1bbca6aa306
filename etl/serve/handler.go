package serve

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"

	"github.com/shardstream/shardstream/etl"
	"github.com/shardstream/shardstream/etl/samples"
)

const errorHead = 4 << 10 // bytes of the node's errors that are passed on

// handler answers requests. It routes by itself: a ServeMux would clean the paths, which are names of objects.
type handler struct {
	Server
	client *http.Client
}

// httpError is an answer with another status than 422, which is that of functions.
type httpError struct {
	status  int
	message string
}

func (e *httpError) Error() string { return e.message }

func refuse(status int, format string, args ...any) error {
	return &httpError{status, fmt.Sprintf(format, args...)}
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path, query, _ := strings.Cut(r.RequestURI, "?")
	if r.Method == http.MethodGet && (path == "/health" || path == "/") {
		h.health(w)
		return
	}
	// Answers may begin before the request has been read to its end. HTTP/2 can do so anyhow.
	_ = http.NewResponseController(w).EnableFullDuplex()
	a := &answer{w: w, contentType: h.ContentType}
	body := &source{r: r.Body, answer: a}
	err := h.answer(r, path, query, body, a)
	if body.err != nil {
		panic(http.ErrAbortHandler) // the client has gone, whatever the function made of that
	}
	if err == nil {
		err = a.end()
	}
	if err != nil {
		a.fail(err)
	}
	// A client that is still sending reads its answer when it has sent all; net/http closes the connection on the rest.
	_ = http.NewResponseController(w).Flush()
	_, _ = io.Copy(io.Discard, io.LimitReader(r.Body, drained))
}

func (h *handler) health(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]string{"status": "ok", "level": h.level()})
}

func (h *handler) level() string {
	switch {
	case h.Object != nil:
		return etl.LevelObject
	case h.Sample != nil:
		return etl.LevelSample
	default:
		return etl.LevelBatch
	}
}

func (h *handler) answer(r *http.Request, path, query string, body io.Reader, a *answer) error {
	if !strings.HasPrefix(path, "/") {
		return refuse(http.StatusBadRequest, "the path %q does not begin with a slash", path)
	}
	args, rest, err := parse(query)
	if err != nil {
		return err
	}
	switch {
	case r.Method != http.MethodPut && r.Method != http.MethodGet && r.Method != http.MethodPost:
		return refuse(http.StatusMethodNotAllowed, "%s: use GET, PUT or POST", r.Method)
	case r.Method == http.MethodPost && path != "/samples":
		return refuse(http.StatusNotFound, "POST %s: samples go to /samples", path)
	case r.Method == http.MethodPost && h.Object != nil:
		return refuse(http.StatusConflict, "this server transforms at level %q: use PUT /BUCKET/KEY", h.level())
	case r.Method != http.MethodPost && h.Object == nil:
		return refuse(http.StatusConflict, "this server transforms at level %q: use POST /samples", h.level())
	case r.Method == http.MethodPost:
		return h.samples(r, args, body, a)
	case r.Method == http.MethodGet:
		return h.pull(r, path, rest, args, a)
	}
	return guard(func() error { return h.Object(r.Context(), body, a, args) })
}

// parse finds the arguments in a query, and what else is there.
func parse(query string) (args Args, rest string, err error) {
	var others []string
	for part := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(part, "=")
		if name != "etl_args" {
			if part != "" {
				others = append(others, part)
			}
			continue
		}
		text, err := url.QueryUnescape(value)
		if err != nil {
			return nil, "", refuse(http.StatusBadRequest, "etl_args: %v", err)
		}
		if err := etl.ValidateArgs(etl.Args(text)); err != nil {
			return nil, "", refuse(http.StatusBadRequest, "%v", err)
		}
		args = Args(text)
	}
	return args, strings.Join(others, "&"), nil
}

// pull transforms what the node has at the same path.
func (h *handler) pull(r *http.Request, path, query string, args Args, a *answer) error {
	if h.Target == "" {
		return refuse(http.StatusServiceUnavailable, "SHARDSTREAM_TARGET_URL is not set: there is no node to read objects from")
	}
	at := h.Target + path
	if query != "" {
		at += "?" + query
	}
	request, err := http.NewRequestWithContext(r.Context(), http.MethodGet, at, nil)
	if err != nil {
		return refuse(http.StatusBadRequest, "%v", err)
	}
	if id := r.Header.Get("X-Request-Id"); id != "" {
		request.Header.Set("X-Request-Id", id)
	}
	response, err := h.client.Do(request)
	if err != nil {
		return refuse(http.StatusBadGateway, "the node can't be read: %v", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return relayed(response)
	}
	body := &source{r: response.Body, answer: a}
	err = guard(func() error { return h.Object(r.Context(), body, a, args) })
	if body.err != nil {
		return refuse(http.StatusBadGateway, "the node's answer broke off: %v", body.err)
	}
	return err
}

// relayed makes the node's error ours.
func relayed(response *http.Response) error {
	said, _ := io.ReadAll(io.LimitReader(response.Body, errorHead))
	status := http.StatusBadGateway
	switch response.StatusCode {
	case http.StatusForbidden, http.StatusNotFound, http.StatusPreconditionFailed, http.StatusTooManyRequests, http.StatusServiceUnavailable:
		status = response.StatusCode
	}
	return refuse(status, "the node answered %s: %s", response.Status, strings.ToValidUTF8(string(said), "\uFFFD"))
}

// samples transforms the samples of the body, one by one or together.
func (h *handler) samples(r *http.Request, args Args, body io.Reader, a *answer) error {
	if kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); strings.TrimSpace(kind) != samples.ContentType {
		return refuse(http.StatusUnsupportedMediaType, "content type %q: send %s", kind, samples.ContentType)
	}
	a.contentType = samples.ContentType
	reader := samples.NewReader(body, samples.Limits{Payload: h.MaxSample})
	writer := samples.NewWriter(a)
	transform := h.each
	if h.Batch != nil {
		transform = h.together
	}
	err := transform(r.Context(), args, reader, writer)
	switch {
	case errors.Is(err, samples.ErrMalformed):
		return refuse(http.StatusBadRequest, "%v", err)
	case err != nil:
		return err
	}
	return writer.Close()
}

func (h *handler) each(ctx context.Context, args Args, in *samples.Reader, out *samples.Writer) error {
	for {
		item, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		key := item.Key
		fault := guard(func() error { return h.Sample(ctx, &item.Sample, args) })
		if wrong := (*argsError)(nil); errors.As(fault, &wrong) {
			return fault
		}
		if err := put(out, key, &item.Sample, fault); err != nil {
			return err
		}
		if err := out.Flush(); err != nil { // to the answer, which gathers
			return err
		}
	}
}

func (h *handler) together(ctx context.Context, args Args, in *samples.Reader, out *samples.Writer) error {
	var (
		all  []etl.Sample
		size int64
	)
	for {
		item, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if size += item.Size(); size > h.MaxSample {
			return refuse(http.StatusRequestEntityTooLarge, "a batch of more than the %d bytes that are allowed", h.MaxSample)
		}
		all = append(all, item.Sample)
	}
	keys := make([]string, len(all))
	for i := range all {
		keys[i] = all[i].Key
	}
	var made []etl.Sample
	fault := guard(func() (err error) {
		if made, err = h.Batch(ctx, all, args); err == nil && len(made) != len(keys) {
			err = fmt.Errorf("the function returned %d samples for %d", len(made), len(keys))
		}
		return err
	})
	if wrong := (*argsError)(nil); errors.As(fault, &wrong) {
		return fault
	}
	for i, key := range keys {
		sample := &etl.Sample{}
		if fault == nil {
			sample = &made[i]
		}
		if err := put(out, key, sample, fault); err != nil {
			return err
		}
	}
	return nil
}

// put writes a transformed sample, or why there is none.
func put(out *samples.Writer, key string, s *etl.Sample, fault error) error {
	if s.Key == key {
		s.Key = "" // is kept, even if it could not be given
	}
	if fault == nil {
		fault = samples.Answerable(s)
	}
	if fault == nil {
		return out.Sample(s)
	}
	summary, traceback, _ := strings.Cut(fault.Error(), "\n")
	return out.Fault(summary, traceback)
}

// guard calls a function and makes a panic an error.
func guard(f func() error) (err error) {
	defer func() {
		reason := recover()
		if reason == nil {
			return
		}
		if reason == http.ErrAbortHandler { //nolint:errorlint,err113 // any value
			panic(reason)
		}
		err = fmt.Errorf("panic: %v\n%s", reason, debug.Stack())
	}()
	return f()
}
