package s3

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"

	"github.com/shardstream/shardstream/core/backend"
)

// kinds are what the codes of S3 mean where their HTTP status does not say it.
var kinds = map[string]backend.Kind{
	"NoSuchKey":                    backend.NotFound,
	"NotFound":                     backend.NotFound,
	"NoSuchVersion":                backend.NotFound,
	"NoSuchBucket":                 backend.NoBucket,
	"AccessDenied":                 backend.Denied,
	"InvalidAccessKeyId":           backend.Denied,
	"SignatureDoesNotMatch":        backend.Denied,
	"ExpiredToken":                 backend.Denied,
	"InvalidToken":                 backend.Denied,
	"TokenRefreshRequired":         backend.Denied,
	"AuthorizationHeaderMalformed": backend.Denied,
	"XAdminUserNotFound":           backend.Denied, // versitygw; 404
	"PreconditionFailed":           backend.Changed,
	"InvalidRange":                 backend.Range,
	"SlowDown":                     backend.Busy,
	"Throttling":                   backend.Busy,
	"ThrottlingException":          backend.Busy,
	"RequestLimitExceeded":         backend.Busy,
	"TooManyRequests":              backend.Busy,
	"ServiceUnavailable":           backend.Busy,
	"InternalError":                backend.Passing,
	"RequestTimeout":               backend.Passing,
	"OperationAborted":             backend.Passing,
	// What was sent is not what arrived: the body has been compared with its checksums before.
	"BadDigest":                   backend.Passing,
	"XAmzContentSHA256Mismatch":   backend.Passing,
	"XAmzContentChecksumMismatch": backend.Passing,
	"IncompleteBody":              backend.Passing,
	"NotImplemented":              backend.Unsupported,
	"MethodNotAllowed":            backend.Unsupported,
	"InvalidObjectState":          backend.Failed, // in an archive class; 403
}

// credentialsError is what the chain of credentials ended with.
type credentialsError struct{ err error }

func (e *credentialsError) Error() string {
	return "no credentials: " + e.err.Error()
}

func (e *credentialsError) Unwrap() error { return e.err }

// fail makes the package's errors of the SDK's, whose texts are long and name hosts and requests.
func (b *bucket) fail(ctx context.Context, op, name string, err error) error {
	e := &backend.Error{Backend: b.String(), Op: op, Name: name}
	var no *credentialsError
	var api smithy.APIError
	var answer *awshttp.ResponseError
	answered := errors.As(err, &answer) && answer.Response != nil
	if answered {
		e.Status, e.After = answer.HTTPStatusCode(), backend.RetryAfter(answer.Response.Header)
	}
	switch {
	case ctx.Err() != nil:
		e.Kind, e.Err = backend.Broken(ctx, err)
	case errors.As(err, &no):
		e.Kind, e.Status, e.Err = backend.Denied, 0, fmt.Errorf(
			"no credentials: there are none in a secret, nor in the environment of this process (%w)", bare(no.err))
	case errors.As(err, &api):
		known := false
		if e.Kind, known = kinds[api.ErrorCode()]; !known {
			e.Kind = backend.KindOfStatus(e.Status)
		}
		if !known && e.Kind == backend.NotFound {
			e.Kind = backend.Failed // of something else: the endpoint may be no S3 at all
		}
		e.Err = fmt.Errorf("%s: %.300s", api.ErrorCode(), api.ErrorMessage())
		if answered {
			e.Err = elsewhere(answer, e.Err)
		}
	case answered && e.Status >= 300:
		e.Kind = backend.KindOfStatus(e.Status)
		e.Err = elsewhere(answer, errors.New(http.StatusText(e.Status)))
	default:
		e.Kind, e.Err = backend.Broken(ctx, bare(err))
	}
	if op == "connect" {
		e.Kind = backend.Failed
	}
	return e
}

// elsewhere says which region to ask, where that is what is wrong.
func elsewhere(answer *awshttp.ResponseError, err error) error {
	region := answer.Response.Header.Get("X-Amz-Bucket-Region")
	switch answer.HTTPStatusCode() {
	case http.StatusMovedPermanently, http.StatusTemporaryRedirect, http.StatusBadRequest:
		if region != "" {
			return fmt.Errorf("the bucket is in region %.40s: set the backend's region (%w)", region, err)
		}
	}
	return err
}

// bare is an error without the SDK's account of the request around it.
func bare(err error) error {
	var send *smithy.OperationError
	for errors.As(err, &send) {
		err = send.Err
	}
	return err
}
