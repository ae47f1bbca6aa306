package gcs

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"cloud.google.com/go/auth"
	"google.golang.org/api/googleapi"

	"github.com/shardstream/shardstream/core/backend"
)

// reasons of errors 403 that are about the rate of requests.
var rates = []string{"rateLimitExceeded", "userRateLimitExceeded", "quotaExceeded", "downloadBandwidthQuotaExceeded"}

// fail makes the package's errors of the client's.
func (b *bucket) fail(ctx context.Context, op, name string, err error) error {
	e := &backend.Error{Backend: b.String(), Op: op, Name: name}
	var no *credentialsError
	var answer *googleapi.Error
	switch {
	case ctx.Err() != nil:
		e.Kind, e.Err = backend.Broken(ctx, err)
	case errors.As(err, &no):
		e.Kind, e.Err = untold(ctx, no.err)
	case errors.As(err, &answer):
		e.Status, e.After = answer.Code, backend.RetryAfter(answer.Header)
		e.Kind = backend.KindOfStatus(answer.Code)
		text := answer.Message
		if text == "" {
			text = answer.Body
		}
		tooMany := func(i googleapi.ErrorItem) bool { return slices.Contains(rates, i.Reason) }
		switch {
		case e.Kind == backend.Denied && slices.ContainsFunc(answer.Errors, tooMany):
			e.Kind = backend.Busy
		case e.Kind == backend.NotFound && op == "list", e.Kind == backend.NotFound && strings.Contains(text, "bucket does not exist"):
			e.Kind = backend.NoBucket
		}
		if text = legible(text); text != "" {
			e.Err = errors.New(text)
		}
	default:
		e.Kind, e.Err = backend.Broken(ctx, err)
	}
	if op == "connect" {
		e.Kind = backend.Failed
	}
	return e
}

// absent finds out whether it is the bucket that an answer 404 is about: only a listing tells for sure.
func (b *bucket) absent(ctx context.Context, op, name string, err error) error {
	err = b.fail(ctx, op, name, err)
	if backend.KindOf(err) != backend.NotFound {
		return err
	}
	_, gone := b.objects.List(b.Host).Prefix(b.key(name)).MaxResults(1).Fields("nextPageToken").Context(ctx).Do()
	var answer *googleapi.Error
	if errors.As(gone, &answer) && answer.Code == http.StatusNotFound {
		return &backend.Error{Backend: b.String(), Op: op, Name: name, Kind: backend.NoBucket, Status: answer.Code}
	}
	return err
}

// untold is why there is no token, without the token service's answer, which may quote what was sent.
func untold(ctx context.Context, err error) (backend.Kind, error) {
	var answer *auth.Error
	if errors.As(err, &answer) && answer.Response != nil {
		kind := backend.Denied
		if answer.Temporary() {
			kind = backend.Passing
		}
		return kind, fmt.Errorf("no credentials: the token service answered %d", answer.Response.StatusCode)
	}
	var at *url.Error
	if errors.As(err, &at) {
		kind, cause := backend.Broken(ctx, err)
		return kind, fmt.Errorf("no credentials: the token service: %w", cause)
	}
	return backend.Denied, fmt.Errorf("no credentials: there are none in a secret, nor in the environment of this process (%w)", err)
}

// legible is a text of an answer for people; "" for what is none.
func legible(text string) string {
	text = strings.TrimSpace(text)
	if !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' && r != '\n' }) {
		return ""
	}
	return fmt.Sprintf("%.300s", text)
}
