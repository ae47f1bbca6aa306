package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/shardstream/shardstream/etl"
	"github.com/shardstream/shardstream/etl/calls"
)

const (
	// peeked is how much of an object is read before it is sent: what fits can be sent again, and needs no chunks, which
	// not all servers understand.
	peeked = 1 << 20
	// attempts at a server that broke off before anything was sent to it.
	attempts = 2
)

// TransformObject gives one object to the server. By redirect and proxy the server reads it from the node by itself,
// unless its bytes lie nowhere: then they are pushed.
func (s *Server) TransformObject(ctx context.Context, args etl.Args, object etl.Object) (*etl.Output, error) {
	if s.def.Level != etl.LevelObject {
		return nil, fmt.Errorf("%w: etl %q works on samples, not on whole objects", etl.ErrLevel, s.def.Name)
	}
	merged, err := s.def.MergeArgs(args)
	if err != nil {
		return nil, err
	}
	call, err := s.book.Begin(ctx)
	if err != nil {
		return nil, err
	}
	r := &request{
		server: s, call: call, name: object.Name(), method: http.MethodGet, path: path(object), query: query(merged),
		limit: s.def.Limits.Output, patience: s.def.Timeout,
	}
	if s.def.Transport == etl.TransportPush || object.Bucket == "" || object.Derived {
		r.method = http.MethodPut
		if err := r.setBody(object); err != nil {
			call.End(1, 1)
			return nil, err
		}
	}
	output, err := r.send()
	if err != nil {
		call.End(1, 1)
	}
	return output, err
}

// bytes gives the bytes of one field to the server.
func (s *Server) bytes(ctx context.Context, args etl.Args, name string, data []byte) ([]byte, error) {
	output, err := s.TransformObject(ctx, args, etl.Object{Key: name, Size: int64(len(data)), Body: bytes.NewReader(data)})
	if err != nil {
		return nil, err
	}
	return output.ReadAll(name, s.def.Limits.Output)
}

// request is one call's way to the server and back.
type request struct {
	server      *Server
	call        *calls.Call
	name        string // of the object, for messages
	method      string
	path, query string
	contentType string
	head        []byte           // the beginning of the body, or all of it
	rest        io.Reader        // what follows head, nil where there is nothing
	again       func() io.Reader // the whole body, in place of head and rest
	size        int64            // of the body, -1: not known
	limit       int64            // of the answer
	patience    time.Duration

	// Of the last attempt:
	body   *source
	stall  *calls.Stall
	unsent bool // it failed before anything was sent
}

// setBody reads the first megabyte of an object.
func (r *request) setBody(object etl.Object) error {
	r.contentType, r.size, r.head = "application/octet-stream", object.Size, nil
	room := int64(peeked)
	if object.Size >= 0 && object.Size < room {
		room = object.Size
	}
	head := make([]byte, room)
	n, err := io.ReadFull(object.Body, head)
	r.head = head[:n]
	switch {
	case err == nil:
		if object.Size < 0 || object.Size > room {
			r.rest = object.Body
		}
		return nil
	case !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
		return err
	case object.Size < 0:
		r.size = int64(n)
		return nil
	}
	return io.ErrUnexpectedEOF
}

// send asks the server, once more where it broke off before anything of the body was read. The answer's body ends the
// call.
func (r *request) send() (*etl.Output, error) {
	for attempt := 1; ; attempt++ {
		e, err := r.server.host.acquire(r.call.Ctx)
		if err != nil {
			return nil, r.because(err)
		}
		answer, err := r.try(e) //nolint:bodyclose // the output closes it
		if err == nil {
			return r.output(e, answer), nil
		}
		if r.body != nil {
			r.body.detach()
		}
		e.release()
		var again *tryRoot
		if errors.As(err, &again) {
			continue // learned: it does not happen twice
		}
		if attempt >= attempts || !r.unsent || r.call.Cause() != nil {
			return nil, err
		}
	}
}

// tryRoot says that the server takes PUT / alone, and that the body can be sent again.
type tryRoot struct{}

func (*tryRoot) Error() string { return "the server takes PUT / alone" }

// try makes one attempt and returns an answer of status 2xx.
func (r *request) try(e *endpoint) (*http.Response, error) {
	r.stall = calls.NewStall(r.patience, r.call.Cancel)
	target := e.base + r.path
	rootOnly := r.method == http.MethodPut && !e.takesPaths()
	if rootOnly {
		target = e.base + "/"
	}
	request, err := http.NewRequestWithContext(r.call.Ctx, r.method, target+r.query, nil)
	if err != nil {
		return nil, err
	}
	r.body, r.unsent = nil, false
	if r.method != http.MethodGet {
		request.Header.Set("Content-Type", r.contentType)
		r.attach(request)
	}
	r.stall.Await(true)
	answer, err := e.client.Do(request)
	r.stall.Await(false)
	if err != nil {
		r.stall.Stop()
		return nil, r.failed(e, unwrapURL(err))
	}
	if answer.StatusCode/100 == 2 {
		if answer.ContentLength > r.limit {
			_ = answer.Body.Close()
			r.stall.Stop()
			return nil, r.tooLarge()
		}
		return answer, nil
	}
	status := answer.StatusCode
	fault := r.refused(answer)
	r.stall.Stop()
	if r.method == http.MethodPut && !rootOnly && (status == http.StatusNotFound || status == http.StatusMethodNotAllowed) {
		if r.rest == nil {
			e.learnRootOnly()
			return nil, &tryRoot{}
		}
		fault.Summary += " to PUT " + r.path + "; a server takes PUT on any path"
	}
	return nil, fault
}

// attach gives a request its body. What lies in memory can be had again by net/http, where the server closes an idle
// connection in the very moment in which it is used.
func (r *request) attach(request *http.Request) {
	whole := func() *source {
		var reader io.Reader = bytes.NewReader(r.head)
		switch {
		case r.again != nil:
			reader = r.again()
		case r.rest != nil:
			reader = io.MultiReader(reader, r.rest)
		}
		return &source{reader: r.stall.Source(reader), call: r.call}
	}
	if r.size == 0 {
		return // and no body
	}
	r.body = whole()
	request.Body, request.ContentLength = r.body, r.size
	if r.rest == nil {
		request.GetBody = func() (io.ReadCloser, error) {
			r.body.detach()
			r.body = whole()
			return r.body, nil
		}
	}
}

// refused makes the error of an answer with another status than 2xx.
func (r *request) refused(answer *http.Response) *etl.UserError {
	defer answer.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(r.stall.Answer(answer.Body), errorHead))
	said := strings.TrimSpace(strings.ToValidUTF8(string(text), "\uFFFD"))
	first, rest, _ := strings.Cut(said, "\n")
	fault := &etl.UserError{ETL: r.server.def.Name, Key: r.name, Summary: "the server answered " + answer.Status, Traceback: rest}
	if len(first) > 500 {
		first, fault.Traceback = strings.ToValidUTF8(first[:500], "")+"...", said
	}
	if first != "" {
		fault.Summary += ": " + strings.TrimSpace(first)
	}
	return fault
}

// output wraps a good answer.
func (r *request) output(e *endpoint, answer *http.Response) *etl.Output {
	body := r.stall.Answer(answer.Body)
	if answer.Close && answer.ContentLength < 0 && len(answer.TransferEncoding) == 0 {
		// Only the connection's end tells that of the answer, and a dying server's looks the same.
		body = &vouched{body, func() error { return e.check(r.call.Ctx) }}
	}
	closer := func() {
		_ = answer.Body.Close()
		r.stall.Stop()
		if r.body != nil {
			r.body.detach()
		}
		e.release()
	}
	out := &etl.Output{Size: answer.ContentLength, ContentType: answer.Header.Get("Content-Type")}
	out.Body = r.call.Answer(body, closer, r.name, r.limit, func(err error) error { return r.broken(e, err) })
	return out
}

// vouched is an answer whose end counts only if the server is still well.
type vouched struct {
	io.Reader
	check func() error
}

func (v *vouched) Read(p []byte) (int, error) {
	n, err := v.Reader.Read(p)
	if errors.Is(err, io.EOF) {
		if ill := v.check(); ill != nil {
			return n, fmt.Errorf("the server died in the midst of its answer: %w", ill)
		}
	}
	return n, err
}

// failed makes the error of a request that got no answer.
func (r *request) failed(e *endpoint, err error) error {
	if r.body != nil {
		if fault := r.body.fault(); fault != nil {
			return fault // this side's: the object could not be read
		}
	}
	if cause := r.call.Cause(); cause != nil {
		return r.stalled(e, cause, "no answer within ")
	}
	r.unsent = isDial(err) || r.body != nil && !r.body.touched()
	return r.explained(e, err, "the server did not answer: ")
}

// broken makes the error of an answer that broke off.
func (r *request) broken(e *endpoint, err error) error {
	var size *etl.SizeError
	if errors.As(err, &size) {
		return r.tooLarge()
	}
	if r.body != nil {
		if fault := r.body.fault(); fault != nil {
			return fault
		}
	}
	if cause := r.call.Cause(); cause != nil {
		return r.stalled(e, cause, "its answer stopped for ")
	}
	return r.explained(e, err, "its answer broke off: ")
}

func (r *request) tooLarge() error {
	return &etl.UserError{ETL: r.server.def.Name, Key: r.name, Summary: fmt.Sprintf("its answer has more than the %d bytes that are allowed (max_output)", r.limit)}
}

// stalled is why the call's context ended.
func (r *request) stalled(e *endpoint, cause error, what string) error {
	var stall *calls.StallError
	if !errors.As(cause, &stall) {
		return cause
	}
	r.server.book.Timeout()
	r.server.host.suspect(e)
	return &etl.UserError{ETL: r.server.def.Name, Key: r.name, Summary: what + stall.Limit.String()}
}

func (r *request) explained(e *endpoint, err error, what string) error {
	if fault := r.server.host.explain(e, err); fault != nil {
		return r.because(fault)
	}
	return &etl.UserError{ETL: r.server.def.Name, Key: r.name, Summary: what + err.Error()}
}

// because names the object in an error of the server as a whole.
func (r *request) because(err error) error {
	var user *etl.UserError
	if !errors.As(err, &user) {
		if cause := r.call.Cause(); cause != nil {
			return cause
		}
		return err
	}
	return &etl.UserError{ETL: r.server.def.Name, Key: r.name, Summary: user.Summary, Traceback: user.Traceback}
}

// source is a body that is sent. Once it is detached nothing reads what lies below it, whatever net/http has still in
// hand.
type source struct {
	call *calls.Call

	mu       sync.Mutex
	reader   io.Reader
	read     bool
	detached bool
	err      error
}

var errDetached = errors.New("the request is over")

func (s *source) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.detached {
		return 0, errDetached
	}
	s.read = true
	n, err := s.reader.Read(p)
	s.call.In(int64(n))
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// Close is net/http's word that it needs no more.
func (s *source) Close() error { return nil }

// detach ends all reading and says whether there was any.
func (s *source) detach() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.detached = true
	return s.read
}

func (s *source) touched() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.read
}

// fault is why the object could not be read.
func (s *source) fault() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}
