// Package secrets keeps the credentials of buckets' backends: named sets of fields, in etcd. Gateways write them, gateways
// and targets that open a backend read them. Nobody else does, and nothing prints or logs their values.
package secrets

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/membership"
)

// Bounds of a secret.
const (
	MaxFields = 64
	MaxBytes  = 256 << 10 // of all names and values of fields
	maxList   = 1000      // secrets of a cluster
	folder    = "secrets"
)

var (
	nameRE  = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)
	fieldRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$`)
)

// Secrets are those of a cluster. Errors for a user are *api.Error.
type Secrets struct{ kv *membership.KV }

// Of are the secrets of a cluster.
func Of(m *membership.Membership) Secrets { return Secrets{kv: m.KV(folder)} }

// Get reads a secret with its data; CodeNoSecret if there is none.
func (s Secrets) Get(ctx context.Context, name string) (api.Secret, error) {
	secret, _, err := s.get(ctx, name)
	return secret, err
}

func (s Secrets) get(ctx context.Context, name string) (api.Secret, int64, error) {
	if err := CheckName(name); err != nil {
		return api.Secret{}, 0, err
	}
	entry, err := s.kv.Get(ctx, name)
	if errors.Is(err, membership.ErrNoEntry) {
		return api.Secret{}, 0, api.Errorf(http.StatusNotFound, api.CodeNoSecret,
			"there is no secret %s; `shardstream secret set %s` makes it, `shardstream secret ls` shows those that there are", name, name)
	}
	if err != nil {
		return api.Secret{}, 0, err
	}
	secret, err := parse(entry)
	return secret, entry.Revision, err
}

// parse reads an entry. Its error has nothing of what it could not read.
func parse(entry membership.Entry) (api.Secret, error) {
	var secret api.Secret
	if json.Unmarshal(entry.Value, &secret) != nil {
		return api.Secret{}, fmt.Errorf("secret %s: its entry does not parse", entry.Name)
	}
	secret.Fields = slices.Sorted(maps.Keys(secret.Data))
	return secret, nil
}

// List describes all secrets, without their data, sorted by name.
func (s Secrets) List(ctx context.Context) ([]api.Secret, error) {
	entries, err := s.kv.List(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]api.Secret, len(entries))
	for i, entry := range entries {
		if list[i], err = parse(entry); err != nil {
			return nil, err
		}
		list[i].Data = nil
	}
	return list, nil
}

// Put stores a secret, new or in place of the one of that name, and describes it.
func (s Secrets) Put(ctx context.Context, name string, data map[string]string) (api.Secret, error) {
	if err := check(name, data); err != nil {
		return api.Secret{}, err
	}
	list, err := s.kv.List(ctx)
	if err != nil {
		return api.Secret{}, err
	}
	known := slices.ContainsFunc(list, func(e membership.Entry) bool { return e.Name == name })
	if !known && len(list) >= maxList {
		return api.Secret{}, api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "the cluster has %d secrets, as many as there may be; remove one", len(list))
	}
	secret := api.Secret{Name: name, Created: time.Now().UTC(), Data: data}
	document, err := json.Marshal(secret)
	if err != nil {
		return api.Secret{}, fmt.Errorf("secret %s: it can't be written down", name)
	}
	if _, err := s.kv.Put(ctx, name, document); err != nil {
		return api.Secret{}, err
	}
	secret.Fields, secret.Data = slices.Sorted(maps.Keys(data)), nil
	return secret, nil
}

// Delete removes a secret; CodeNoSecret if there is none.
func (s Secrets) Delete(ctx context.Context, name string) error {
	if _, err := s.Get(ctx, name); err != nil {
		return err
	}
	err := s.kv.Delete(ctx, name)
	if errors.Is(err, membership.ErrNoEntry) {
		return nil // by another, a moment ago
	}
	return err
}

// CheckName refuses a name that no secret can have.
func CheckName(name string) error {
	if nameRE.MatchString(name) {
		return nil
	}
	return api.Errorf(http.StatusBadRequest, api.CodeBadName,
		"secret %.80q: a name has lower-case letters, digits, - and _, begins with a letter or digit, and has at most 63 of them", name)
}

// check refuses what can't be a secret. Its errors name fields, never their values.
func check(name string, data map[string]string) error {
	bad := func(format string, args ...any) error {
		return api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "secret %s: %s", name, fmt.Sprintf(format, args...))
	}
	if err := CheckName(name); err != nil {
		return err
	}
	if len(data) == 0 || len(data) > MaxFields {
		return bad("it has %d fields, and needs 1 to %d", len(data), MaxFields)
	}
	size := 0
	for _, field := range slices.Sorted(maps.Keys(data)) {
		value := data[field]
		size += len(field) + len(value)
		switch {
		case !fieldRE.MatchString(field):
			return bad("a field's name has letters, digits, _, . and -, 128 at most; one of its fields has another")
		case value == "":
			return bad("its field %s is empty; leave it out", field)
		case !utf8.ValidString(value) || strings.ContainsRune(value, 0):
			return bad("its field %s is not text", field)
		}
	}
	if size > MaxBytes {
		return bad("it has %d bytes, at most %d are possible", size, MaxBytes)
	}
	return nil
}
