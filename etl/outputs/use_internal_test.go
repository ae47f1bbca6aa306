package outputs

import (
	"context"
	"io"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestAnEvictedOutputStaysEvicted: an output that is evicted between its opening and the note of it is read to its end, but
// does not come back into the index without a file.
func TestAnEvictedOutputStaysEvicted(t *testing.T) {
	c, err := Open(Options{Dir: t.TempDir(), Quota: 1 << 20, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	id := Identity{Bucket: "b", Name: "o", Object: "1"}
	out, _, err := c.Do(t.Context(), id, func(_ context.Context, w io.Writer) (string, error) {
		_, err := io.WriteString(w, "made")
		return "", err
	})
	require.NoError(t, err)
	c.Sweep(func(Identity) bool { return true })
	c.use(id.Key(), out)
	require.Zero(t, c.Stats().Entries)
	require.Zero(t, c.Stats().Bytes)
	data, err := io.ReadAll(out.Reader(0, out.Size))
	require.NoError(t, err)
	require.Equal(t, "made", string(data))
	require.NoError(t, out.Close())
}
