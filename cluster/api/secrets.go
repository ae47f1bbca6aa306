package api

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// Secret is PUT /v1/secrets/{name}: fields as the backends document them. They are never shown again.
type Secret struct {
	Name    string            `json:"name"`
	Created time.Time         `json:"created"`
	Data    map[string]string `json:"data,omitempty"`   // of a PUT only
	Fields  []string          `json:"fields,omitempty"` // names of what it has
}

// SecretList is GET /v1/secrets, sorted by name.
type SecretList struct {
	Secrets []Secret `json:"secrets"`
}

// PutSecret stores a secret, new or in place of the one of that name, and describes it.
func (c *Client) PutSecret(ctx context.Context, name string, data map[string]string) (Secret, error) {
	var s Secret
	// Repeating is harmless: the same data is stored again.
	err := c.retry(ctx, func() error {
		return c.call(ctx, http.MethodPut, secretPath(name), nil, Secret{Name: name, Data: data}, &s)
	})
	return s, err
}

// Secret describes a secret, without its data; CodeNoSecret if there is none.
func (c *Client) Secret(ctx context.Context, name string) (Secret, error) {
	return fetch[Secret](ctx, c, secretPath(name), nil)
}

// Secrets describes all secrets, sorted by name.
func (c *Client) Secrets(ctx context.Context) ([]Secret, error) {
	list, err := fetch[SecretList](ctx, c, "/v1/secrets", nil)
	return list.Secrets, err
}

// DeleteSecret removes a secret; CodeRefused while a bucket needs it.
func (c *Client) DeleteSecret(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, secretPath(name), nil, nil, nil)
}

func secretPath(name string) string { return "/v1/secrets/" + url.PathEscape(name) }
