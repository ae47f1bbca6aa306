package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
)

// diskTimeout is for a target to add or to open a disk: it may have to read all of its metadata, or to rebuild them.
const diskTimeout = 10 * time.Minute

// onDisks passes a request about a target's disks on to the target.
func (g *Gateway) onDisks(method string, of func(r *http.Request) (path string, in any, out any, err error), status int) Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		n, ok := g.members.View().Map().Node(r.PathValue("id"))
		if !ok || n.Role != api.RoleTarget {
			return api.Errorf(http.StatusNotFound, api.CodeNotFound, "no target %q is a member of the cluster", r.PathValue("id"))
		}
		path, in, out, err := of(r)
		if err != nil {
			return err
		}
		var document []byte
		if in != nil {
			if document, err = json.Marshal(in); err != nil {
				return err
			}
		}
		ctx := r.Context()
		if method != http.MethodGet {
			ctx = context.WithoutCancel(ctx) // what was begun is not to be left undone because nobody waits for it
		}
		if err := g.ask(ctx, diskTimeout, n, method, "/v1/disks"+path, r.URL.Query(), bytes.NewReader(document), out); err != nil {
			return err
		}
		if out == nil {
			w.WriteHeader(status)
			return nil
		}
		return WriteJSON(w, status, out)
	}
}

func diskPath(r *http.Request) string { return "/" + url.PathEscape(r.PathValue("disk")) }

func (g *Gateway) diskRoutes() {
	const disks, disk = "/v1/cluster/nodes/{id}/disks", "/v1/cluster/nodes/{id}/disks/{disk}"
	g.Handle("GET "+disks, g.onDisks(http.MethodGet, func(*http.Request) (string, any, any, error) {
		return "", nil, &api.DiskList{}, nil
	}, http.StatusOK))
	g.Handle("GET "+disk, g.onDisks(http.MethodGet, func(r *http.Request) (string, any, any, error) {
		return diskPath(r), nil, &api.Disk{}, nil
	}, http.StatusOK))
	g.Handle("POST "+disks, func(w http.ResponseWriter, r *http.Request) error {
		var in api.NewDisk
		if err := ReadJSON(w, r, maxDocument, &in); err != nil {
			return err
		}
		return g.onDisks(http.MethodPost, func(*http.Request) (string, any, any, error) {
			return "", in, &api.Disk{}, nil
		}, http.StatusCreated)(w, r)
	})
	g.Handle("PATCH "+disk, func(w http.ResponseWriter, r *http.Request) error {
		var in api.DiskChange
		if err := ReadJSON(w, r, maxDocument, &in); err != nil {
			return err
		}
		return g.onDisks(http.MethodPatch, func(r *http.Request) (string, any, any, error) {
			return diskPath(r), in, &api.Disk{}, nil
		}, http.StatusOK)(w, r)
	})
	g.Handle("DELETE "+disk, g.onDisks(http.MethodDelete, func(r *http.Request) (string, any, any, error) {
		return diskPath(r), nil, nil, nil
	}, http.StatusAccepted))
}
