package wire_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/shardstream/shardstream/core/wire"
)

func sampleBatch() *wire.Batch {
	b := &wire.Batch{}
	b.Reset(9123)
	jpg, cls := b.Field("jpg"), b.Field("cls")
	b.Samples = append(
		b.Samples,
		wire.Sample{Slot: 3, Key: []byte("a/0001")},
		wire.Sample{Slot: 5, Key: []byte("a/0002"), Failed: true, Code: []byte("corrupt"), Message: []byte("block 7")},
		wire.Sample{Slot: 9, Key: []byte("")},
	)
	b.Items = append(
		b.Items,
		wire.Item{Sample: 0, Field: jpg, Size: 100, Sum: 1},
		wire.Item{Sample: 2, Field: jpg, DType: wire.Float32, NDim: 2, Dims: [8]int64{2, 3}, Size: 24, Sum: 1 << 63},
		wire.Item{Sample: 0, Field: cls, DType: wire.Int64, Size: 8},
	)
	return b
}

func TestBatchRoundTrip(t *testing.T) {
	want := sampleBatch()
	head := want.Append(nil)
	frame := wire.AppendHeader(nil, wire.FrameBatch, head, want.Payload())
	h, err := wire.ParseHeader(frame)
	require.NoError(t, err)
	require.Equal(t, wire.FrameBatch, h.Type)
	require.EqualValues(t, 132, h.Payload)
	require.NoError(t, h.CheckHead(head))

	var got wire.Batch
	require.NoError(t, got.Parse(head, h.Payload))
	require.Equal(t, want.Index, got.Index)
	require.Equal(t, want.Fields, got.Fields)
	require.Equal(t, want.Items, got.Items)
	require.Len(t, got.Samples, 3)
	require.Equal(t, "block 7", string(got.Samples[1].Message))
	require.Equal(t, "a/0001", string(got.Samples[0].Key))
}

func TestBatchRefusesDamage(t *testing.T) {
	head := sampleBatch().Append(nil)
	var b wire.Batch
	require.ErrorIs(t, b.Parse(head, 131), wire.ErrMalformed, "payload shorter than its items")
	require.ErrorIs(t, b.Parse(head, 133), wire.ErrMalformed, "payload longer than its items")
	for cut := range head {
		require.ErrorIs(t, b.Parse(head[:cut], 132), wire.ErrMalformed, "cut at %d", cut)
	}
	h, err := wire.ParseHeader(wire.AppendHeader(nil, wire.FrameBatch, head, 132))
	require.NoError(t, err)
	for i := range head {
		bad := append([]byte(nil), head...)
		bad[i] ^= 0x40
		require.ErrorIs(t, h.CheckHead(bad), wire.ErrMalformed, "flip at %d", i)
	}

	shape := sampleBatch()
	shape.Items[1].Dims[1] = 4
	require.ErrorIs(t, b.Parse(shape.Append(nil), 132), wire.ErrMalformed, "shape beyond the item")
	shape.Items[1].Dims = [8]int64{1 << 40, 1 << 40}
	require.ErrorIs(t, b.Parse(shape.Append(nil), 132), wire.ErrMalformed, "shape overflows")
}

func TestHeaderRefusesDamage(t *testing.T) {
	good := wire.AppendHeader(nil, wire.FrameEnd, nil, 0)
	_, err := wire.ParseHeader(good)
	require.NoError(t, err)
	for name, edit := range map[string]func([]byte){
		"magic":       func(b []byte) { b[0] = 'X' },
		"type 0":      func(b []byte) { b[4] = 0 },
		"type 9":      func(b []byte) { b[4] = 9 },
		"reserved":    func(b []byte) { b[6] = 1 },
		"head size":   func(b []byte) { b[11] = 0xff },
		"payload":     func(b []byte) { b[23] = 0xff },
		"end payload": func(b []byte) { b[16] = 1 },
	} {
		bad := append([]byte(nil), good...)
		edit(bad)
		_, err := wire.ParseHeader(bad)
		require.ErrorIs(t, err, wire.ErrMalformed, name)
	}
	_, err = wire.ParseHeader(good[:31])
	require.ErrorIs(t, err, wire.ErrMalformed)
}

func TestMarksRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		number := rapid.Int64Range(0, 1<<62)
		c := wire.Chunk{Next: number.Draw(t, "next"), Samples: number.Draw(t, "samples"), Work: wire.Work{
			Plan: number.Draw(t, "plan"), Read: number.Draw(t, "read"), ETL: number.Draw(t, "etl"), Send: number.Draw(t, "send"),
			Full: number.Draw(t, "full"), Idle: number.Draw(t, "idle"), Stored: number.Draw(t, "stored"), Sent: number.Draw(t, "sent"),
		}}
		head := c.Append(nil)
		require.LessOrEqual(t, len(head), wire.MaxMark)
		got, err := wire.ParseChunk(head)
		require.NoError(t, err)
		require.Equal(t, c, got)
		_, err = wire.ParseChunk(head[:len(head)-1])
		require.ErrorIs(t, err, wire.ErrMalformed)
		f := wire.Failure{Code: rapid.String().Draw(t, "code"), Message: rapid.String().Draw(t, "message")}
		back, err := wire.ParseFailure(f.Append(nil))
		require.NoError(t, err)
		require.Equal(t, f, back)
	})
}

func TestReadRequestBounds(t *testing.T) {
	good := wire.ReadRequest{BatchSize: 4, To: 3, Chunk: 1}
	require.NoError(t, good.Validate())
	for name, r := range map[string]wire.ReadRequest{
		"no batch size":   {To: 3, Chunk: 1},
		"huge batch size": {BatchSize: 1 << 30, To: 3, Chunk: 1},
		"backwards":       {BatchSize: 4, From: 3, To: 2, Chunk: 1},
		"no chunk":        {BatchSize: 4, To: 3},
		"slot outside":    {BatchSize: 4, To: 1, Chunk: 1, Slots: []int{4}},
		"slots, batches":  {BatchSize: 4, To: 2, Chunk: 1, Slots: []int{1}},
	} {
		require.Error(t, r.Validate(), name)
	}
}

func TestSteadyStateAllocatesNothing(t *testing.T) {
	src := sampleBatch()
	var dst wire.Batch
	buf := src.Append(nil)
	require.NoError(t, dst.Parse(buf, 132))
	allocs := testing.AllocsPerRun(100, func() {
		buf = src.Append(buf[:0])
		if err := dst.Parse(buf, 132); err != nil {
			t.Fatal(err)
		}
	})
	require.Zero(t, allocs)
}
