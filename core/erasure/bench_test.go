package erasure_test

import (
	"context"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/klauspost/reedsolomon"

	"github.com/shardstream/shardstream/core/erasure"
)

// BenchmarkErasure compares with the library on the same object, which is in memory as a whole for both: the library
// codes it in one call with the concurrency that it chooses, we take it in pieces as a store hands them out. Both are
// run in turn, and "of-library" is the share of its rate that we reach.
func BenchmarkErasure(b *testing.B) {
	for _, code := range [][2]int{{4, 2}, {8, 3}, {10, 4}} {
		for _, size := range []int{1 << 20, 64 << 20} {
			name := fmt.Sprintf("%d+%d/%dMiB", code[0], code[1], size>>20)
			b.Run("encode/"+name, func(b *testing.B) { benchmarkEncode(b, code[0], code[1], size) })
			b.Run("rebuild/"+name, func(b *testing.B) { benchmarkRebuild(b, code[0], code[1], size) })
		}
	}
}

// piece is what a store reads of a body at a time.
const piece = 512 << 10

func benchmarkEncode(b *testing.B, data, parity, size int) {
	object := bytesOf(size, 1)
	lib, shards := library(b, object, data, parity)
	c, err := erasure.New(data, parity)
	must(b, err)
	writers := make([]io.Writer, c.Slices())
	for i := range writers {
		writers[i] = io.Discard
	}
	compare(b, size, func() { must(b, lib.Encode(shards)) }, func() {
		e, err := c.Encoder(writers, c.Slices())
		must(b, err)
		for p := object; len(p) > 0; p = p[min(piece, len(p)):] {
			_, err := e.Write(p[:min(piece, len(p))])
			must(b, err)
		}
		must(b, e.Close())
	})
}

// benchmarkRebuild has lost as many data slices as may be lost.
func benchmarkRebuild(b *testing.B, data, parity, size int) {
	object := bytesOf(size, 2)
	lib, shards := library(b, object, data, parity)
	must(b, lib.Encode(shards))
	c, err := erasure.New(data, parity)
	must(b, err)
	parts := encode(b, c, object, piece)
	from := erasure.Source{Order: numbers(c.Slices())[parity:], Open: func(_ context.Context, slice int, offset int64) (erasure.Reader, error) {
		return &memoryReader{parts[slice][offset:]}, nil
	}}
	compare(b, size, func() {
		for i := range parity {
			shards[i] = shards[i][:0]
		}
		must(b, lib.ReconstructData(shards))
	}, func() { must(b, c.Decode(b.Context(), int64(size), from, io.Discard, nil)) })
}

// memoryReader gives out what is in memory, as it lies.
type memoryReader struct{ p []byte }

func (r *memoryReader) Next(n int) ([]byte, error) {
	p := r.p[:n]
	r.p = r.p[n:]
	return p, nil
}

func (r *memoryReader) Close() error { return nil }

func library(b *testing.B, object []byte, data, parity int) (reedsolomon.Encoder, [][]byte) {
	lib, err := reedsolomon.New(data, parity, reedsolomon.WithAutoGoroutines(len(object)/data))
	must(b, err)
	shards, err := lib.Split(append([]byte(nil), object...))
	must(b, err)
	return lib, shards
}

// compare runs both in turn, so that whatever else the machine does meets both.
func compare(b *testing.B, size int, theirs, ours func()) {
	theirs()
	ours()
	var their, our time.Duration
	rounds := 0
	for b.Loop() {
		start := time.Now()
		theirs()
		middle := time.Now()
		ours()
		their, our = their+middle.Sub(start), our+time.Since(middle)
		rounds++
	}
	total := float64(size) * float64(rounds)
	b.ReportMetric(total/our.Seconds()/1e6, "MB/s")
	b.ReportMetric(total/their.Seconds()/1e6, "library-MB/s")
	b.ReportMetric(100*their.Seconds()/our.Seconds(), "%of-library")
	b.ReportMetric(0, "ns/op")
}

func must(b *testing.B, err error) {
	if err != nil {
		b.Fatal(err)
	}
}
