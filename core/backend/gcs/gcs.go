// Package gcs reads and writes objects in Google Cloud Storage, by the vendor's client of its JSON API over HTTP.
//
// Fields of a secret: credentials_json, the text of a service account's key file, or of one that `gcloud auth
// application-default login` wrote; access_token, one that something else renews; anonymous=true for public buckets.
// Without one, Google's usual chain is used: GOOGLE_APPLICATION_CREDENTIALS, gcloud's file, the machine's service
// account. External accounts (workload identity federation) name addresses and programs to call, so they come by the
// node's own environment only, never by a secret.
//
// STORAGE_EMULATOR_HOST stands for an endpoint where none is given. Tokens of the chain are sent to Google's own
// addresses only: another endpoint needs a secret, or is asked without credentials. A tag is the object's generation.
package gcs

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"os"
	"strings"

	"google.golang.org/api/option"
	storage "google.golang.org/api/storage/v1"

	"github.com/shardstream/shardstream/core/backend"
)

// Fields are those that a secret for this backend may have.
var Fields = []string{"credentials_json", "access_token", "anonymous"}

type bucket struct {
	backend.Address
	objects *storage.ObjectsService
	http    *http.Client
}

// Open opens a bucket, or what is below a prefix of it.
func Open(ctx context.Context, c backend.Config) (backend.Backend, error) {
	b := &bucket{Address: c.Address}
	if err := c.CheckFields(Fields...); err != nil {
		return nil, err
	}
	client, err := c.HTTPClient()
	if err != nil {
		return nil, err
	}
	endpoint := c.Endpoint
	if endpoint == "" {
		endpoint = emulator()
	}
	google := true
	var options []option.ClientOption
	if endpoint != "" {
		at, err := url.Parse(endpoint)
		if err != nil || at.Host == "" {
			return nil, b.fail(ctx, "connect", "", errors.New("the endpoint is not a URL"))
		}
		google = at.Scheme == "https" && strings.HasSuffix(at.Hostname(), ".googleapis.com")
		options = append(options, option.WithEndpoint(strings.TrimRight(endpoint, "/")+"/storage/v1/"))
	}
	b.http = &http.Client{
		CheckRedirect: client.CheckRedirect,
		Transport:     &signer{next: client.Transport, find: finder(client, c.Credentials, google)},
	}
	options = append(options, option.WithHTTPClient(b.http))
	service, err := storage.NewService(ctx, options...)
	if err != nil {
		return nil, b.fail(ctx, "connect", "", err)
	}
	b.objects = service.Objects
	return b, nil
}

// emulator is where the user's environment has an emulator, as Google's own clients understand it.
func emulator() string {
	host := os.Getenv("STORAGE_EMULATOR_HOST")
	if host == "" || strings.Contains(host, "://") {
		return host
	}
	return "http://" + host
}

func (b *bucket) Close() error {
	b.http.CloseIdleConnections()
	return nil
}

func (b *bucket) key(name string) string { return b.Prefix() + name }
