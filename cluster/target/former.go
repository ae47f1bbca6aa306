package target

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/telemetry"
	"github.com/shardstream/shardstream/core/store"
)

// After a target has joined, objects that the new map gives it still lie with their earlier owners.
// Until they are moved, the owner of today answers for them: it sends reads on to where the object is,
// and makes sure that a write or delete here is not contradicted by an older copy there.

// ask makes a short request about an object to an earlier owner, to be answered from its own disks, and
// returns the answer's headers; store.ErrNotFound where the owner does not have the object.
func (t *Target) ask(ctx context.Context, method string, node api.Node, path string, query url.Values, header http.Header) (http.Header, error) {
	ctx, cancel := context.WithTimeout(ctx, peerTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, "http://"+node.Addr+path+"?"+query.Encode(), http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", node.ID, err)
	}
	for name, values := range header {
		request.Header[name] = values
	}
	request.Header.Set(api.HeaderRequestID, telemetry.RequestIDOf(ctx))
	response, err := t.peers.Do(request)
	if err != nil {
		return nil, api.Errorf(http.StatusServiceUnavailable, api.CodeUnavailable,
			"%s (%s), which held objects of this target before it joined, does not answer: %v", node.ID, node.Addr, err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode >= 300 {
		err := api.ErrorOf(response)
		var answer *api.Error
		if errors.As(err, &answer) && answer.Status == http.StatusNotFound {
			return nil, store.ErrNotFound
		}
		return nil, err
	}
	return response.Header, nil
}

var fromOwnDisks = url.Values{"local": {"true"}}

// findFormer finds the earlier owner that has the object, and the object's ETag. It is
// store.ErrNotFound where none has it and all have said so.
func (t *Target) findFormer(ctx context.Context, former []api.Node, bucket, key string) (api.Node, string, error) {
	for _, node := range former {
		answer, err := t.ask(ctx, http.MethodHead, node, api.ObjectPath(bucket, key), fromOwnDisks, nil)
		switch {
		case err == nil:
			return node, answer.Get("ETag"), nil
		case !errors.Is(err, store.ErrNotFound):
			return api.Node{}, "", err
		}
	}
	return api.Node{}, "", store.ErrNotFound
}

// checkFormer evaluates a condition against an object that only an earlier owner has. An object that
// is here needs no such check: the store makes it, atomically.
func (t *Target) checkFormer(ctx context.Context, former []api.Node, bucket, key string, c store.Condition) error {
	if len(former) == 0 || c == (store.Condition{}) {
		return nil
	}
	if _, err := t.store.Stat(bucket, key); !errors.Is(err, store.ErrNotFound) {
		return err
	}
	_, etag, err := t.findFormer(ctx, former, bucket, key)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if c.IfNoneMatch != "" && matches(c.IfNoneMatch, etag) || c.IfMatch != "" && !matches(c.IfMatch, etag) {
		return fmt.Errorf("%s has the ETag %s: %w", api.Address(bucket, key), etag, store.ErrPrecondition)
	}
	return nil
}

// dropFormer has earlier owners drop what they hold of an object, now that there is a newer version.
// One that can't is let be: what it holds is never asked for while the newer version is here.
func (t *Target) dropFormer(ctx context.Context, former []api.Node, info store.Info) {
	for _, node := range former {
		path := "/v1/internal/older" + api.ObjectPath(info.Bucket, info.Name)[len("/v1/objects"):]
		query := url.Values{"version": {strconv.FormatUint(info.Version, 10)}}
		if _, err := t.ask(ctx, http.MethodPost, node, path, query, nil); err != nil && !errors.Is(err, store.ErrNotFound) {
			t.log.WarnContext(ctx, "an older copy may be left", "object", api.Address(info.Bucket, info.Name), "node", node.ID, "error", err)
		}
	}
}

// deleteFormer deletes an object from its earlier owners. It says whether any had it, and fails where
// one can't be asked. The condition goes with it only where the object is not here.
func (t *Target) deleteFormer(ctx context.Context, former []api.Node, bucket, key string, c store.Condition) (found bool, err error) {
	if len(former) == 0 {
		return false, nil
	}
	header := http.Header{}
	present, err := t.store.Stat(bucket, key)
	switch {
	case errors.Is(err, store.ErrNotFound):
		for name, value := range map[string]string{"If-Match": c.IfMatch, "If-None-Match": c.IfNoneMatch} {
			if value != "" {
				header.Set(name, value)
			}
		}
	case err != nil:
		return false, err
	case c.IfMatch != "" && !matches(c.IfMatch, present.ETag()):
		return false, fmt.Errorf("%s has the ETag %s: %w", api.Address(bucket, key), present.ETag(), store.ErrPrecondition)
	}
	for _, node := range former {
		_, err := t.ask(ctx, http.MethodDelete, node, api.ObjectPath(bucket, key), fromOwnDisks, header)
		switch {
		case err == nil:
			found = true
		case !errors.Is(err, store.ErrNotFound):
			return found, err
		}
	}
	return found, nil
}

// dropOlder is the earlier owner's side of dropFormer.
func (t *Target) dropOlder(r *Request) error {
	bucket, key, err := r.names()
	if err != nil {
		return err
	}
	version, err := strconv.ParseUint(r.Query("version"), 10, 64)
	if err != nil {
		return api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "version=%q is not a version", r.Query("version"))
	}
	if err := t.store.DropOlder(r.Context(), bucket, key, version); err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	r.SetStatusCode(http.StatusNoContent)
	return nil
}
