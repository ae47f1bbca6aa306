package target

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/telemetry"
	"github.com/shardstream/shardstream/core/store"
)

// maxLookUpHops bounds the nodes that send a look-up on.
const maxLookUpHops = 3

// lookUp describes the newest version of an object, whoever is its primary; store.ErrNotFound where there is none.
func (t *Target) lookUp(ctx context.Context, bucket, key string) (api.Object, error) {
	p, err := t.place(ctx, bucket, key)
	if err != nil {
		return api.Object{}, err
	}
	if p.primary.ID != t.id {
		if p.primary.State != api.StateOK {
			return api.Object{}, away(p.primary)
		}
		return t.head(ctx, "http://"+p.primary.Addr+api.ObjectPath(bucket, key), bucket, key)
	}
	if p.bucket.Backend != nil {
		info, err := t.cache.Stat(ctx, &p.bucket.Bucket, key)
		return objectOf(info), err
	}
	f, err := t.newest(ctx, p)
	switch {
	case err != nil:
		return api.Object{}, err
	case !f.newest.Exists():
		return api.Object{}, fmt.Errorf("%s: %w", api.Address(bucket, key), store.ErrNotFound)
	case f.here:
		info, err := t.store.Stat(bucket, key)
		return objectOf(info), err
	case len(f.holders) == 0:
		return api.Object{}, unavailable("nobody has %s at the moment", api.Address(bucket, key))
	}
	query := "?local=true&version=" + strconv.FormatUint(f.newest.Version, 10)
	return t.head(ctx, "http://"+f.holders[0].Addr+api.ObjectPath(bucket, key)+query, bucket, key)
}

// head asks another target for an object's description.
func (t *Target) head(ctx context.Context, at, bucket, key string) (api.Object, error) {
	ctx, cancel := context.WithTimeout(ctx, peerTimeout)
	defer cancel()
	for range maxLookUpHops {
		request, err := http.NewRequestWithContext(ctx, http.MethodHead, at, http.NoBody)
		if err != nil {
			return api.Object{}, fmt.Errorf("look up %s: %w", api.Address(bucket, key), err)
		}
		request.Header.Set(api.HeaderRequestID, telemetry.RequestIDOf(ctx))
		response, err := t.peers.Do(request)
		if err != nil {
			return api.Object{}, unavailable("%s does not answer for %s: %v", request.URL.Host, api.Address(bucket, key), err)
		}
		_ = response.Body.Close() // to HEAD there is none
		switch {
		case response.StatusCode == http.StatusTemporaryRedirect:
			at = response.Header.Get("Location")
			continue
		case response.StatusCode < 300:
			o := api.ObjectOf(response.Header, bucket, key)
			o.Size = response.ContentLength
			return o, nil
		}
		err = api.ErrorOf(response)
		var answer *api.Error
		if errors.As(err, &answer) && answer.Code == api.CodeNotFound {
			err = fmt.Errorf("%s: %w", api.Address(bucket, key), store.ErrNotFound)
		}
		return api.Object{}, err
	}
	return api.Object{}, unavailable("%s is moving; look it up again", api.Address(bucket, key))
}
