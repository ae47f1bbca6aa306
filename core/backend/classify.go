package backend

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// KindOfStatus is what an HTTP status means where nothing else is known. A 404 may be the bucket's as well; only the
// implementation can tell.
func KindOfStatus(status int) Kind {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusProxyAuthRequired:
		return Denied
	case http.StatusNotFound, http.StatusGone:
		return NotFound
	case http.StatusPreconditionFailed:
		return Changed
	case http.StatusRequestedRangeNotSatisfiable:
		return Range
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return Busy
	case http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return Unsupported
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusConflict:
		return Passing
	}
	if status >= 500 {
		return Passing
	}
	return Failed
}

// RetryAfter is how long an answer asks to wait; 0: it does not say.
func RetryAfter(h http.Header) time.Duration {
	for _, name := range []string{"Retry-After", "X-Ms-Retry-After-Ms"} {
		text := strings.TrimSpace(h.Get(name))
		if text == "" {
			continue
		}
		if n, err := strconv.ParseInt(text, 10, 32); err == nil && n >= 0 {
			unit := time.Second
			if name != "Retry-After" {
				unit = time.Millisecond
			}
			return time.Duration(n) * unit
		}
		if at, err := http.ParseTime(text); err == nil {
			return max(time.Until(at), 0)
		}
	}
	return 0
}

// Broken is the kind of an error that came instead of an answer, and the part of it that may be shown: the request's
// URL, which can hold a signature, is taken out.
func Broken(ctx context.Context, err error) (Kind, error) {
	var own *Error
	if errors.As(err, &own) {
		return own.Kind, own.Err
	}
	var at *url.Error
	if errors.As(err, &at) {
		err = at.Err
	}
	if cause := ctx.Err(); cause != nil {
		return Failed, context.Cause(ctx)
	}
	var name *net.DNSError
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	var untrusted *tls.CertificateVerificationError
	switch {
	case errors.As(err, &name) && name.IsNotFound:
		return NoBucket, err
	case errors.As(err, &unknown), errors.As(err, &host), errors.As(err, &invalid), errors.As(err, &untrusted):
		return Failed, err
	}
	return Passing, err
}
