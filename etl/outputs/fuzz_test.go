package outputs_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/etl/outputs"
)

func past() time.Time { return time.Now().Add(-time.Hour) }

func entryOf(t testing.TB, dir string, id outputs.Identity) string {
	t.Helper()
	name := id.Key().String()
	path := filepath.Join(dir, name[:2], name[2:])
	require.FileExists(t, path)
	return path
}

// FuzzEntry puts any bytes where an entry is looked for: they are refused, or are the output that was kept.
func FuzzEntry(f *testing.F) {
	dir := f.TempDir()
	keep(f, open(f, dir, 10*mib), 1, 1000)
	good, err := os.ReadFile(entryOf(f, dir, identity(1)))
	require.NoError(f, err)
	f.Add(good)
	f.Add(good[1000:])
	f.Add(good[:len(good)-1])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		name := identity(1).Key().String()
		require.NoError(t, os.MkdirAll(filepath.Join(dir, name[:2]), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name[:2], name[2:]), data, 0o600))
		c := open(t, dir, 10*mib)
		out := c.Get(identity(1))
		if out == nil {
			return
		}
		defer func() { _ = out.Close() }()
		var b bytes.Buffer
		if _, err := out.WriteRange(&b, 0, out.Size); err == nil {
			require.Equal(t, content(1, 1000), b.Bytes())
		}
	})
}
