// Package azure reads and writes objects in Azure Blob Storage: az://CONTAINER/PREFIX.
//
// Fields of a secret: account, the storage account's name; key, its shared key; sas, a shared access signature instead
// of a key; connection_string, which has all of these; tenant_id, client_id and client_secret of a service principal;
// anonymous=true for public containers. What a secret does not say comes from AZURE_STORAGE_CONNECTION_STRING,
// AZURE_STORAGE_ACCOUNT, AZURE_STORAGE_KEY and AZURE_STORAGE_SAS_TOKEN, and then from Azure's default chain: environment,
// workload identity, managed identity, the az command.
//
// An endpoint is the URL of the account's blob service, as http://127.0.0.1:10000/devstoreaccount1. Credentials from
// the node's environment are sent to Azure's own addresses only: another endpoint needs a secret. A tag is the ETag.
package azure

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"github.com/shardstream/shardstream/core/backend"
)

// Fields are those that a secret for this backend may have.
var Fields = []string{"account", "key", "sas", "connection_string", "tenant_id", "client_id", "client_secret", "anonymous"}

// own are Azure's domains.
var own = []string{".core.windows.net", ".storage.azure.net", ".core.chinacloudapi.cn", ".core.usgovcloudapi.net"}

type bucket struct {
	backend.Address
	container *container.Client
	http      *http.Client
}

var accountRE = regexp.MustCompile(`^[A-Za-z0-9-]{1,63}$`)

// Open opens a container, or what is below a prefix of it.
func Open(ctx context.Context, c backend.Config) (backend.Backend, error) {
	b := &bucket{Address: c.Address}
	if err := c.CheckFields(Fields...); err != nil {
		return nil, err
	}
	var err error
	if b.http, err = c.HTTPClient(); err != nil {
		return nil, err
	}
	if b.container, err = connect(c, b.http); err != nil {
		return nil, b.fail(ctx, "connect", "", err)
	}
	return b, nil
}

// connect makes the vendor's client, by the first of the ways to sign in that is there.
func connect(c backend.Config, client *http.Client) (*container.Client, error) {
	options := &container.ClientOptions{ClientOptions: azcore.ClientOptions{
		Transport: client,
		Retry:     policy.RetryOptions{MaxRetries: -1},
		Telemetry: policy.TelemetryOptions{Disabled: true},
	}}
	secret, err := fields(c)
	if err != nil {
		return nil, err
	}
	at, err := url.Parse(secret["endpoint"])
	if err != nil || at.Host == "" || at.RawQuery != "" {
		return nil, errors.New("the endpoint is not the URL of a blob service")
	}
	at = at.JoinPath(c.Host)
	switch {
	case secret["anonymous"] == "true":
		return container.NewClientWithNoCredential(at.String(), options)
	case secret["key"] != "":
		key, err := container.NewSharedKeyCredential(secret["account"], secret["key"])
		if err != nil {
			return nil, errors.New("the account's key is not base64")
		}
		return container.NewClientWithSharedKeyCredential(at.String(), key, options)
	case secret["sas"] != "":
		at.RawQuery = strings.TrimPrefix(secret["sas"], "?")
		return container.NewClientWithNoCredential(at.String(), options)
	}
	var token azcore.TokenCredential
	switch {
	case secret["client_secret"] != "":
		token, err = azidentity.NewClientSecretCredential(secret["tenant_id"], secret["client_id"], secret["client_secret"],
			&azidentity.ClientSecretCredentialOptions{ClientOptions: azcore.ClientOptions{Transport: client}})
	case !trusted(at):
		return container.NewClientWithNoCredential(at.String(), options)
	default:
		token, err = azidentity.NewDefaultAzureCredential(nil)
	}
	if err != nil {
		return nil, &credentialsError{err}
	}
	return container.NewClient(at.String(), credential{token}, options)
}

// fields are the secret's, completed from its connection string and, where it has no credentials and the endpoint is Azure's
// own, from the environment; with the endpoint.
func fields(c backend.Config) (map[string]string, error) {
	all := map[string]string{"endpoint": c.Endpoint}
	for name, value := range c.Credentials {
		all[name] = value
	}
	at, err := url.Parse(c.Endpoint)
	mine := all["key"] != "" || all["sas"] != "" || all["connection_string"] != "" || all["client_secret"] != "" || all["anonymous"] == "true"
	if !mine && (c.Endpoint == "" || err == nil && trusted(at)) {
		for name, variable := range map[string]string{
			"connection_string": "AZURE_STORAGE_CONNECTION_STRING", "key": "AZURE_STORAGE_KEY", "sas": "AZURE_STORAGE_SAS_TOKEN",
		} {
			all[name] = os.Getenv(variable)
		}
	}
	if all["account"] == "" {
		all["account"] = os.Getenv("AZURE_STORAGE_ACCOUNT")
	}
	if all["connection_string"] != "" {
		if err := unpack(all); err != nil {
			return nil, err
		}
	}
	if all["endpoint"] == "" {
		if all["account"] == "" {
			return nil, errors.New("which storage account? Put it as account into the backend's secret, or set AZURE_STORAGE_ACCOUNT or an endpoint")
		}
		// It becomes a part of a host's name, which may be sent credentials of the node's own.
		if !accountRE.MatchString(all["account"]) {
			return nil, errors.New("the storage account's name has letters, digits and - only")
		}
		all["endpoint"] = "https://" + all["account"] + ".blob.core.windows.net"
	}
	if all["key"] != "" && all["account"] == "" {
		return nil, errors.New("a key takes the account's name beside it: put it as account into the backend's secret")
	}
	return all, nil
}

// unpack takes a connection string apart, into what is not said otherwise.
func unpack(all map[string]string) error {
	parts := map[string]string{"DefaultEndpointsProtocol": "https", "EndpointSuffix": "core.windows.net"}
	for part := range strings.SplitSeq(strings.Trim(all["connection_string"], "; \n"), ";") {
		name, value, found := strings.Cut(part, "=")
		if !found {
			return errors.New("the connection string is none: it has parts NAME=VALUE with ; between them")
		}
		parts[strings.TrimSpace(name)] = value
	}
	set := func(name, value string) {
		if all[name] == "" {
			all[name] = value
		}
	}
	set("endpoint", parts["BlobEndpoint"])
	if account := parts["AccountName"]; account != "" {
		all["account"] = account
		set("endpoint", fmt.Sprintf("%s://%s.blob.%s", parts["DefaultEndpointsProtocol"], account, parts["EndpointSuffix"]))
	}
	set("key", parts["AccountKey"])
	set("sas", parts["SharedAccessSignature"])
	return nil
}

// trusted says that an address is Azure's, and may have the node's own credentials.
func trusted(at *url.URL) bool {
	for _, domain := range own {
		if at.Scheme == "https" && strings.HasSuffix(at.Hostname(), domain) {
			return true
		}
	}
	return false
}

func (b *bucket) Close() error {
	b.http.CloseIdleConnections()
	return nil
}

func (b *bucket) key(name string) string { return b.Prefix() + name }
