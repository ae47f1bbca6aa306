package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/telemetry"
)

// Peers is an HTTP client for requests to other nodes. It follows no redirects and has no deadline of
// its own: each request brings one in its context.
func (g *Gateway) Peers() *http.Client { return g.peers }

// Ask makes a request for a document to another node. Its errors are *api.Error: the node's own, or
// CodeUnavailable with the node's name where it did not answer in time.
func (g *Gateway) Ask(ctx context.Context, limit time.Duration, node api.Node, method, path string, query url.Values, out any) error {
	return g.ask(ctx, limit, node, method, path, query, http.NoBody, out)
}

func (g *Gateway) ask(ctx context.Context, limit time.Duration, node api.Node, method, path string, query url.Values, in io.Reader, out any) error {
	return g.askBy(ctx, 0, limit, node, method, path, query, in, out)
}

// askBy is ask for requests that are to be answered by one version of the map; 0: by any.
func (g *Gateway) askBy(
	ctx context.Context, version int64, limit time.Duration, node api.Node, method, path string, query url.Values, in io.Reader, out any,
) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	at := "http://" + node.Addr + path
	if len(query) > 0 {
		at += "?" + query.Encode()
	}
	request, err := http.NewRequestWithContext(ctx, method, at, in)
	if err != nil {
		return fmt.Errorf("ask %s: %w", node.ID, err)
	}
	request.Header.Set(api.HeaderRequestID, telemetry.RequestIDOf(ctx))
	if version != 0 {
		request.Header.Set(api.HeaderMap, strconv.FormatInt(version, 10))
	}
	response, err := g.peers.Do(request)
	if err != nil {
		return silent(node, err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode >= 300 {
		return api.ErrorOf(response)
	}
	body := io.LimitReader(response.Body, maxPeerAnswers)
	if out == nil || response.StatusCode == http.StatusNoContent {
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
	return api.Errorf(http.StatusServiceUnavailable, api.CodeUnavailable,
		"%s %s (%s) does not answer: %v; it may be restarting", node.Role, node.ID, node.Addr, err)
}

// AskTargets makes the same request to all targets of the map, also to those that are down: what has
// to be complete fails with the first that fails. An answer is decoded into a T for each, in the
// map's order.
func AskTargets[T any](ctx context.Context, g *Gateway, limit time.Duration, method, path string, query url.Values) ([]T, error) {
	targets := g.members.View().Map().Targets()
	answers := make([]T, len(targets))
	group, ctx := errgroup.WithContext(ctx)
	for i, node := range targets {
		group.Go(func() error { return g.Ask(ctx, limit, node, method, path, query, &answers[i]) })
	}
	return answers, group.Wait()
}
