package azure

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"

	"github.com/shardstream/shardstream/core/backend"
)

// kinds are what Azure's codes mean where their HTTP status does not say it.
var kinds = map[bloberror.Code]backend.Kind{
	bloberror.ContainerNotFound:        backend.NoBucket,
	bloberror.ContainerBeingDeleted:    backend.NoBucket,
	bloberror.ContainerDisabled:        backend.NoBucket,
	bloberror.ServerBusy:               backend.Busy,
	bloberror.OperationTimedOut:        backend.Passing,
	bloberror.MD5Mismatch:              backend.Passing, // the body has been compared before
	bloberror.InvalidBlockList:         backend.Passing, // another upload under the name has ended first
	bloberror.BlobArchived:             backend.Failed,
	bloberror.LeaseIDMissing:           backend.Failed,
	bloberror.SnapshotsPresent:         backend.Failed,
	bloberror.BlobImmutableDueToPolicy: backend.Denied,
	bloberror.InvalidHeaderValue:       backend.Failed,
}

// credential marks errors of getting tokens: no answer of the container's.
type credential struct{ azcore.TokenCredential }

func (c credential) GetToken(ctx context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	token, err := c.TokenCredential.GetToken(ctx, o)
	if err != nil {
		return token, &credentialsError{err}
	}
	return token, nil
}

// credentialsError is what signing in ended with.
type credentialsError struct{ err error }

func (e *credentialsError) Error() string { return "no credentials: " + e.err.Error() }
func (e *credentialsError) Unwrap() error { return e.err }

// NonRetriable tells the vendor's client to leave it.
func (e *credentialsError) NonRetriable() {}

// fail makes the package's errors of the client's, whose texts have the request's URL: with a signature in it, it may be.
func (b *bucket) fail(ctx context.Context, op, name string, err error) error {
	e := &backend.Error{Backend: b.String(), Op: op, Name: name}
	var no *credentialsError
	var answer *azcore.ResponseError
	switch {
	case ctx.Err() != nil:
		e.Kind, e.Err = backend.Broken(ctx, err)
	case errors.As(err, &no):
		e.Kind, e.Err = backend.Denied, untold(no.err)
	case errors.As(err, &answer):
		known := false
		if e.Kind, known = kinds[bloberror.Code(answer.ErrorCode)]; !known {
			e.Kind = backend.KindOfStatus(answer.StatusCode)
		}
		e.Status = answer.StatusCode
		if answer.RawResponse != nil {
			e.After = backend.RetryAfter(answer.RawResponse.Header)
		}
		if e.Kind == backend.NotFound && op == "list" {
			e.Kind = backend.NoBucket
		}
		text := answer.ErrorCode
		if text == "" {
			text = http.StatusText(answer.StatusCode)
		}
		e.Err = errors.New(text)
	default:
		e.Kind, e.Err = backend.Broken(ctx, err)
	}
	if op == "connect" {
		e.Kind = backend.Failed
	}
	return e
}

// untold is why there is no token. What Microsoft Entra ID answered stays out: it quotes the request.
func untold(err error) error {
	var refused *azidentity.AuthenticationFailedError
	if errors.As(err, &refused) && refused.RawResponse != nil {
		return fmt.Errorf("no credentials: Microsoft Entra ID answered %d; is the secret right, and not expired?", refused.RawResponse.StatusCode)
	}
	return fmt.Errorf("no credentials: there are none in a secret, nor in the environment of this process (%.600s)", err.Error())
}
