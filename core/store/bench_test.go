package store_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/core/archive"
	"github.com/shardstream/shardstream/core/store"
)

// benchShard is a shard of n samples of about size bytes.
func benchShard(b *testing.B, n, size int) []byte {
	files := map[string][]byte{}
	for i := range n {
		files[fmt.Sprintf("%06d.jpg", i)] = payload(uint64(i), size)
		files[fmt.Sprintf("%06d.cls", i)] = []byte("123")
	}
	return tarOf(b, files)
}

// BenchmarkPut64MiB writes a shard, and beside it the same bytes by plain write and fsync, in turns: "of-plain" is
// the part of plain's rate that is reached.
func BenchmarkPut64MiB(b *testing.B) {
	s, _ := fresh(b)
	shard := benchShard(b, 595, 110_000)
	dir := b.TempDir()
	plain := func() {
		f, err := os.Create(filepath.Join(dir, "plain"))
		require.NoError(b, err)
		for rest := shard; len(rest) > 0; {
			n, err := f.Write(rest[:min(len(rest), 1<<20)])
			require.NoError(b, err)
			rest = rest[n:]
		}
		require.NoError(b, f.Sync())
		require.NoError(b, f.Close())
		require.NoError(b, os.Remove(f.Name()))
	}
	var ours, theirs time.Duration
	b.SetBytes(int64(len(shard)))
	for b.Loop() {
		start := time.Now()
		_, err := s.Put(ctx, "b", "s.tar", bytes.NewReader(shard), store.PutOptions{Size: int64(len(shard)), Archive: archive.Tar})
		require.NoError(b, err)
		ours += time.Since(start)
		b.StopTimer()
		start = time.Now()
		plain()
		theirs += time.Since(start)
		b.StartTimer()
	}
	b.ReportMetric(theirs.Seconds()/ours.Seconds(), "of-plain")
}

func BenchmarkPut4KiB(b *testing.B) {
	s, _ := fresh(b)
	data := payload(1, 4096)
	n := 0
	for b.Loop() {
		put(b, s, "b", fmt.Sprint(n), data)
		n++
	}
}

func BenchmarkOpenWarm(b *testing.B) {
	s, _ := fresh(b)
	put(b, s, "b", "o", payload(1, 1<<20))
	b.ReportAllocs()
	for b.Loop() {
		o, err := s.Open("b", "o")
		if err != nil {
			b.Fatal(err)
		}
		_ = o.Close()
	}
}

// BenchmarkSample opens a shard, looks at its index and reads one sample, as a stream does.
func BenchmarkSample(b *testing.B) {
	for _, size := range []int{1_000, 10_000, 110_000} {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			s, _ := fresh(b)
			shard := benchShard(b, min(64<<20/size, 2000), size)
			_, err := s.Put(ctx, "b", "s.tar", bytes.NewReader(shard), store.PutOptions{Size: -1, Archive: archive.Tar})
			require.NoError(b, err)
			buf := make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				o, err := s.Open("b", "s.tar")
				if err != nil {
					b.Fatal(err)
				}
				x, err := o.Index()
				if err != nil {
					b.Fatal(err)
				}
				first, _ := x.Sample(n * 7919 % x.NumSamples())
				if _, err := o.ReadAt(buf, x.Member(first+1).Offset); err != nil {
					b.Fatal(err)
				}
				_ = o.Close()
				n++
			}
		})
	}
}

// BenchmarkReadSample is BenchmarkSample by ReadSample, both members at once.
func BenchmarkReadSample(b *testing.B) {
	for _, size := range []int{1_000, 110_000} {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			s, _ := fresh(b)
			shard := benchShard(b, min(64<<20/size, 2000), size)
			info, err := s.Put(ctx, "b", "s.tar", bytes.NewReader(shard), store.PutOptions{Size: -1, Archive: archive.Tar})
			require.NoError(b, err)
			buf := make([]byte, 2*size+4096)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				o, err := s.Open("b", "s.tar")
				if err != nil {
					b.Fatal(err)
				}
				if _, _, err := o.ReadSample(n*7919%int(info.Samples), buf); err != nil {
					b.Fatal(err)
				}
				_ = o.Close()
				n++
			}
		})
	}
}

func BenchmarkStat(b *testing.B) {
	s, _ := fresh(b)
	put(b, s, "b", "o", payload(1, 1<<20))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Stat("b", "o"); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkList lists a bucket of 200,000 names in pages.
func BenchmarkList(b *testing.B) {
	const names = 200_000
	infos := make([]store.Info, names)
	for n := range infos {
		infos[n] = store.Info{
			Bucket: "imagenet", Name: fmt.Sprintf("train/shard-%06d.tar", n), Version: 1<<62 + uint64(n), Size: 64 << 20,
			XXH3: uint64(n) * 0x9e3779b97f4a7c15, CRC32: uint32(n) * 2654435761, Created: time.Unix(1_700_000_000, int64(n)),
			ContentType: "application/x-tar", Archive: archive.Tar, Members: 1190, Samples: 595, MaxSample: 120_000,
		}
	}
	for _, disks := range []int{1, 2} {
		for _, page := range []int{1000, 10_000} {
			b.Run(fmt.Sprintf("disks=%d/page=%d", disks, page), func(b *testing.B) {
				dirs := make([]string, disks)
				for n := range dirs {
					dirs[n] = b.TempDir()
				}
				s := open(b, options(dirs...))
				require.NoError(b, store.Index(s, infos))
				b.ReportAllocs()
				total := 0
				for b.Loop() {
					for last, more := "", true; more; {
						var got []store.Info
						var err error
						got, more, err = s.List("imagenet", "", last, page)
						require.NoError(b, err)
						last = got[len(got)-1].Name
						total += len(got)
					}
				}
				require.Zero(b, total%names)
				b.ReportMetric(float64(total)/b.Elapsed().Seconds(), "names/s")
			})
		}
	}
}
