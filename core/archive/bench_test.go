package archive_test

import (
	"fmt"
	"testing"

	"github.com/shardstream/shardstream/core/archive"
)

func BenchmarkIndexer(b *testing.B) {
	for _, size := range []int{1 << 10, 10 << 10, 110 << 10} {
		b.Run(fmt.Sprintf("member=%dKiB", size>>10), func(b *testing.B) {
			data := big(b, max(16<<20/size, 1), size)
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			var members int
			for b.Loop() {
				x := archive.NewIndexer(archive.Tar)
				for rest := data; len(rest) > 0; {
					n := min(1<<20, len(rest))
					if _, err := x.Write(rest[:n]); err != nil {
						b.Fatal(err)
					}
					rest = rest[n:]
				}
				got, err := x.Finish()
				if err != nil {
					b.Fatal(err)
				}
				members += got.NumMembers()
			}
			b.ReportMetric(float64(members)/b.Elapsed().Seconds(), "members/s")
		})
	}
}

func BenchmarkUnmarshalIndex(b *testing.B) {
	x, err := index(big(b, 600, 100))
	if err != nil {
		b.Fatal(err)
	}
	data, err := x.MarshalBinary()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(len(data))/float64(x.NumMembers()), "B/member")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := archive.UnmarshalIndex(data); err != nil {
			b.Fatal(err)
		}
	}
}
