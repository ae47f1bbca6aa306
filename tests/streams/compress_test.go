package streams_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/core/wire"
	"github.com/shardstream/shardstream/loader"
)

// textShard packs samples of repetitive text.
func textShard(t testing.TB, shard, n int) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i := range n {
		body := textOf(shard, i)
		require.NoError(t, w.WriteHeader(&tar.Header{Name: keyOf(shard, i) + ".txt", Mode: 0o644, Size: int64(len(body)), Format: tar.FormatUSTAR}))
		_, _ = w.Write([]byte(body))
	}
	require.NoError(t, w.Close())
	return buf.Bytes()
}

func textOf(shard, i int) string {
	return strings.Repeat(fmt.Sprintf("line of sample %d of shard %d, and what it says; ", i, shard), 20+300*(i%7))
}

// TestBytesThatShrinkTravelCompressed: text does, photos do not, and either arrives as it is.
func TestBytesThatShrinkTravelCompressed(t *testing.T) {
	c := newCluster(t, 2)
	for s := range 4 {
		c.put(fmt.Sprintf("text-%d.tar", s), textShard(t, s, 40))
	}
	c.seal()
	photos := newCluster(t, 2).fill(4, 40, 20_000)
	for _, mode := range []string{wire.CompressAuto, wire.CompressAlways, wire.CompressOff} {
		t.Run(mode, func(t *testing.T) {
			l := open(t, c, func(cfg *loader.Config) { cfg.SharedMemory, cfg.Compress = false, mode })
			got := run(t, l, loader.Run{})
			require.Equal(t, c.planned(0), keysOf(got))
			for _, b := range got {
				for i, key := range b.Keys {
					var shard, at int
					_, err := fmt.Sscanf(key, "s%03d/%06d", &shard, &at)
					require.NoError(t, err)
					require.Equal(t, textOf(shard, at), string(b.Columns["txt"].Ragged[i]))
				}
			}
			for id, target := range l.Stats().Targets {
				if mode != wire.CompressAlways { // loopback is fast
					require.Zero(t, target.CompressedFrom, id)
					continue
				}
				require.Equal(t, target.Bytes, target.CompressedFrom, id)
				require.Less(t, target.CompressedTo, target.CompressedFrom/4, id)
			}

			l = open(t, photos, func(cfg *loader.Config) { cfg.SharedMemory, cfg.Compress = false, mode })
			got = run(t, l, loader.Run{})
			photos.checkBytes(t, got, 20_000)
			for id, target := range l.Stats().Targets {
				require.Zero(t, target.CompressedFrom, id)
			}
		})
	}
}
