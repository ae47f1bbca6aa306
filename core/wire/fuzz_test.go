package wire_test

import (
	"encoding/binary"
	"encoding/json"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/shardstream/shardstream/core/wire"
)

// perByte is how much memory Parse may take for each byte of a head, and slack for none at all: a short
// head can't ask for much.
const (
	perByte = 64
	slack   = 64 << 10
)

// allocated is how many bytes f takes.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// FuzzBatchParse: any bytes are an error or a head that says the same when it is written again, that adds
// up to its payload, and that leads nobody outside what it holds. Memory follows from the head's size.
func FuzzBatchParse(f *testing.F) {
	f.Add(sampleBatch().Append(nil), int64(132), 0)
	f.Add(sampleBatch().Append(nil), int64(132), 2)
	f.Add([]byte{}, int64(0), 0)
	f.Add(binary.AppendUvarint(nil, 1<<62), int64(1<<40), 1)
	f.Fuzz(func(t *testing.T, head []byte, payload int64, most int) {
		b := wire.Batch{Most: max(most, 0)}
		var err error
		used := allocated(func() { err = b.Parse(head, payload) })
		// Slices grow by doubling: what they took before counts too.
		require.LessOrEqual(t, used, uint64(len(head)*4*perByte+slack), "bytes allocated for a head of %d", len(head))
		if err != nil {
			require.ErrorIs(t, err, wire.ErrMalformed)
			return
		}
		require.Equal(t, payload, b.Payload())
		if most > 0 {
			require.LessOrEqual(t, len(b.Samples), most)
		}
		for _, it := range b.Items {
			require.Less(t, it.Sample, len(b.Samples))
			require.Less(t, it.Field, len(b.Fields))
			require.GreaterOrEqual(t, it.Size, int64(0))
			require.False(t, b.Samples[it.Sample].Failed)
		}
		var again wire.Batch
		require.NoError(t, again.Parse(b.Append(nil), payload))
		require.Equal(t, b.Index, again.Index)
		require.Equal(t, b.Items, again.Items)
		require.Equal(t, b.Samples, again.Samples)
		require.Equal(t, len(b.Fields), len(again.Fields))
	})
}

// FuzzFrame: a header of any bytes is an error or within its bounds, and the same when written again.
func FuzzFrame(f *testing.F) {
	head := sampleBatch().Append(nil)
	f.Add(append(wire.AppendHeader(nil, wire.FrameBatch, head, 132), head...))
	f.Add(wire.AppendHeader(nil, wire.FrameEnd, nil, 0))
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := wire.ParseHeader(data)
		if err != nil {
			require.ErrorIs(t, err, wire.ErrMalformed)
			return
		}
		require.True(t, 0 <= h.Head && h.Head <= wire.MaxHead)
		require.True(t, 0 <= h.Payload && h.Payload <= wire.MaxPayload)
		rest := data[wire.HeaderSize:]
		if len(rest) < h.Head || h.CheckHead(rest[:h.Head]) != nil {
			return
		}
		again := wire.AppendHeader(nil, h.Type, rest[:h.Head], h.Payload)
		if h.Type == wire.FrameBatch {
			again = wire.AppendBatchHeader(nil, h.Encoding, rest[:h.Head], h.Payload)
		}
		require.Equal(t, data[:wire.HeaderSize], again)
	})
}

// FuzzChunk: marks and failures, of any bytes.
func FuzzChunk(f *testing.F) {
	f.Add(wire.Chunk{Next: 16, Samples: 512}.Append(nil))
	f.Add(wire.Failure{Code: "corrupt", Message: "block 7"}.Append(nil))
	f.Fuzz(func(t *testing.T, head []byte) {
		if c, err := wire.ParseChunk(head); err == nil {
			require.True(t, c.Next >= 0 && c.Samples >= 0)
			back, err := wire.ParseChunk(c.Append(nil))
			require.NoError(t, err)
			require.Equal(t, c, back)
		} else {
			require.ErrorIs(t, err, wire.ErrMalformed)
		}
		if e, err := wire.ParseFailure(head); err == nil {
			back, err := wire.ParseFailure(e.Append(nil))
			require.NoError(t, err)
			require.Equal(t, e, back)
		} else {
			require.ErrorIs(t, err, wire.ErrMalformed)
		}
	})
}

// FuzzRequest: a request of any JSON is refused or within its bounds, and the same when written again.
func FuzzRequest(f *testing.F) {
	good := wire.ReadRequest{Shuffle: "global", Seed: 1, BatchSize: 4, World: 2, Workers: 1, To: 3, Chunk: 16, Fields: []string{"jpg"}}
	one := good
	one.To, one.Slots, one.Verify = 1, []int{0, 3}, true
	for _, r := range []wire.ReadRequest{good, one} {
		data, err := json.Marshal(r)
		require.NoError(f, err)
		f.Add(data)
	}
	f.Add([]byte(`{"batch_size":1e9,"to":-1,"slots":[-1]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var r wire.ReadRequest
		if json.Unmarshal(data, &r) != nil || r.Validate() != nil {
			return
		}
		require.True(t, 1 <= r.BatchSize && r.BatchSize <= wire.MaxSamples)
		require.True(t, 0 <= r.From && r.From <= r.To && r.Chunk >= 1)
		for _, s := range r.Slots {
			require.True(t, 0 <= s && s < r.BatchSize)
		}
		again, err := json.Marshal(r)
		require.NoError(t, err)
		var back wire.ReadRequest
		require.NoError(t, json.Unmarshal(again, &back))
		require.NoError(t, back.Validate())
		final, err := json.Marshal(back)
		require.NoError(t, err)
		require.Equal(t, string(again), string(final))
	})
}

// FuzzPlacement: a loader's answer, of any bytes.
func FuzzPlacement(f *testing.F) {
	f.Add(wire.AppendPlacement(nil, wire.Placement{Slot: 3, Size: 4096, Index: 7}, []int64{0, wire.Nowhere, 64}))
	f.Fuzz(func(t *testing.T, data []byte) {
		fixed := data[:min(len(data), wire.PlacementSize)]
		p, err := wire.ParsePlacement(fixed)
		if err != nil {
			require.ErrorIs(t, err, wire.ErrMalformed)
			return
		}
		require.True(t, 0 <= p.Slot && p.Slot < wire.MaxSlot && 0 <= p.Items && p.Items <= wire.MaxItems)
		require.True(t, 0 <= p.Size && p.Size <= wire.MaxPayload && p.Index >= 0)
		offsets := wire.ParseOffsets(data[wire.PlacementSize:], nil)
		if len(offsets) == p.Items {
			require.Equal(t, data[:wire.PlacementSize+8*p.Items], wire.AppendPlacement(nil, p, offsets))
		}
	})
}

// FuzzBlock: compressed blocks of any bytes decode to what they claim or are an error; what is encoded
// comes back.
func FuzzBlock(f *testing.F) {
	var w wire.BlockWriter
	f.Add(append([]byte{}, w.Encode([]byte("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"))...))
	f.Add(append([]byte{}, w.Encode([]byte("x"))...))
	decode := func(data []byte) ([]byte, error) {
		b, err := wire.ParseBlock(data)
		if err != nil {
			return nil, err
		}
		dst := make([]byte, b.Raw)
		return dst, b.Decode(dst, data[wire.BlockHeaderSize:][:min(b.Stored, len(data)-wire.BlockHeaderSize)])
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := decode(data); err != nil {
			require.ErrorIs(t, err, wire.ErrMalformed)
		}
		if len(data) == 0 || len(data) > wire.BlockSize {
			return
		}
		var w wire.BlockWriter
		back, err := decode(w.Encode(data))
		require.NoError(t, err)
		require.Equal(t, data, back)
	})
}

// drawBatch makes any batch that a target may send.
func drawBatch(t *rapid.T) *wire.Batch {
	b := &wire.Batch{}
	b.Reset(rapid.Int64Range(0, 1<<40).Draw(t, "index"))
	for _, name := range rapid.SliceOfNDistinct(rapid.StringN(1, 20, -1), 1, 6, rapid.ID).Draw(t, "fields") {
		b.Field(name)
	}
	for slot := range rapid.IntRange(0, 12).Draw(t, "samples") {
		s := wire.Sample{Slot: slot * 3, Key: rapid.SliceOf(rapid.Byte()).Draw(t, "key"), Failed: rapid.Bool().Draw(t, "failed")}
		if s.Failed {
			s.Code, s.Message = []byte("corrupt"), rapid.SliceOf(rapid.Byte()).Draw(t, "message")
		}
		b.Samples = append(b.Samples, s)
		for field := range b.Fields {
			if s.Failed || !rapid.Bool().Draw(t, "has the field") {
				continue
			}
			it := wire.Item{Sample: slot, Field: field, Sum: rapid.Uint64().Draw(t, "sum")}
			it.DType = rapid.Uint8Range(wire.Bytes, wire.Text).Draw(t, "dtype")
			it.Size = wire.ItemSize(it.DType)
			if !wire.IsArray(it.DType) {
				it.Size = rapid.Int64Range(0, 1<<30).Draw(t, "size")
			} else {
				it.NDim = rapid.Uint8Range(0, wire.MaxDims).Draw(t, "dimensions")
				for d := range it.Dims[:it.NDim] {
					it.Dims[d] = rapid.Int64Range(0, 9).Draw(t, "dim")
					it.Size *= it.Dims[d]
				}
			}
			b.Items = append(b.Items, it)
		}
	}
	return b
}

// TestAnyBatchRoundTrips, into a batch that held another before; any cut and any other payload is refused.
func TestAnyBatchRoundTrips(t *testing.T) {
	got := &wire.Batch{}
	rapid.Check(t, func(t *rapid.T) {
		want := drawBatch(t)
		head, payload := want.Append(nil), want.Payload()
		require.NoError(t, got.Parse(head, payload))
		require.Equal(t, want.Index, got.Index)
		require.Equal(t, want.Fields, got.Fields)
		require.Equal(t, head, got.Append(nil))
		require.Equal(t, payload, got.Payload())

		cut := rapid.IntRange(0, len(head)-1).Draw(t, "cut")
		require.ErrorIs(t, got.Parse(head[:cut], payload), wire.ErrMalformed)
		require.ErrorIs(t, got.Parse(append(head, 0), payload), wire.ErrMalformed)
		require.ErrorIs(t, got.Parse(head, payload+1), wire.ErrMalformed)
	})
}
