// Package s3 reads and writes objects in Amazon S3 and in what speaks its protocol: versitygw, MinIO, Ceph, R2.
//
// Fields of a secret: access_key_id and secret_access_key, session_token for temporary ones; role_arn (and
// external_id) of a role to take on with them, or with those of the usual chain; profile of the shared
// configuration files; anonymous=true for public buckets. Without credentials in it, the AWS SDK's chain is used:
// environment, shared files, web identity, the container's and the instance's role.
//
// With an endpoint, buckets are addressed by path, http://HOST/BUCKET/KEY. A tag is the ETag. Directory buckets (S3 Express)
// do not list in the order of names, and can't be backends.
package s3

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go/logging"

	"github.com/shardstream/shardstream/core/backend"
)

// completion bounds the request that makes an object of its parts: some servers copy all of them before they answer.
const completion = 15 * time.Minute

// Fields are those that a secret for this backend may have.
var Fields = []string{"access_key_id", "secret_access_key", "session_token", "role_arn", "external_id", "profile", "anonymous"}

type bucket struct {
	backend.Address
	client  *s3.Client
	http    *http.Client
	patient *http.Client // for the request that makes an object of its parts
	md5     bool         // an ETag may be the object's MD5
}

// Open opens a bucket, or what is below a prefix of it.
func Open(ctx context.Context, c backend.Config) (backend.Backend, error) {
	b := &bucket{Address: c.Address, md5: !strings.HasSuffix(c.Host, "--x-s3")}
	if err := c.CheckFields(Fields...); err != nil {
		return nil, err
	}
	shared, err := load(ctx, c)
	if err != nil {
		return nil, b.fail(ctx, "connect", "", err)
	}
	transport, err := c.Transport()
	if err != nil {
		return nil, err
	}
	trust(transport, shared, c.CA)
	// A redirect to another place would take the session's token along.
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	slow := transport.Clone()
	slow.ResponseHeaderTimeout = completion
	b.http = &http.Client{Transport: transport, CheckRedirect: stay}
	b.patient = &http.Client{Transport: slow, CheckRedirect: stay}
	b.client = s3.NewFromConfig(shared, func(o *s3.Options) {
		o.HTTPClient = b.http
		o.Retryer = aws.NopRetryer{}
		o.Logger = logging.Nop{}
		// Checksums of what is written are computed here, in front of the request; those of what is read are
		// compared by backend.WithRetries, which knows how to ask again.
		o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
		o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
		o.DisableLogOutputChecksumValidationSkipped = true
		if c.Endpoint != "" {
			o.BaseEndpoint = aws.String(strings.TrimRight(c.Endpoint, "/"))
		}
		o.UsePathStyle = o.BaseEndpoint != nil
	})
	return b, nil
}

// load is the vendor's configuration with what a secret says instead. Its own requests, for credentials, go to the
// addresses of the cloud's metadata service and by the SDK's own client.
func load(ctx context.Context, c backend.Config) (aws.Config, error) {
	options := []func(*config.LoadOptions) error{config.WithLogger(logging.Nop{})}
	secret := c.Credentials
	if secret["profile"] != "" {
		options = append(options, config.WithSharedConfigProfile(secret["profile"]))
	}
	switch {
	case secret["anonymous"] == "true":
		options = append(options, config.WithCredentialsProvider(aws.AnonymousCredentials{}))
	case secret["access_key_id"] != "" && secret["secret_access_key"] != "":
		options = append(options, config.WithCredentialsProvider(credentials.NewStaticCredentialsProvider(
			secret["access_key_id"], secret["secret_access_key"], secret["session_token"])))
	case secret["access_key_id"] != "" || secret["secret_access_key"] != "":
		return aws.Config{}, errors.New("the secret has one of access_key_id and secret_access_key; it takes both")
	}
	if c.Region != "" {
		options = append(options, config.WithRegion(c.Region))
	}
	shared, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return aws.Config{}, fmt.Errorf("the AWS configuration: %w", err)
	}
	if shared.Region == "" {
		shared.Region = "us-east-1"
	}
	if role := secret["role_arn"]; role != "" {
		shared.Credentials = aws.NewCredentialsCache(stscreds.NewAssumeRoleProvider(sts.NewFromConfig(shared), role,
			func(o *stscreds.AssumeRoleOptions) {
				o.RoleSessionName = "shardstream"
				if id := secret["external_id"]; id != "" {
					o.ExternalID = aws.String(id)
				}
			}))
	}
	if shared.Credentials != nil && secret["anonymous"] != "true" {
		shared.Credentials = provider{shared.Credentials}
	}
	return shared, nil
}

// provider marks errors of getting credentials: no answer of the bucket's.
type provider struct{ aws.CredentialsProvider }

func (p provider) Retrieve(ctx context.Context) (aws.Credentials, error) {
	found, err := p.CredentialsProvider.Retrieve(ctx)
	if err != nil {
		return found, &credentialsError{err}
	}
	return found, nil
}

// trust adds the certificates of AWS_CA_BUNDLE, which the SDK reads into a client of its own only.
func trust(to *http.Transport, shared aws.Config, more []byte) {
	client, ok := shared.HTTPClient.(*awshttp.BuildableClient)
	if !ok {
		return
	}
	own := client.GetTransport().TLSClientConfig
	if own == nil || own.RootCAs == nil {
		return
	}
	pool := own.RootCAs.Clone()
	pool.AppendCertsFromPEM(more)
	to.TLSClientConfig.RootCAs = pool
}

func (b *bucket) Close() error {
	b.http.CloseIdleConnections()
	b.patient.CloseIdleConnections()
	return nil
}

// key is where an object lies in the bucket.
func (b *bucket) key(name string) *string { return aws.String(b.Prefix() + name) }
