package gcs_test

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/core/backend"
	"github.com/shardstream/shardstream/core/backend/backendtest"
	"github.com/shardstream/shardstream/core/backend/gcs"
	"github.com/shardstream/shardstream/tests/backends/serverstest"
)

func TestMain(m *testing.M) { os.Exit(serverstest.Main(m)) }

// open opens a bucket of the test's server.
func open(t *testing.T, bucket, prefix string, secret map[string]string) backend.Backend {
	t.Helper()
	c := serverstest.Get(t, backend.GCS).Config(t, bucket, prefix)
	if secret != nil {
		c.Credentials = secret
	}
	b, err := gcs.Open(t.Context(), c)
	require.NoError(t, err)
	return b
}

func TestConformance(t *testing.T) {
	bucket := serverstest.Get(t, backend.GCS).Bucket(t).Name
	backendtest.Run(t, backendtest.Target{
		Open:     func(t *testing.T, prefix string) backend.Backend { return open(t, bucket, prefix, nil) },
		NoBucket: func(t *testing.T) backend.Backend { return open(t, "missing", "", nil) },
		MD5:      true,
		CRC32C:   true,
	})
}
