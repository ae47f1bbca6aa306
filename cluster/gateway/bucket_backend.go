package gateway

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/origin"
	"github.com/shardstream/shardstream/cluster/secrets"
	"github.com/shardstream/shardstream/core/backend"
)

// Bounds of a backend's properties.
const (
	maxBytes     = 1 << 62 // of quotas: a part of it, worked out in floating point, is a number still
	maxTTL       = 30 * 24 * time.Hour
	maxCA        = 256 << 10
	maxPinned    = 1000
	maxPins      = 64 << 10 // bytes of all patterns
	maxEndpoint  = 2048
	probeTimeout = 20 * time.Second

	lookupTimeout = 5 * time.Second
)

var regionRE = regexp.MustCompile(`^[A-Za-z0-9._-]{0,64}$`)

// changeBackend gives a bucket the backend that a document names, with all its properties. Which one it is does not change.
func changeBackend(b *api.Bucket, to *api.Backend, isNew bool) error {
	bad := func(format string, args ...any) error {
		return api.Errorf(http.StatusBadRequest, api.CodeBadRequest, format, args...)
	}
	if to == nil {
		return redundantBackend(b)
	}
	if !isNew && b.Backend == nil {
		return noBackend(b)
	}
	wanted := *to
	if !isNew && wanted.URL == "" {
		wanted.URL = b.Backend.URL
	}
	address, err := completeBackend(&wanted)
	if err != nil {
		return err
	}
	if !isNew && wanted.URL != b.Backend.URL {
		return bad("bucket %s has the backend %s, which can't be exchanged: create another bucket for another", b.Name, backendOf(b))
	}
	if err := checkPolicies(&wanted, address); err != nil {
		return err
	}
	b.Owned = b.MayOwn() // what was put into the cluster alone stays there under another policy
	b.Backend = &wanted
	return redundantBackend(b)
}

func noBackend(b *api.Bucket) error {
	return api.Errorf(http.StatusBadRequest, api.CodeBadRequest,
		"bucket %s has no backend, and can't be given one: create another bucket for it", b.Name)
}

// redundantBackend refuses copies of what has its durable copy elsewhere.
func redundantBackend(b *api.Bucket) error {
	if b.Backend == nil || b.EC == nil && b.Mirror <= 1 && !b.Degraded {
		return nil
	}
	return api.Errorf(http.StatusBadRequest, api.CodeBadRequest,
		"bucket %s has a backend, which keeps the durable copy; the cluster keeps one besides: leave mirror, ec and degraded out", b.Name)
}

// completeBackend checks where a backend is and how it is reached, and fills in what was left out.
func completeBackend(b *api.Backend) (backend.Address, error) {
	bad := func(format string, args ...any) (backend.Address, error) {
		return backend.Address{}, api.Errorf(http.StatusBadRequest, api.CodeBadRequest, format, args...)
	}
	address, err := backend.ParseAddress(b.URL)
	if err != nil {
		return bad("%v", err)
	}
	b.URL = address.String()
	if b.Secret != "" {
		if err := secrets.CheckName(b.Secret); err != nil {
			return address, err
		}
	}
	if b.Endpoint != "" {
		u, err := url.Parse(b.Endpoint)
		if err != nil || len(b.Endpoint) > maxEndpoint || u.Scheme != backend.HTTP && u.Scheme != backend.HTTPS || u.Host == "" ||
			u.User != nil || u.Fragment != "" || u.RawQuery != "" {
			return bad("endpoint: write http(s)://HOST[:PORT], without credentials; these go into a secret")
		}
	}
	if !regionRE.MatchString(b.Region) {
		return bad("region %.80q is none such as eu-central-1", b.Region)
	}
	if b.CA != "" && (len(b.CA) > maxCA || !x509.NewCertPool().AppendCertsFromPEM([]byte(b.CA))) {
		return bad("ca: it is not PEM with certificates, of at most %d bytes", maxCA)
	}
	b.Check = orDefault(b.Check, api.CheckTTL)
	b.Write = orDefault(b.Write, api.WriteReadOnly)
	b.Delete = orDefault(b.Delete, api.DeleteRefused)
	if b.Check == api.CheckTTL && b.TTLS == 0 {
		b.TTLS = api.DefaultTTL.Seconds()
	}
	return address, nil
}

func orDefault(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}

// checkPolicies checks what is done with objects, and how many are kept.
func checkPolicies(b *api.Backend, address backend.Address) error {
	bad := func(format string, args ...any) error {
		return api.Errorf(http.StatusBadRequest, api.CodeBadRequest, format, args...)
	}
	for _, p := range []struct {
		name, value string
		of          []string
	}{
		{"check", b.Check, []string{api.CheckNever, api.CheckTTL, api.CheckAlways}},
		{"write", b.Write, []string{api.WriteReadOnly, api.WriteThrough, api.WriteCacheOnly}},
		{"delete", b.Delete, []string{api.DeleteRefused, api.DeleteCached, api.DeleteThrough}},
	} {
		if !slices.Contains(p.of, p.value) {
			return bad("%s %.80q is not one of %s", p.name, p.value, strings.Join(p.of, ", "))
		}
	}
	web := address.Scheme == backend.HTTP || address.Scheme == backend.HTTPS
	switch {
	case b.Check != api.CheckTTL && b.TTLS != 0:
		return bad("ttl_s is for check %q, not for %q", api.CheckTTL, b.Check)
	case math.IsNaN(b.TTLS) || b.TTLS < 0 || b.TTLS > maxTTL.Seconds():
		return bad("ttl_s %g: use seconds of at most %.0f", b.TTLS, maxTTL.Seconds())
	case web && b.Write == api.WriteThrough:
		return bad("write %q: a web server takes no objects; use %q or %q", b.Write, api.WriteReadOnly, api.WriteCacheOnly)
	case b.Delete == api.DeleteThrough && b.Write != api.WriteThrough:
		return bad("delete %q changes the backend, which write %q does not; use write %q, or delete %q", b.Delete, b.Write, api.WriteThrough, api.DeleteCached)
	case b.Quota < 0 || b.ReadAhead < 0 || b.Quota > maxBytes || b.ReadAhead > maxBytes:
		return bad("quota and read_ahead are bytes, 0 for none, at most %d", int64(maxBytes))
	}
	return checkPinned(b.Pinned)
}

func checkPinned(pinned []string) error {
	size := 0
	for _, p := range pinned {
		size += len(p)
		if strings.Trim(p, "/") == "" {
			return api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "pinned %.80q: write a name or a pattern such as val-*.tar; everything is `*`", p)
		}
		if _, err := api.ParsePattern("ss://pinned/" + p); err != nil {
			return fmt.Errorf("pinned: %w", err)
		}
	}
	if len(pinned) > maxPinned || size > maxPins {
		return api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "pinned: %d patterns of %d bytes, at most %d and %d are possible", len(pinned), size, maxPinned, maxPins)
	}
	return nil
}

// reachable makes sure that a backend can be opened here, and where it is to be tried, that it answers.
func (g *Gateway) reachable(ctx context.Context, b *api.Bucket, try bool) error {
	if g.origins == nil {
		return api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "bucket %s: this gateway opens no backends", b.Name)
	}
	if err := g.origins.Check(b.Backend); err != nil {
		return api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "bucket %s: %v", b.Name, err)
	}
	if err := g.elsewhere(ctx, b.Backend); err != nil {
		return err
	}
	if name := b.Backend.Secret; name != "" {
		if _, err := secrets.Of(g.members).Get(ctx, name); err != nil {
			return err
		}
	}
	if !try {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	err := g.probe(ctx, b.Backend)
	if err == nil {
		return nil
	}
	answer := AsError(origin.Answer(b.Name, err))
	if errors.Is(err, context.DeadlineExceeded) {
		answer = api.Errorf(http.StatusServiceUnavailable, api.CodeBackendBusy, "")
		err = fmt.Errorf("%s does not answer within %v", backendOf(b), probeTimeout)
	}
	return api.Errorf(answer.Status, answer.Code,
		"bucket %s was not made, as its backend can't be listed: %v; correct that, or make it untried (--no-check, ?check=false)", b.Name, err)
}

// elsewhere refuses this cluster as a backend, by whatever name: a bucket in front of itself would ask itself without end.
func (g *Gateway) elsewhere(ctx context.Context, b *api.Backend) error {
	address, err := backend.ParseAddress(b.URL)
	if err != nil || address.Scheme != backend.Remote {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	meant := placesOf(ctx, address.Host)
	_, port, _ := net.SplitHostPort(address.Host)
	for _, n := range g.members.View().Map().Nodes {
		if !strings.HasSuffix(n.Addr, ":"+port) {
			continue
		}
		if slices.ContainsFunc(placesOf(ctx, n.Addr), func(place string) bool { return slices.Contains(meant, place) }) {
			return api.Errorf(http.StatusBadRequest, api.CodeBadRequest,
				"backend %s: %s is %s of this very cluster; a backend of scheme ss is another cluster", b.URL, address.Host, n.ID)
		}
	}
	return nil
}

// placesOf is an address with a port, and all that it resolves to; a name that does not is for the backend's opening to tell.
func placesOf(ctx context.Context, address string) []string {
	places := []string{address}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return places
	}
	found, _ := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	for _, ip := range found {
		places = append(places, net.JoinHostPort(ip.Unmap().String(), port))
	}
	return places
}

// probe has a backend list its first object.
func (g *Gateway) probe(ctx context.Context, b *api.Backend) (err error) {
	from, err := g.origins.Open(ctx, b)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	for _, err := range from.List(ctx, "", "") {
		return err
	}
	return nil
}
