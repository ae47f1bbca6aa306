package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/membership"
	"github.com/shardstream/shardstream/core/store"
)

// getBuckets lists the buckets as etcd has them now, so that one made through another gateway is there.
func (g *Gateway) getBuckets(w http.ResponseWriter, r *http.Request) error {
	entries, err := g.members.KV("buckets").List(r.Context())
	if err != nil {
		return err
	}
	list := api.BucketList{Buckets: []api.Bucket{}}
	for _, e := range entries {
		var b membership.Bucket
		if err := json.Unmarshal(e.Value, &b); err != nil {
			return fmt.Errorf("bucket %s: its entry does not parse: %w", e.Name, err)
		}
		if !b.Deleting {
			list.Buckets = append(list.Buckets, b.Bucket)
		}
	}
	return WriteJSON(w, http.StatusOK, list)
}

func (g *Gateway) getBucket(w http.ResponseWriter, r *http.Request) error {
	b, err := g.bucket(r.Context(), r.PathValue("bucket"))
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, b.Bucket)
}

// bucket finds a bucket that exists now.
func (g *Gateway) bucket(ctx context.Context, name string) (membership.Bucket, error) {
	if err := store.CheckBucket(name); err != nil {
		return membership.Bucket{}, err
	}
	return g.members.FindBucket(ctx, name)
}

func (g *Gateway) putBucket(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("bucket")
	if err := store.CheckBucket(name); err != nil {
		return err
	}
	try, err := unlessFalse(r, "check")
	if err != nil {
		return err
	}
	b := api.Bucket{Name: name, Created: time.Now().UTC(), Mirror: 1}
	if r.ContentLength != 0 {
		var wanted struct {
			Name string `json:"name"` // may be said once more
			api.BucketChange
		}
		if err := ReadKnownJSON(w, r, maxDocument, &wanted); err != nil {
			return err
		}
		if err := changeBucket(&b, wanted.BucketChange, true); err != nil {
			return err
		}
	}
	if b.Backend != nil {
		if err := g.reachable(r.Context(), &b, try); err != nil {
			return err
		}
	}
	if err := g.members.CreateBucket(r.Context(), b); err != nil {
		if errors.Is(err, membership.ErrBucketExists) && !g.exists(r.Context(), name) {
			return api.Errorf(http.StatusConflict, api.CodeExists,
				"bucket %s is being deleted; try again, and if that lasts, DELETE it once more", name)
		}
		return err
	}
	g.log.InfoContext(r.Context(), "bucket created", "bucket", name, "backend", backendOf(&b))
	return WriteJSON(w, http.StatusOK, b)
}

// patchBucket changes a bucket's properties. Objects that are there already are brought to what a new redundancy takes
// in the background.
func (g *Gateway) patchBucket(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("bucket")
	if err := store.CheckBucket(name); err != nil {
		return err
	}
	changeOf, err := readChange(w, r)
	if err != nil {
		return err
	}
	ctx := r.Context()
	b, err := g.members.ChangeBucket(ctx, name, func(b *api.Bucket) error {
		change, err := changeOf(b)
		if err == nil {
			err = changeBucket(b, change, false)
		}
		if err == nil && change.Backend != nil {
			err = g.reachable(ctx, b, false)
		}
		return err
	})
	if errors.Is(err, membership.ErrUnsettled) {
		return api.Errorf(http.StatusServiceUnavailable, api.CodeUnavailable, "%v; try again then", err)
	}
	if err != nil {
		return err
	}
	g.log.InfoContext(r.Context(), "bucket changed", "bucket", name, "mirror", b.Mirror, "ec", b.EC, "degraded", b.Degraded)
	return WriteJSON(w, http.StatusOK, b)
}

// changeBucket changes a bucket as a document says, if that makes sense.
func changeBucket(b *api.Bucket, c api.BucketChange, isNew bool) error {
	bad := func(format string, args ...any) error {
		return api.Errorf(http.StatusBadRequest, api.CodeBadRequest, format, args...)
	}
	if c.Degraded != nil {
		b.Degraded = *c.Degraded
	}
	if c.EC != nil {
		switch k, m := c.EC.Data, c.EC.Parity; {
		case k == 0 && m == 0: // no longer
			if b.EC != nil && c.Mirror == nil {
				return bad("say how many copies there are to be where there is no ec any more: mirror")
			}
			b.EC = nil
		case k < 1 || m < 1 || k+m > api.MaxSlices:
			return bad("ec %d+%d: data and parity are 1 or more, and %d together at most", k, m, api.MaxSlices)
		default:
			b.EC = &api.EC{Data: k, Parity: m}
		}
	}
	if c.Mirror != nil {
		if n := *c.Mirror; n < 1 || n > api.MaxMirror {
			return bad("mirror %d: there are 1 to %d copies of an object", n, api.MaxMirror)
		}
		b.Mirror = *c.Mirror
	}
	if err := changeBackend(b, c.Backend, isNew); err != nil || b.EC == nil {
		return err
	}
	if c.Mirror != nil && b.Mirror != b.Copies() {
		return bad("mirror %d with ec %d+%d: small objects have parity + 1 = %d copies then; leave mirror out",
			b.Mirror, b.EC.Data, b.EC.Parity, b.Copies())
	}
	b.Mirror = b.Copies()
	return nil
}

// backendOf is a bucket's backend for people and logs, "" where it has none: its URL, but for a query, which may have a
// signature.
func backendOf(b *api.Bucket) string {
	if b.Backend == nil {
		return ""
	}
	url, _, _ := strings.Cut(b.Backend.URL, "?")
	return url
}

func (g *Gateway) exists(ctx context.Context, name string) bool {
	_, err := g.members.FindBucket(ctx, name)
	return err == nil
}

// deleteBucket ends a bucket in three steps, each of which may be repeated after a failure: it is
// marked, so that no target takes new objects for it; then all targets say that it is empty, or drop
// what they have; then its entry goes. What a bucket's backend has stays there.
func (g *Gateway) deleteBucket(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("bucket")
	if err := store.CheckBucket(name); err != nil {
		return err
	}
	force, err := boolean(r, "force")
	if err != nil {
		return err
	}
	// A client that goes away must not leave the bucket marked.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), dropTimeout)
	defer cancel()
	revision, err := g.members.SetDeleting(ctx, name, true)
	if err != nil {
		return err
	}
	if !force {
		if err := g.checkEmpty(ctx, name, revision); err != nil {
			_, unmark := g.members.SetDeleting(ctx, name, false)
			return errors.Join(err, unmark)
		}
	}
	path, query := internalBucket(name, "drop", revision)
	if _, err := AskTargets[struct{}](ctx, g, dropTimeout, http.MethodPost, path, query); err != nil {
		return fmt.Errorf("bucket %s is partly deleted; delete it again: %w", name, err)
	}
	if _, err := g.members.RemoveBucket(ctx, name); err != nil && !errors.Is(err, membership.ErrNoBucket) {
		return err
	}
	g.log.InfoContext(ctx, "bucket deleted", "bucket", name, "force", force)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (g *Gateway) checkEmpty(ctx context.Context, name string, revision int64) error {
	path, query := internalBucket(name, "empty", revision)
	answers, err := AskTargets[struct{ Empty bool }](ctx, g, pageTimeout, http.MethodGet, path, query)
	if err != nil {
		return err
	}
	for _, a := range answers {
		if !a.Empty {
			// Of a bucket with a backend: objects of its own, which no backend has.
			return api.Errorf(http.StatusConflict, api.CodeNotEmpty,
				"bucket %s holds objects; delete them first, or delete it with force=true", name)
		}
	}
	return nil
}

func internalBucket(name, verb string, revision int64) (string, url.Values) {
	return "/v1/internal/buckets/" + url.PathEscape(name) + "/" + verb,
		url.Values{"revision": {strconv.FormatInt(revision, 10)}}
}

// unlessFalse is a parameter of the query; absent: true.
func unlessFalse(r *http.Request, name string) (bool, error) {
	if r.URL.Query().Get(name) == "" {
		return true, nil
	}
	return boolean(r, name)
}

// boolean is a parameter of the query; absent: false.
func boolean(r *http.Request, name string) (bool, error) {
	value := r.URL.Query().Get(name)
	if value == "" {
		return false, nil
	}
	b, err := strconv.ParseBool(value)
	if err != nil {
		return false, api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "%s=%q is neither true nor false", name, value)
	}
	return b, nil
}
