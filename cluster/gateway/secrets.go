package gateway

import (
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/membership"
	"github.com/shardstream/shardstream/cluster/secrets"
)

func (g *Gateway) secretRoutes() {
	g.Handle("GET /v1/secrets", g.getSecrets)
	g.Handle("GET /v1/secrets/{name}", g.getSecret)
	g.Handle("PUT /v1/secrets/{name}", g.putSecret)
	g.Handle("DELETE /v1/secrets/{name}", g.deleteSecret)
}

func (g *Gateway) getSecrets(w http.ResponseWriter, r *http.Request) error {
	list, err := secrets.Of(g.members).List(r.Context())
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, api.SecretList{Secrets: list})
}

// getSecret says which fields a secret has. What is in them leaves the cluster towards backends alone.
func (g *Gateway) getSecret(w http.ResponseWriter, r *http.Request) error {
	secret, err := secrets.Of(g.members).Get(r.Context(), r.PathValue("name"))
	if err != nil {
		return err
	}
	secret.Data = nil
	return WriteJSON(w, http.StatusOK, secret)
}

func (g *Gateway) putSecret(w http.ResponseWriter, r *http.Request) error {
	body, err := readBody(w, r, 2*secrets.MaxBytes)
	if err != nil {
		return err
	}
	// What is wrong is not quoted, as the usual message would: it may be a part of a password.
	var secret struct {
		Name string            `json:"name"`
		Data map[string]string `json:"data"`
	}
	name := r.PathValue("name")
	if json.Unmarshal(body, &secret) != nil || secret.Name != "" && secret.Name != name {
		return api.Errorf(http.StatusBadRequest, api.CodeBadRequest, `the body is not a secret: {"data": {"FIELD": "TEXT", ...}}`)
	}
	made, err := secrets.Of(g.members).Put(r.Context(), name, secret.Data)
	if err != nil {
		return err
	}
	g.log.InfoContext(r.Context(), "secret stored", "secret", name, "fields", made.Fields)
	return WriteJSON(w, http.StatusOK, made)
}

// deleteSecret removes a secret that no bucket needs.
func (g *Gateway) deleteSecret(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("name")
	if err := secrets.CheckName(name); err != nil {
		return err
	}
	entries, err := g.members.KV("buckets").List(r.Context())
	if err != nil {
		return err
	}
	for _, e := range entries {
		var b membership.Bucket
		if err := json.Unmarshal(e.Value, &b); err != nil {
			return fmt.Errorf("bucket %s: its entry does not parse: %w", e.Name, err)
		}
		if b.Backend != nil && b.Backend.Secret == name {
			return api.Errorf(http.StatusConflict, api.CodeRefused,
				"secret %s is what bucket %s reads its backend with; give that another one first, or delete it", name, e.Name)
		}
	}
	if err := secrets.Of(g.members).Delete(r.Context(), name); err != nil {
		return err
	}
	g.log.InfoContext(r.Context(), "secret removed", "secret", name)
	w.WriteHeader(http.StatusNoContent)
	return nil
}
