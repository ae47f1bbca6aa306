package gateway

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

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
	owner, err := g.Owner(bucket, key)
	if err != nil {
		return err
	}
	switch op := r.URL.Query().Get("op"); op {
	case "":
	case "locate":
		return g.locate(w, r, owner, bucket, key)
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

// Owner is the live target that owns an object; CodeUnavailable where it is down.
func (g *Gateway) Owner(bucket, key string) (api.Node, error) {
	owner, ok := g.members.View().Placer.Owner(bucket, key)
	if !ok {
		return owner, api.Errorf(http.StatusServiceUnavailable, api.CodeUnavailable, "the cluster has no target yet: start one")
	}
	if owner.State != api.StateOK {
		return owner, api.Errorf(http.StatusServiceUnavailable, api.CodeUnavailable,
			"target %s, which owns %s, is down; its objects are there again when it is", owner.ID, api.Address(bucket, key))
	}
	return owner, nil
}

// locate asks the owner, then the earlier owners, until one has a copy.
func (g *Gateway) locate(w http.ResponseWriter, r *http.Request, owner api.Node, bucket, key string) error {
	if r.Method != http.MethodGet {
		return api.Errorf(http.StatusMethodNotAllowed, api.CodeMethod, "op=locate is for GET")
	}
	ask := url.Values{"op": {"locate"}, "local": {"true"}}
	var location api.Location
	for _, node := range append([]api.Node{owner}, g.members.View().Placer.Former(bucket, key)...) {
		if err := g.Ask(r.Context(), pageTimeout, node, http.MethodGet, api.ObjectPath(bucket, key), ask, &location); err != nil {
			return err
		}
		if location.Version != 0 {
			break
		}
	}
	return WriteJSON(w, http.StatusOK, location)
}

// postFsck has all targets read and verify what they hold.
func (g *Gateway) postFsck(w http.ResponseWriter, r *http.Request) error {
	for _, n := range g.members.View().Map().Targets() {
		if n.State == api.StateDown { // it might accept a connection and never answer
			return api.Errorf(http.StatusServiceUnavailable, api.CodeUnavailable, "target %s is down; what it holds can't be checked", n.ID)
		}
	}
	parts, err := AskTargets[api.FsckReport](r.Context(), g, fsckTimeout, http.MethodPost, "/v1/fsck", nil)
	if err != nil {
		return err
	}
	report := api.FsckReport{Corrupt: []api.Finding{}, Missing: []api.Finding{}, Stray: []api.Finding{}}
	for _, p := range parts {
		report.Objects += p.Objects
		report.Corrupt = append(report.Corrupt, p.Corrupt...)
		report.Missing = append(report.Missing, p.Missing...)
		report.Stray = append(report.Stray, p.Stray...)
	}
	return WriteJSON(w, http.StatusOK, report)
}
