package loader

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/core/wire"
	"github.com/shardstream/shardstream/sampler"
)

// TestHolesAreOfOneBatch: a repair may still look at a batch when it was delivered, and when its buffers
// serve another, whose missing samples are not the repair's to ask for.
func TestHolesAreOfOneBatch(t *testing.T) {
	b := &batch{}
	b.reset(7, sampler.Batch{Count: 3}, &slot{}, 0)
	require.Equal(t, []int{0, 1, 2}, b.holes(7, nil))
	b.retire()
	require.Empty(t, b.holes(7, nil))
	b.reset(8, sampler.Batch{Count: 2}, &slot{}, 0)
	require.Empty(t, b.holes(7, nil))
	require.Equal(t, []int{0, 1}, b.holes(8, nil))
}

// assembled begins a batch of so many samples in memory of its own.
func assembled(t *testing.T, samples int64) *batch {
	t.Helper()
	a := newArena(1, minMaxBatch)
	s, err := a.take(true)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, a.close()) })
	b := &batch{}
	b.reset(0, sampler.Batch{Count: samples}, s, 0)
	return b
}

// arrays is a frame of samples from a place on, with an array of some bytes each.
func arrays(at int, sizes ...int64) *wire.Batch {
	f := &wire.Batch{}
	for i, n := range sizes {
		f.Samples = append(f.Samples, wire.Sample{Slot: at + i})
		f.Items = append(f.Items, wire.Item{Sample: i, Field: f.Field("x"), DType: wire.Uint8, NDim: 1, Dims: [wire.MaxDims]int64{n}, Size: n})
	}
	return f
}

func (b *batch) mustPlace(t *testing.T, f *wire.Batch) []int64 {
	t.Helper()
	dst, claimed, err := b.place(f, nil)
	require.NoError(t, err)
	require.True(t, claimed)
	return dst
}

// column0 reads a word of the first column's part of a table.
func (b *batch) column0(table int64, word int64) int64 {
	return int64(binary.LittleEndian.Uint64(b.slot.mem[table+8*(headWords+word):]))
}

// TestNoRowComesToLieWhereALateWriterMayWrite: the place of a sample that failed in the end is one that a
// target which fell silent was given; closing the gap must not move another sample there.
func TestNoRowComesToLieWhereALateWriterMayWrite(t *testing.T) {
	b := assembled(t, 2)
	late, good := arrays(0, 8), arrays(1, 8)
	lateAt, goodAt := b.mustPlace(t, late), b.mustPlace(t, good)
	binary.LittleEndian.PutUint64(b.slot.mem[goodAt[0]:], 7)
	require.False(t, b.commit(good, goodAt, []bool{false}))
	b.taint()
	b.unclaim(late, lateAt)
	failed := &wire.Batch{Samples: []wire.Sample{{Slot: 0, Failed: true}}}
	require.True(t, b.commit(failed, b.mustPlace(t, failed), []bool{false}))

	require.True(t, b.arrange())
	table, err := b.finish(nil)
	require.NoError(t, err)
	binary.LittleEndian.PutUint64(b.slot.mem[lateAt[0]:], 0xEEEE)
	require.EqualValues(t, kindDense, b.column0(table, 3))
	require.EqualValues(t, 7, binary.LittleEndian.Uint64(b.slot.mem[b.column0(table, 13):]))
}

// TestOneLargeArrayDoesNotStandForAll: whichever array of a column comes first, a batch fits if its arrays do.
func TestOneLargeArrayDoesNotStandForAll(t *testing.T) {
	sizes := make([]int64, 64)
	for i := range sizes {
		sizes[i] = int64(i + 1)
	}
	sizes[0] = minMaxBatch / 2
	b := assembled(t, 64)
	f := arrays(0, sizes...)
	require.True(t, b.commit(f, b.mustPlace(t, f), make([]bool, 64)))
	require.True(t, b.arrange())
	table, err := b.finish(nil)
	require.NoError(t, err)
	require.EqualValues(t, kindRagged, b.column0(table, 3))

	for i := range sizes {
		sizes[i] = minMaxBatch / 2
	}
	_, _, err = assembled(t, 64).place(arrays(0, sizes...), nil)
	require.ErrorContains(t, err, "a batch needs more than 1 MiB")
}
