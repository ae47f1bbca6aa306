package copies

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/telemetry"
	"github.com/shardstream/shardstream/core/store"
)

// Bounds of one request, where the caller's context has none that is sooner.
const (
	dialTimeout   = 2 * time.Second
	shortTimeout  = 10 * time.Second // of a request without a body
	answerTimeout = 60 * time.Second // from the end of a body to its answer: it is made durable meanwhile
	maxAnswer     = 8 << 20
)

// Client asks targets about copies, and gives them some. It is safe for concurrent use; what nodes answered, or that
// they did not, is an *api.Error.
type Client struct {
	self       string
	mapVersion func() int64
	http       *http.Client
}

// NewClient makes the client of a node, self, that goes by the version of the map that mapVersion tells.
func NewClient(self string, mapVersion func() int64) *Client {
	return &Client{self: self, mapVersion: mapVersion, http: &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext:           (&net.Dialer{Timeout: dialTimeout}).DialContext,
			ResponseHeaderTimeout: answerTimeout,
			MaxIdleConnsPerHost:   64, IdleConnTimeout: 30 * time.Second, DisableCompression: true,
			WriteBufferSize: 256 << 10, ReadBufferSize: 256 << 10,
		},
	}}
}

// Close gives up idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// With is the client for requests that are made by one version of the map, whatever the node learns meanwhile.
func (c *Client) With(version int64) *Client {
	return &Client{self: c.self, mapVersion: func() int64 { return version }, http: c.http}
}

// Have asks which versions of objects a target has; the answers are in the order of the names, of which there may be
// MaxNames.
func (c *Client) Have(ctx context.Context, node api.Node, bucket string, names []string) ([]State, error) {
	return c.have(ctx, node, HaveRequest{Bucket: bucket, Names: names})
}

// Settled asks what a target has of an object once writes of it that are under way there have ended.
func (c *Client) Settled(ctx context.Context, node api.Node, bucket, name string) (State, error) {
	states, err := c.have(ctx, node, HaveRequest{Bucket: bucket, Names: []string{name}, Settle: true})
	if err != nil {
		return State{}, err
	}
	return states[0], nil
}

func (c *Client) have(ctx context.Context, node api.Node, r HaveRequest) ([]State, error) {
	ctx, cancel := context.WithTimeout(ctx, shortTimeout)
	defer cancel()
	var answer HaveAnswer
	if err := c.document(ctx, node, PathHave, r, &answer); err != nil {
		return nil, err
	}
	if len(answer.States) != len(r.Names) {
		return nil, silent(node, fmt.Errorf("it answered for %d of %d names", len(answer.States), len(r.Names)))
	}
	return answer.States, nil
}

// Stage gives a target the body of a copy that is to come: it is durable there when Stage returns, and no object yet.
// Of the description all counts but the version; size and checksums may be unknown (size -1). The context bounds it.
func (c *Client) Stage(ctx context.Context, node api.Node, stage string, info store.Info, body io.Reader) (Staged, error) {
	var staged Staged
	query := url.Values{"stage": {stage}}
	err := c.send(ctx, node, query, info, body, &staged)
	return staged, err
}

// Commit makes a staged body a copy. It is no error where the target has exactly that version already.
func (c *Client) Commit(ctx context.Context, node api.Node, r Commit) error {
	ctx, cancel := context.WithTimeout(ctx, shortTimeout)
	defer cancel()
	return c.document(ctx, node, PathCommit, r, nil)
}

// Discard gives up a staged body.
func (c *Client) Discard(ctx context.Context, node api.Node, stage string) error {
	ctx, cancel := context.WithTimeout(ctx, shortTimeout)
	defer cancel()
	return c.document(ctx, node, PathDiscard, Commit{Stage: stage}, nil)
}

// Put gives a target a copy of the version that the description says. It is no error where the target has exactly
// that version; where it has a newer one it is api.CodeSuperseded. A tombstone has no body; that of a stub is its member
// index in stored form, nil where it has none. The context bounds it.
func (c *Client) Put(ctx context.Context, node api.Node, info store.Info, body io.Reader) error {
	if info.Kind == store.Tombstone {
		return c.Bury(ctx, node, info.Bucket, info.Name, info.Version)
	}
	query := url.Values{"version": {strconv.FormatUint(info.Version, 10)}}
	return c.send(ctx, node, query, info, body, nil)
}

// Bury has a target delete an object by a write of that version, and remember it.
func (c *Client) Bury(ctx context.Context, node api.Node, bucket, name string, version uint64) error {
	ctx, cancel := context.WithTimeout(ctx, shortTimeout)
	defer cancel()
	return c.document(ctx, node, PathBury, Bury{Bucket: bucket, Name: name, Version: version}, nil)
}

// Fetch reads a target's copy of that version of an object, in the form in which Put takes it. The body is verified there; whoever stores it verifies it
// once more against the checksums of the description. The context bounds it all.
func (c *Client) Fetch(ctx context.Context, node api.Node, bucket, name string, version uint64) (store.Info, io.ReadCloser, error) {
	query := url.Values{"version": {strconv.FormatUint(version, 10)}}
	request, err := c.request(ctx, http.MethodGet, node, Path(bucket, name)+"?"+query.Encode(), http.NoBody)
	if err != nil {
		return store.Info{}, nil, err
	}
	response, err := c.do(node, request)
	if err != nil {
		return store.Info{}, nil, err
	}
	info, err := Parse(response.Header.Get(Header), bucket, name)
	if err != nil {
		_ = response.Body.Close()
		return store.Info{}, nil, silent(node, err)
	}
	return info, response.Body, nil
}

func (c *Client) send(ctx context.Context, node api.Node, query url.Values, info store.Info, body io.Reader, out any) error {
	if body == nil || info.Payload() == 0 && info.Kind != store.Stub {
		body = http.NoBody
	}
	request, err := c.request(ctx, http.MethodPut, node, Path(info.Bucket, info.Name)+"?"+query.Encode(), body)
	if err != nil {
		return err
	}
	if info.Kind != store.Stub { // whose index is as long as it is
		request.ContentLength = info.Payload()
	}
	request.Header.Set(Header, Describe(info))
	return c.answer(node, request, out)
}

func (c *Client) document(ctx context.Context, node api.Node, path string, in, out any) error {
	document, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("ask %s: %w", node.ID, err)
	}
	request, err := c.request(ctx, http.MethodPost, node, path, bytes.NewReader(document))
	if err != nil {
		return err
	}
	return c.answer(node, request, out)
}

func (c *Client) request(ctx context.Context, method string, node api.Node, path string, body io.Reader) (*http.Request, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://"+node.Addr+path, body)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", node.ID, err)
	}
	request.Header.Set(api.HeaderRequestID, telemetry.RequestIDOf(ctx))
	request.Header.Set(HeaderNode, c.self)
	// All requests may be made twice: a connection that the other side has closed meanwhile is no failure.
	request.Header["Idempotency-Key"] = nil
	request.Header.Set(api.HeaderMap, strconv.FormatInt(c.mapVersion(), 10))
	return request, nil
}

func (c *Client) do(node api.Node, request *http.Request) (*http.Response, error) {
	response, err := c.http.Do(request)
	if err != nil {
		return nil, silent(node, err)
	}
	if response.StatusCode < 300 {
		return response, nil
	}
	defer func() { _ = response.Body.Close() }()
	var answer *api.Error
	if err := api.ErrorOf(response); errors.As(err, &answer) {
		answer.Message = node.ID + ": " + answer.Message
		return nil, answer
	}
	return nil, silent(node, err)
}

func (c *Client) answer(node api.Node, request *http.Request, out any) error {
	response, err := c.do(node, request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	body := io.LimitReader(response.Body, maxAnswer)
	if out == nil {
		_, err = io.Copy(io.Discard, body)
	} else {
		err = json.NewDecoder(body).Decode(out)
	}
	if err != nil {
		return silent(node, err)
	}
	return nil
}

func silent(node api.Node, err error) *api.Error {
	var request *url.Error
	if errors.As(err, &request) {
		err = request.Err
	}
	return api.Errorf(http.StatusServiceUnavailable, api.CodeUnavailable, "target %s (%s) does not answer: %v", node.ID, node.Addr, err)
}

// Is tells whether an error is a node's answer of that code.
func Is(err error, code string) bool {
	var answer *api.Error
	return errors.As(err, &answer) && answer.Code == code
}
