package gateway

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/store"
)

const (
	objectPrefix  = "/v1/objects/"
	objectPattern = "/v1/objects/{bucket}/{key...}"
)

var objectMethods = []string{http.MethodGet, http.MethodHead, http.MethodPut, http.MethodDelete}

// object sends a request on to the target that owns the object, once it is worth it: the name is
// allowed, the bucket exists, the owner lives. The body has not been read then, so that a client that
// waits for 100-continue sends it once, to the target.
func (g *Gateway) object(w http.ResponseWriter, r *http.Request) error {
	if r.ContentLength != 0 {
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(unreadTimeout)) // not all writers have one
	}
	if !slices.Contains(objectMethods, r.Method) {
		w.Header().Set("Allow", strings.Join(objectMethods, ", "))
		return api.Errorf(http.StatusMethodNotAllowed, api.CodeMethod, "objects have no method %s", r.Method)
	}
	bucket, key, err := namesOf(r)
	if err != nil {
		return err
	}
	b, err := g.bucket(r.Context(), bucket)
	if err != nil {
		return err
	}
	if b.Copies() > 1 { // of one copy there is no other: its owner answers for it whatever the map is by now
		if err := g.leased(); err != nil {
			return err
		}
	}
	owner, err := g.Primary(&b.Bucket, key)
	if err != nil {
		return err
	}
	switch op := r.URL.Query().Get("op"); op {
	case "":
	case "locate":
		return g.locate(w, r, &b.Bucket, key)
	default:
		return api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "op=%q is not known; locate is", op)
	}
	location := url.URL{Scheme: "http", Host: owner.Addr}
	h := w.Header()
	h.Set("Location", location.String()+r.URL.EscapedPath()+query(r))
	h.Set("Cache-Control", "no-store") // ownership changes
	h.Set("Content-Length", "0")
	w.WriteHeader(http.StatusTemporaryRedirect)
	return nil
}

// namesOf takes bucket and key from the path as it came, so that an escaped slash or dot is what it is.
func namesOf(r *http.Request) (bucket, key string, err error) {
	rawBucket, rawKey, _ := strings.Cut(strings.TrimPrefix(r.URL.EscapedPath(), objectPrefix), "/")
	if bucket, err = url.PathUnescape(rawBucket); err == nil {
		key, err = url.PathUnescape(rawKey)
	}
	if err != nil {
		return "", "", api.Errorf(http.StatusBadRequest, api.CodeBadName, "the path has a broken %%-escape: %v", err)
	}
	if err = store.CheckBucket(bucket); err == nil {
		err = store.CheckName(key)
	}
	return bucket, key, err
}

func query(r *http.Request) string {
	if r.URL.RawQuery == "" {
		return ""
	}
	return "?" + r.URL.RawQuery
}

// Primary is the live target that answers for an object; CodeUnavailable where it is down.
func (g *Gateway) Primary(b *api.Bucket, key string) (api.Node, error) {
	primary, ok := g.members.View().Placer.Primary(b.Name, key, b.Copies())
	switch {
	case !ok:
		return primary, api.Errorf(http.StatusServiceUnavailable, api.CodeUnavailable, "the cluster has no target that is up: start one")
	case primary.State == api.StateOK:
		return primary, nil
	case b.Copies() > 1:
		return primary, api.Errorf(http.StatusServiceUnavailable, api.CodeUnavailable,
			"target %s, which answers for %s, has just gone down; another takes over in a moment", primary.ID, api.Address(b.Name, key))
	}
	return primary, api.Errorf(http.StatusServiceUnavailable, api.CodeUnavailable,
		"target %s, which owns %s, is down; its objects are there again when it is", primary.ID, api.Address(b.Name, key))
}

// holders are the targets that have a copy or a slice of an object or may have one, its primary first; not those that are down.
func (g *Gateway) holders(b *api.Bucket, key string) []api.Node {
	placer := g.members.View().Placer
	plan := placer.Plan(b.Name, key, b.Copies(), b.Was...)
	ids := plan.Ask("")
	if b.EC != nil { // and its slices
		wide := placer.Plan(b.Name, key, b.Width())
		for _, id := range wide.Ask("") {
			if !slices.Contains(ids, id) {
				ids = append(ids, id)
			}
		}
	}
	var nodes []api.Node
	for _, id := range ids {
		if n, ok := placer.Node(id); ok && n.State == api.StateOK {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

// locate asks all who may have a copy. Those that are down can't say; what the others have is told.
func (g *Gateway) locate(w http.ResponseWriter, r *http.Request, b *api.Bucket, key string) error {
	if r.Method != http.MethodGet {
		return api.Errorf(http.StatusMethodNotAllowed, api.CodeMethod, "op=locate is for GET")
	}
	primary, err := g.Primary(b, key)
	if err != nil {
		return err
	}
	nodes := g.holders(b, key)
	parts := make([]api.Location, len(nodes))
	group, ctx := errgroup.WithContext(r.Context())
	ask := url.Values{"op": {"locate"}, "local": {"true"}}
	for i, node := range nodes {
		group.Go(func() error {
			return g.Ask(ctx, pageTimeout, node, http.MethodGet, api.ObjectPath(b.Name, key), ask, &parts[i])
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	location := api.Location{
		Object: api.Address(b.Name, key), URL: "http://" + primary.Addr + api.ObjectPath(b.Name, key), Copies: []api.Copy{},
	}
	for _, p := range parts {
		location.Version = max(location.Version, p.Version)
		location.Copies = append(location.Copies, p.Copies...)
	}
	return WriteJSON(w, http.StatusOK, location)
}
