package serverstest_test

import (
	"bytes"
	"io/fs"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/tests/backends/servers"
	"github.com/shardstream/shardstream/tests/backends/serverstest"
)

func TestMain(m *testing.M) { os.Exit(serverstest.Main(m)) }

// TestServers has each server keep an object as its owner puts it.
func TestServers(t *testing.T) {
	for _, kind := range servers.Kinds {
		t.Run(kind, func(t *testing.T) {
			b := serverstest.Get(t, kind).Bucket(t)
			data := bytes.Repeat([]byte("0123456789"), 100_000)
			b.Put("a/b c.bin", []byte("first"))
			b.Put("a/b c.bin", data)
			got, err := b.Get("a/b c.bin")
			require.NoError(t, err)
			require.Equal(t, data, got)
			b.Delete("a/b c.bin")
			_, err = b.Get("a/b c.bin")
			require.ErrorIs(t, err, fs.ErrNotExist)
			require.NoError(t, b.Origin.Remove(t.Context()))
		})
	}
}
