package gateway

import (
	"context"
	"net/http"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/membership"
)

func (g *Gateway) getNodes(w http.ResponseWriter, r *http.Request) error {
	return WriteJSON(w, http.StatusOK, api.NodeList{Nodes: g.refresh(r.Context(), g.members.View().Map().Nodes)})
}

func (g *Gateway) getNode(w http.ResponseWriter, r *http.Request) error {
	n, ok := g.members.View().Map().Node(r.PathValue("id"))
	if !ok {
		return api.Errorf(http.StatusNotFound, api.CodeNotFound, "no node %q is a member of the cluster", r.PathValue("id"))
	}
	return WriteJSON(w, http.StatusOK, g.refresh(r.Context(), []api.Node{n})[0])
}

// postDrain has a target take nothing new and give what it has to the others.
func (g *Gateway) postDrain(w http.ResponseWriter, r *http.Request) error {
	return g.drain(w, r, true)
}

// deleteDrain has it take part again.
func (g *Gateway) deleteDrain(w http.ResponseWriter, r *http.Request) error {
	return g.drain(w, r, false)
}

func (g *Gateway) drain(w http.ResponseWriter, r *http.Request, draining bool) error {
	id := r.PathValue("id")
	if err := g.members.Drain(context.WithoutCancel(r.Context()), id, draining); err != nil {
		return err
	}
	g.log.InfoContext(r.Context(), "drain", "target", id, "draining", draining)
	n, _ := g.members.View().Map().Node(id)
	return WriteJSON(w, http.StatusOK, n)
}

// deleteNode takes a node out of the cluster; a target, once it is drained or by force.
func (g *Gateway) deleteNode(w http.ResponseWriter, r *http.Request) error {
	force, err := boolean(r, "force")
	if err != nil {
		return err
	}
	id := r.PathValue("id")
	if err := g.members.Remove(context.WithoutCancel(r.Context()), id, force); err != nil {
		return err
	}
	g.log.InfoContext(r.Context(), "node removed", "removed", id, "force", force)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

const maxTokenTTL = 30 * 24 * time.Hour

// postToken makes a token that one new node can join with.
func (g *Gateway) postToken(w http.ResponseWriter, r *http.Request) error {
	var wanted api.TokenRequest
	if r.ContentLength != 0 {
		if err := ReadKnownJSON(w, r, maxDocument, &wanted); err != nil {
			return err
		}
	}
	valid := membership.DefaultTokenTTL
	if wanted.ValidS != 0 {
		if wanted.ValidS < 1 || wanted.ValidS > int64(maxTokenTTL/time.Second) {
			return api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "a token is valid for 1 second to 30 days")
		}
		valid = time.Duration(wanted.ValidS) * time.Second
	}
	token, err := g.members.NewToken(r.Context(), valid)
	if err != nil {
		return err
	}
	g.log.InfoContext(r.Context(), "token for a new node", "expires", token.Expires)
	return WriteJSON(w, http.StatusOK, token)
}

// leased refuses to answer for the cluster while this gateway is cut off from it: what it knows may be old by any time.
func (g *Gateway) leased() error {
	if g.members.Leased() {
		return nil
	}
	return api.Errorf(http.StatusServiceUnavailable, api.CodeUnavailable,
		"gateway %s is cut off from the cluster's control plane; another gateway may not be", g.id)
}

// fenced is a Handler that answers only while the gateway is part of the cluster.
func (g *Gateway) fenced(h Handler) Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if err := g.leased(); err != nil {
			return err
		}
		return h(w, r)
	}
}
