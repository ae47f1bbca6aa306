package archive_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/shardstream/shardstream/core/archive"
)

// remote is an archive that counts what is read of it.
type remote struct {
	data  []byte
	reads int
	bytes int64
}

func (r *remote) read(_ context.Context, p []byte, off int64) (int, error) {
	r.reads++
	r.bytes += int64(len(p))
	return bytes.NewReader(r.data).ReadAt(p, off)
}

func (r *remote) scan(o archive.ScanOptions) (*archive.Index, error) {
	return archive.Scan(context.Background(), r.read, int64(len(r.data)), o)
}

// unchecked are an index's members as a scan knows them.
func unchecked(x *archive.Index) []archive.Member {
	out := members(x)
	for i := range out {
		out[i].Sum = 0
	}
	return out
}

// sameScan holds a scan of an archive to what the Indexer makes of it.
func sameScan(t require.TestingT, data []byte, o archive.ScanOptions) {
	want, refused := index(data)
	got, err := (&remote{data: data}).scan(o)
	if refused != nil {
		require.Equal(t, refused, err)
		return
	}
	require.NoError(t, err)
	require.Equal(t, unchecked(want), members(got))
	require.Equal(t, samples(want), samples(got))
	require.Equal(t, want.MaxSample(), got.MaxSample())
	require.True(t, want.Checked())
	require.False(t, got.Checked())
	b, err := got.MarshalBinary()
	require.NoError(t, err)
	again, err := archive.UnmarshalIndex(b)
	require.NoError(t, err)
	require.False(t, again.Checked())
	require.Equal(t, members(got), members(again))
	require.Equal(t, samples(got), samples(again))
	for _, m := range members(got) {
		found, ok := again.Lookup(m.Name)
		require.True(t, ok)
		require.Equal(t, m, found)
	}
}

// TestScanEqualsIndexer draws tars, sound and damaged, and ways to read them.
func TestScanEqualsIndexer(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var entries []entry
		for i := range rapid.IntRange(0, 30).Draw(rt, "entries") {
			size := rapid.OneOf(rapid.IntRange(0, 2000), rapid.IntRange(0, 100_000)).Draw(rt, "size")
			key := fmt.Sprintf("%s%d", strings.Repeat("dir/", rapid.IntRange(0, 60).Draw(rt, "depth")), rapid.IntRange(i-1, i).Draw(rt, "key"))
			name := key + rapid.SampledFrom([]string{".jpg", ".cls", ".json", ""}).Draw(rt, "field")
			form := rapid.SampledFrom([]tar.Format{tar.FormatPAX, tar.FormatGNU}).Draw(rt, "form")
			e := entry{name: name, data: strings.Repeat("x", size), kind: tar.TypeReg, form: form}
			if rapid.IntRange(0, 9).Draw(rt, "link") == 0 {
				e.kind, e.data = tar.TypeSymlink, "elsewhere"
			}
			entries = append(entries, e)
		}
		data := build(t, entries...)
		switch rapid.IntRange(0, 3).Draw(rt, "damage") {
		case 0:
			data = data[:rapid.IntRange(0, len(data)).Draw(rt, "cut")]
		case 1:
			data = append(data, make([]byte, rapid.IntRange(0, 100_000).Draw(rt, "padding"))...)
		case 2:
			data = append(data, data...)
		}
		sameScan(rt, data, archive.ScanOptions{Gap: rapid.Int64Range(0, 100_000).Draw(rt, "gap")})
	})
}

// TestScanReadsLittle: what a scan costs, in reads and bytes, for shards as they are.
func TestScanReadsLittle(t *testing.T) {
	shard := func(n int, form tar.Format, sizes ...int) []byte {
		var entries []entry
		r := rand.New(rand.NewPCG(7, 8))
		for i := range n {
			for f, size := range sizes {
				size = size*9/10 + r.IntN(1+size/5)
				e := entry{name: fmt.Sprintf("train/%06d.f%d", i, f), data: strings.Repeat("x", size), kind: tar.TypeReg, form: form}
				if form == tar.FormatPAX {
					e.pax = map[string]string{"comment": "extended"}
				}
				entries = append(entries, e)
			}
		}
		return build(t, entries...)
	}
	for name, c := range map[string]struct {
		data  []byte
		share float64 // of the bytes
		reads int
	}{
		"samples of 110 kB":         {shard(300, tar.FormatUSTAR, 110_000, 3), 0.03, 320},
		"pax, 110 kB":               {shard(300, tar.FormatPAX, 110_000), 0.03, 320},
		"three fields, one is big":  {shard(300, tar.FormatUSTAR, 3, 110_000, 2000), 0.06, 350},
		"large members":             {shard(20, tar.FormatUSTAR, 3_000_000), 0.001, 22},
		"small members, read on":    {shard(2000, tar.FormatUSTAR, 3000, 3), 1.1, 30},
		"middling members, read on": {shard(500, tar.FormatUSTAR, 25_000), 1.1, 40},
	} {
		t.Run(name, func(t *testing.T) {
			r := &remote{data: c.data}
			_, err := r.scan(archive.ScanOptions{})
			require.NoError(t, err)
			t.Logf("%d reads, %.2f %% of %d bytes", r.reads, 100*float64(r.bytes)/float64(len(c.data)), len(c.data))
			require.LessOrEqual(t, float64(r.bytes), c.share*float64(len(c.data)))
			require.LessOrEqual(t, r.reads, c.reads)
			sameScan(t, c.data, archive.ScanOptions{})
		})
	}
}

// TestScanErrors: an archive that can't be read, or is shorter than was said, is no shorter index.
func TestScanErrors(t *testing.T) {
	data := big(t, 10, 5000)
	broken := errors.New("the origin has hung up")
	_, err := archive.Scan(t.Context(), func(context.Context, []byte, int64) (int, error) { return 0, broken }, 1000, archive.ScanOptions{})
	require.ErrorIs(t, err, broken)
	r := &remote{data: data}
	_, err = archive.Scan(t.Context(), r.read, int64(len(data))+5000, archive.ScanOptions{})
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = archive.Scan(ended, func(ctx context.Context, _ []byte, _ int64) (int, error) { return 0, ctx.Err() }, 1000, archive.ScanOptions{})
	require.ErrorIs(t, err, context.Canceled)
}
