package sampler_test

import (
	"fmt"
	"testing"

	"github.com/shardstream/shardstream/sampler"
)

// The data set of most figures: 2,000 shards of 640 samples.
func BenchmarkAt(b *testing.B) { benchmarkLookup(b, func(o *sampler.Order, pos int64) { o.At(pos) }) }

func BenchmarkSample(b *testing.B) {
	benchmarkLookup(b, func(o *sampler.Order, pos int64) { o.Sample(pos) })
}

func BenchmarkPosition(b *testing.B) {
	benchmarkLookup(b, func(o *sampler.Order, pos int64) { o.Position(pos) })
}

func benchmarkLookup(b *testing.B, lookup func(*sampler.Order, int64)) {
	snap := equalShards(b, 2000, 640)
	for _, mode := range modes {
		b.Run(mode.String(), func(b *testing.B) {
			o, pos := order(b, snap, sampler.Shuffle{Mode: mode}, 0), int64(0)
			b.ReportAllocs()
			for b.Loop() {
				if pos++; pos == o.Samples() {
					pos = 0
				}
				lookup(o, pos)
			}
		})
	}
}

func BenchmarkNewOrder(b *testing.B) {
	snap := equalShards(b, 2000, 640)
	for _, mode := range modes {
		b.Run(mode.String(), func(b *testing.B) {
			b.ReportAllocs()
			epoch := uint64(0)
			for b.Loop() {
				epoch++
				order(b, snap, sampler.Shuffle{Mode: mode}, epoch)
			}
		})
	}
}

func BenchmarkBatch(b *testing.B) {
	v := sampler.View{Samples: 1_280_000, BatchSize: 256, World: 8, Rank: 3, Workers: 2, Worker: 1}
	b.ReportAllocs()
	i := int64(0)
	for b.Loop() {
		if i++; i == v.Batches() {
			i = 0
		}
		v.Batch(i)
	}
}

func BenchmarkUnmarshalSnapshot(b *testing.B) {
	data, err := equalShards(b, 100_000, 640).MarshalBinary()
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := sampler.UnmarshalSnapshot(data); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMixture(b *testing.B) {
	for _, parts := range []int{2, 10, 1000} {
		sizes := make([]int64, parts)
		for i := range sizes {
			sizes[i] = int64(1000 + 977*i)
		}
		for _, v := range []sampler.Interleave{sampler.Random, sampler.Stratified} {
			b.Run(fmt.Sprintf("%v/%d", v, parts), func(b *testing.B) {
				plan, pos := mix(b, sampler.Blend{Interleave: v}, sizes, sizes).plan(b, 3), int64(0)
				b.ReportAllocs()
				for b.Loop() {
					if pos++; pos == plan.Samples() {
						pos = 0
					}
					plan.Draw(pos)
				}
			})
		}
	}
}
