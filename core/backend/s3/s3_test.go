package s3_test

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/core/backend"
	"github.com/shardstream/shardstream/core/backend/backendtest"
	"github.com/shardstream/shardstream/core/backend/s3"
	"github.com/shardstream/shardstream/tests/backends/serverstest"
)

func TestMain(m *testing.M) { os.Exit(serverstest.Main(m)) }

// open opens a bucket of the test's server.
func open(t *testing.T, bucket, prefix string, secret map[string]string) backend.Backend {
	t.Helper()
	return serverstest.Get(t, backend.S3).Open(t, s3.Open, bucket, prefix, secret)
}

func TestConformance(t *testing.T) {
	bucket := serverstest.Get(t, backend.S3).Bucket(t).Name
	backendtest.Run(t, backendtest.Target{
		Open:     func(t *testing.T, prefix string) backend.Backend { return open(t, bucket, prefix, nil) },
		NoBucket: func(t *testing.T) backend.Backend { return open(t, "missing", "", nil) },
		Denied: func(t *testing.T) backend.Backend {
			return open(t, bucket, "", map[string]string{"access_key_id": "nobody", "secret_access_key": "wrong"})
		},
		MD5:    true,
		CRC32C: true,
	})
}

func TestErrors(t *testing.T) {
	body := func(code string) string {
		return `<?xml version="1.0" encoding="UTF-8"?><Error><Code>` + code + `</Code><Message>words</Message></Error>`
	}
	open := func(t *testing.T, url string) backend.Backend {
		b, err := s3.Open(t.Context(), backend.Config{
			Address: backend.Address{Scheme: backend.S3, Host: "bucket"}, Endpoint: url,
			Credentials: map[string]string{"access_key_id": "AKIAID", "secret_access_key": "SECRETKEY", "session_token": "SESSIONTOKEN"},
		})
		require.NoError(t, err)
		return b
	}
	backendtest.Answers(t, open, []string{"SECRETKEY", "SESSIONTOKEN"}, map[string]backendtest.Answer{
		"slow down":   {Status: 503, Header: map[string]string{"Retry-After": "7"}, Body: body("SlowDown"), Kind: backend.Busy, After: 7 * time.Second, Text: "SlowDown"},
		"too many":    {Status: 429, Header: map[string]string{"Retry-After": "0"}, Kind: backend.Busy},
		"internal":    {Status: 500, Body: body("InternalError"), Kind: backend.Passing, Text: "InternalError: words"},
		"gateway":     {Status: 502, Body: "<html>", Kind: backend.Passing},
		"expired":     {Status: 403, Body: body("ExpiredToken"), Kind: backend.Denied},
		"unsigned":    {Status: 401, Kind: backend.Denied},
		"region":      {Status: 301, Header: map[string]string{"X-Amz-Bucket-Region": "eu-west-3"}, Kind: backend.Failed},
		"not allowed": {Status: 405, Body: body("MethodNotAllowed"), Kind: backend.Unsupported},
		"cut":         {Cut: true, Kind: backend.Passing},
	})
	backendtest.Foreign(t, open)
}

func TestCredentials(t *testing.T) {
	config := func(secret map[string]string) backend.Config {
		return backend.Config{Address: backend.Address{Scheme: backend.S3, Host: "bucket"}, Endpoint: "http://127.0.0.1:1", Credentials: secret}
	}
	for name, test := range map[string]struct {
		secret map[string]string
		text   string
	}{
		"unknown field": {map[string]string{"acces_key_id": "x"}, `has a field "acces_key_id"`},
		"half":          {map[string]string{"access_key_id": "x"}, "takes both"},
		"no profile":    {map[string]string{"profile": "nobody"}, "nobody"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := s3.Open(t.Context(), config(test.secret))
			require.ErrorContains(t, err, test.text)
		})
	}
	t.Run("none", func(t *testing.T) {
		home := t.TempDir()
		t.Setenv("HOME", home)
		t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
		for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"} {
			t.Setenv(name, "")
		}
		b, err := s3.Open(t.Context(), config(nil))
		require.NoError(t, err)
		_, err = b.Stat(t.Context(), "x")
		require.Equal(t, backend.Denied, backend.KindOf(err), "%v", err)
		require.ErrorContains(t, err, "there are none in a secret")
	})
}

// shifty is a body that is another one when it is read again.
type shifty struct {
	*bytes.Reader
	reads atomic.Int64
	fail  int64 // the read by place that fails; 0: none
}

func (s *shifty) ReadAt(p []byte, offset int64) (int, error) {
	if s.reads.Add(1) == s.fail {
		return 0, errors.New("the disk is gone")
	}
	n, err := s.Reader.ReadAt(p, offset)
	if s.fail == 0 && offset == 0 && n > 0 {
		p[0]++
	}
	return n, err
}

// Of an object that could not be put, no parts are left to be paid for, and what was there before still is.
func TestPartsOfWhatFailed(t *testing.T) {
	server := serverstest.Get(t, backend.S3)
	bucket := server.Bucket(t)
	bucket.Put("kept", []byte("as it was"))
	b := open(t, bucket.Name, "", nil)
	data := backendtest.Bytes(1, 50<<20)
	for name, body := range map[string]*shifty{
		"a read that fails":       {fail: 40},
		"bytes that have changed": {},
	} {
		t.Run(name, func(t *testing.T) {
			body.Reader = bytes.NewReader(data)
			_, err := b.Put(t.Context(), "kept", body, int64(len(data)), backend.PutOptions{})
			require.Error(t, err)
			got, err := bucket.Get("kept")
			require.NoError(t, err)
			require.Equal(t, "as it was", string(got))
			require.Empty(t, uploads(t, server, bucket.Name))
		})
	}
}

// uploads are those of a bucket that have not ended.
func uploads(t *testing.T, server *serverstest.Server, bucket string) []types.MultipartUpload {
	t.Helper()
	secret := server.Secret()
	client := awss3.New(awss3.Options{
		BaseEndpoint: aws.String(server.EndpointAt(server.Addr)), Region: "us-east-1", UsePathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider(secret["access_key_id"], secret["secret_access_key"], ""),
	})
	out, err := client.ListMultipartUploads(t.Context(), &awss3.ListMultipartUploadsInput{Bucket: &bucket})
	require.NoError(t, err)
	return out.Uploads
}

// What a guard of addresses refuses stays what it is.
func TestForbidden(t *testing.T) {
	b, err := s3.Open(t.Context(), backend.Config{
		Address: backend.Address{Scheme: backend.S3, Host: "bucket"}, Endpoint: "http://127.0.0.1:1/account",
		Credentials: map[string]string{"anonymous": "true"},
		Dial: func(context.Context, string, string) (net.Conn, error) {
			return nil, &backend.Error{Kind: backend.Forbidden, Err: errors.New("set backend_allow")}
		},
	})
	require.NoError(t, err)
	_, err = b.Open(t.Context(), "x", backend.OpenOptions{})
	require.Equal(t, backend.Forbidden, backend.KindOf(err), "%v", err)
	require.ErrorContains(t, err, "set backend_allow")
}

// The variable names certificates for the vendor's client; those of the configuration come besides.
func TestCertificates(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "5")
		w.Header().Set("Etag", `"1"`)
	}))
	t.Cleanup(server.Close)
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	file := filepath.Join(t.TempDir(), "bundle.pem")
	require.NoError(t, os.WriteFile(file, text, 0o600))
	stat := func(c backend.Config) error {
		c.Address = backend.Address{Scheme: backend.S3, Host: "bucket"}
		c.Endpoint, c.Credentials = server.URL, map[string]string{"anonymous": "true"}
		b, err := s3.Open(t.Context(), c)
		require.NoError(t, err)
		_, err = b.Stat(t.Context(), "x")
		return err
	}
	t.Setenv("AWS_CA_BUNDLE", "")
	err := stat(backend.Config{})
	require.Equal(t, backend.Failed, backend.KindOf(err), "asking again does not help: %v", err)
	require.NoError(t, stat(backend.Config{CA: text}))
	require.NoError(t, stat(backend.Config{Insecure: true}))
	t.Setenv("AWS_CA_BUNDLE", file)
	require.NoError(t, stat(backend.Config{}))
	require.NoError(t, stat(backend.Config{CA: text}))
}
