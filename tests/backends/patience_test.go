package backends

import (
	"context"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/core/backend"
	"github.com/shardstream/shardstream/core/backend/schemes"
	"github.com/shardstream/shardstream/tests/backends/faultproxy"
	"github.com/shardstream/shardstream/tests/backends/servers"
	"github.com/shardstream/shardstream/tests/backends/serverstest"
)

// impatient is a policy whose waits are short: what it decides is the same.
var impatient = backend.Policy{
	Base: 5 * time.Millisecond, Limit: time.Second, Patience: 10 * time.Second, Timeout: 10 * time.Second,
	Stall: 500 * time.Millisecond,
}

// place is a bucket with one object, read by a backend that is patient.
type place struct {
	*serverstest.Bucket
	backend.Backend
	data []byte
}

const shard = "train/shard-000.tar"

func newPlace(t *testing.T, kind string) *place {
	t.Helper()
	p := &place{Bucket: serverstest.Get(t, kind).Bucket(t), data: bytesOf(1, 4<<20)}
	p.Bucket.Put(shard, p.data)
	p.Backend = p.open(t, p.Name)
	return p
}

// open opens a bucket of the server that need not be there.
func (p *place) open(t *testing.T, bucket string) backend.Backend {
	t.Helper()
	config := p.Server.Config(t, bucket, "")
	b, err := schemes.All().Open(t.Context(), config)
	require.NoError(t, err)
	policy := impatient
	policy.Backend = config.Address.String()
	b = backend.WithRetries(b, policy)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	return b
}

// read reads the whole object.
func (p *place) read(t *testing.T) ([]byte, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	body, err := p.Open(ctx, shard, backend.OpenOptions{})
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return io.ReadAll(body)
}

// requireRead reads the whole object, and requires its bytes.
func (p *place) requireRead(t *testing.T) {
	t.Helper()
	got, err := p.read(t)
	require.NoError(t, err)
	requireBytes(t, p.data, got)
}

// isRead matches requests for the object's bytes.
func isRead(r *http.Request) bool {
	return r.Method == http.MethodGet && serverstest.Names(r, shard)
}

// overHTTP are the kinds that have a proxy of HTTP in front.
var overHTTP = []string{backend.S3, backend.GCS, backend.Azure, backend.HTTP}

func TestFaultsThatPassAreOvercome(t *testing.T) {
	faults := map[string]faultproxy.Rule{
		"busy":                  {Times: 3, Status: http.StatusTooManyRequests, RetryAfter: "0"},
		"busy for a second":     {Times: 1, Status: http.StatusServiceUnavailable, RetryAfter: "1"},
		"failing":               {Times: 2, Status: http.StatusInternalServerError},
		"bad gateway":           {Times: 2, Status: http.StatusBadGateway},
		"cut before the answer": {Times: 2, Match: isRead, Cut: -1},
		"cut in the middle":     {Times: 3, Match: isRead, Cut: 1<<20 + 77},
		"stalled":               {Times: 1, Match: isRead, Stall: 1<<20 + 1},
		"slow":                  {Rate: 16 << 20},
		"late":                  {Delay: 50 * time.Millisecond},
	}
	for _, kind := range overHTTP {
		t.Run(kind, func(t *testing.T) {
			p := newPlace(t, kind)
			for name, fault := range faults {
				t.Run(name, func(t *testing.T) {
					p.Server.Heal()
					fired := p.Server.HTTP.Add(fault)
					p.requireRead(t)
					require.GreaterOrEqual(t, fired(), max(fault.Times, 1), "the fault did not happen")
				})
			}
		})
	}
}

// TestCutReadGoesOn holds that what has come before a cut isn't asked for again.
func TestCutReadGoesOn(t *testing.T) {
	for _, kind := range overHTTP {
		t.Run(kind, func(t *testing.T) {
			p := newPlace(t, kind)
			p.Server.HTTP.Add(faultproxy.Rule{Times: 1, Match: isRead, Cut: 3 << 20})
			p.requireRead(t)
			require.Less(t, p.Server.HTTP.Bytes(), int64(len(p.data)+1<<20))
		})
	}
}

func TestFaultsThatStayAreSaid(t *testing.T) {
	for _, kind := range overHTTP {
		t.Run(kind, func(t *testing.T) {
			p := newPlace(t, kind)
			for name, c := range map[string]struct {
				fault faultproxy.Rule
				kind  backend.Kind
			}{
				"expired":     {faultproxy.Rule{Status: http.StatusForbidden}, backend.Denied},
				"not allowed": {faultproxy.Rule{Status: http.StatusUnauthorized}, backend.Denied},
				"busy":        {faultproxy.Rule{Status: http.StatusTooManyRequests, RetryAfter: "0"}, backend.Busy},
				"failing":     {faultproxy.Rule{Status: http.StatusInternalServerError}, backend.Passing},
				"cut":         {faultproxy.Rule{Match: isRead, Cut: -1}, backend.Passing},
			} {
				t.Run(name, func(t *testing.T) {
					p.Server.Heal()
					p.Server.HTTP.Add(c.fault)
					_, err := p.read(t)
					requireKind(t, c.kind, err, p)
					p.Server.Heal()
				})
			}
			p.requireRead(t) // once it is over, all is well again
		})
	}
}

// requireKind requires an error that names the backend, and none of its secrets.
func requireKind(t *testing.T, kind backend.Kind, err error, p *place) {
	t.Helper()
	var e *backend.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, kind.String(), e.Kind.String(), "%v", err)
	require.Contains(t, err.Error(), p.Name)
	for _, secret := range []string{servers.S3SecretKey, servers.AzureKey} {
		require.NotContains(t, err.Error(), secret)
	}
}

func TestGoneBucketIsSaid(t *testing.T) {
	for _, kind := range []string{backend.S3, backend.GCS, backend.Azure} {
		t.Run(kind, func(t *testing.T) {
			p := newPlace(t, kind)
			require.NoError(t, p.Origin.Remove(t.Context()))
			for _, err := range p.List(t.Context(), "", "") {
				requireKind(t, backend.NoBucket, err, p)
			}
			_, err := p.read(t)
			require.Error(t, err)
			require.Contains(t, []backend.Kind{backend.NoBucket, backend.NotFound}, backend.KindOf(err), "%v", err)
		})
	}
}

// TestFlippedByteIsFound holds where the vendor tells a checksum. Web servers tell none.
func TestFlippedByteIsFound(t *testing.T) {
	for _, kind := range []string{backend.S3, backend.GCS, backend.Azure} {
		t.Run(kind, func(t *testing.T) {
			p := newPlace(t, kind)
			p.Server.HTTP.Add(faultproxy.Rule{Match: isRead, Flip: 2 << 20})
			_, err := p.read(t)
			requireKind(t, backend.Corrupt, err, p)
			p.Server.Heal()
			p.requireRead(t)
		})
	}
}

// TestShortAnswerIsNotTakenForWhole holds for an answer that ends early in good order, and has not said how long it is.
func TestShortAnswerIsNotTakenForWhole(t *testing.T) {
	for _, kind := range []string{backend.S3, backend.GCS, backend.Azure} {
		t.Run(kind, func(t *testing.T) {
			p := newPlace(t, kind)
			p.Server.HTTP.Add(faultproxy.Rule{Times: 1, Match: isRead, End: 3<<20 + 5})
			if got, err := p.read(t); err == nil {
				requireBytes(t, p.data, got)
			} else {
				requireKind(t, backend.Corrupt, err, p)
			}
			p.requireRead(t)
		})
	}
}

// TestHDFSFaults does to connections what the tests above do to requests.
func TestHDFSFaults(t *testing.T) {
	p := newPlace(t, backend.HDFS)
	for name, fault := range map[string]func(){
		"cut in the middle":         func() { p.Server.Data.CutNext(1<<20 + 77) },
		"cut at once":               func() { p.Server.Data.CutNext(0, 0) },
		"cut in the middle, thrice": func() { p.Server.Data.CutNext(1<<20, 1<<20, 1<<20) },
		"one byte is another":       func() { p.Server.Data.Flip(2 << 20) },
		"name node cuts":            func() { p.Server.TCP.CutAll(); p.Server.TCP.CutNext(0) },
		"slow":                      func() { p.Server.Data.Rate(16 << 20) },
	} {
		t.Run(name, func(t *testing.T) {
			p.Server.Heal()
			fault()
			p.requireRead(t)
		})
	}
	t.Run("gone", func(t *testing.T) {
		p.Server.Heal()
		p.Server.TCP.CutAll()
		p.Server.TCP.Refuse(true)
		_, err := p.read(t)
		requireKind(t, backend.Passing, err, p)
		p.Server.Heal()
		p.requireRead(t)
	})
}
