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
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/shardstream/shardstream/core/archive"
)

// remote is an archive that counts what is read of it.
type remote struct {
	data []byte
	wait func(off int64) // nil: it answers at once

	mu    sync.Mutex
	reads int
	bytes int64
}

func (r *remote) read(_ context.Context, p []byte, off int64) (int, error) {
	r.mu.Lock()
	r.reads++
	r.bytes += int64(len(p))
	r.mu.Unlock()
	if r.wait != nil {
		r.wait(off)
	}
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
	r := &remote{data: data}
	sameIndex(t, data, func() (*archive.Index, error) { return r.scan(o) })
	for _, segment := range []int64{512, 4096, 64 << 10} {
		o.Readers = 3
		sameIndex(t, data, func() (*archive.Index, error) {
			return archive.ScanInSegments(context.Background(), r.read, int64(len(data)), o, segment)
		})
	}
}

func sameIndex(t require.TestingT, data []byte, scan func() (*archive.Index, error)) {
	want, refused := index(data)
	got, err := scan()
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

// TestScanReadsAhead: several reads are under way at once, and the scan itself finds what it needs already there.
func TestScanReadsAhead(t *testing.T) {
	data := big(t, 500, 100_000)
	nested := build(t, file("inner.tar", string(data[:20<<20])), file("inner2.tar", string(data[:15<<20])), file("a.jpg", "x"))
	for name, c := range map[string]struct {
		data  []byte
		share float64 // of the bytes
	}{"plain": {data, 0.06}, "tars in a tar": {nested, 0.12}} {
		t.Run(name, func(t *testing.T) {
			var together atomic.Int64
			met := make(chan struct{})
			var once sync.Once
			r := &remote{data: c.data, wait: func(int64) {
				if n := together.Add(1); n == 4 {
					once.Do(func() { close(met) })
				}
				defer together.Add(-1)
				select {
				case <-met:
				case <-time.After(5 * time.Second):
				}
			}}
			want, err := index(c.data)
			require.NoError(t, err)
			got, err := r.scan(archive.ScanOptions{Readers: 4})
			require.NoError(t, err)
			require.Equal(t, unchecked(want), members(got))
			select {
			case <-met:
			default:
				t.Error("no four reads were under way at once")
			}
			t.Logf("%d reads, %.2f %% of the bytes", r.reads, 100*float64(r.bytes)/float64(len(c.data)))
			require.Less(t, float64(r.bytes), c.share*float64(len(c.data)))
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

// FuzzScan holds the scan to the Indexer: the same members, or the same refusal, whatever the bytes are.
func FuzzScan(f *testing.F) {
	f.Add(build(f, file("a.jpg", "1"), file("a.cls", "2"), file("b.jpg", strings.Repeat("x", 3000))), int64(0))
	f.Add(build(f, entry{name: strings.Repeat("d/", 100) + "a.jpg", data: "1", kind: tar.TypeReg, form: tar.FormatPAX}), int64(1))
	f.Add(build(f, entry{name: strings.Repeat("d/", 100) + "a.jpg", data: "1", kind: tar.TypeReg, form: tar.FormatGNU}), int64(600))
	f.Add(build(f, entry{name: "d/", kind: tar.TypeDir}, entry{name: "d/l", data: "x", kind: tar.TypeSymlink}, file("README", "r")), int64(100))
	f.Add(paxArchive("10 size=3\n"), int64(1))
	f.Fuzz(func(t *testing.T, data []byte, gap int64) {
		if len(data) <= 1<<16 {
			sameScan(t, mend(data), archive.ScanOptions{Gap: gap})
		}
	})
}
