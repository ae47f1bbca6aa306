package etl

import (
	"bytes"
	"encoding/binary"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// frameOf builds a result as a worker would.
func frameOf(kind uint8, seq uint64, key string, fields []Field) []byte {
	var meta, data []byte
	le := binary.LittleEndian
	for _, f := range fields {
		meta = le.AppendUint16(meta, uint16(len(f.Name)))
		meta = append(meta, byte(f.Value.DType), byte(len(f.Value.Shape)))
		meta = le.AppendUint64(meta, uint64(len(f.Value.Data)))
		for _, d := range f.Value.Shape {
			meta = le.AppendUint64(meta, uint64(d))
		}
		meta = append(meta, f.Name...)
		data = append(data, f.Value.Data...)
	}
	b := append([]byte("SSR1"), kind, 0)
	b = le.AppendUint16(b, uint16(len(fields)))
	b = le.AppendUint64(b, seq)
	b = le.AppendUint32(b, uint32(len(meta)))
	b = le.AppendUint32(b, uint32(len(key)))
	b = le.AppendUint64(b, uint64(len(data)))
	return append(append(append(b, key...), meta...), data...)
}

func genField(t *rapid.T) Field {
	f := Field{Name: rapid.String().Draw(t, "name")}
	f.Value.DType = DType(rapid.IntRange(0, numDTypes-1).Draw(t, "dtype"))
	n := rapid.Int64Range(0, 100).Draw(t, "size")
	if f.Value.DType.Dense() {
		f.Value.Shape = rapid.SliceOfN(rapid.Int64Range(0, 4), 0, 4).Draw(t, "shape")
		n = 1
		for _, d := range f.Value.Shape {
			n *= d
		}
		if len(f.Value.Shape) == 0 {
			f.Value.Shape = nil
		}
	}
	f.Value.Data = bytes.Repeat([]byte{byte(n)}, int(n*f.Value.DType.Size()))
	return f
}

func TestResultsAreReadAsWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fields := rapid.SliceOfN(rapid.Custom(genField), 0, 8).Draw(t, "fields")
		seq := rapid.Uint64().Draw(t, "seq")
		key := rapid.StringMatching(`[a-z/]{0,3}[a-z]?`).Filter(validKey).Draw(t, "key")
		frame := frameOf(resultSample, seq, key, fields)
		r := newFrameReader(bytes.NewReader(append(frame, frame...)), 1<<20)
		for range 2 {
			got, err := r.next()
			require.NoError(t, err)
			require.Equal(t, seq, got.seq)
			require.Equal(t, key, got.key)
			require.Len(t, got.fields, len(fields))
			for i := range fields {
				require.Equal(t, fields[i].Name, got.fields[i].Name)
				require.Equal(t, fields[i].Value.DType, got.fields[i].Value.DType)
				require.Equal(t, fields[i].Value.Shape, got.fields[i].Value.Shape)
				require.True(t, bytes.Equal(fields[i].Value.Data, got.fields[i].Value.Data))
			}
		}
		_, err := r.next()
		require.ErrorIs(t, err, io.EOF)
	})
}

func TestFramesThatLieAreRefused(t *testing.T) {
	good := frameOf(resultSample, 7, "key", []Field{{"a", Value{DType: Int32, Shape: []int64{2}, Data: make([]byte, 8)}}})
	change := func(at int, b ...byte) []byte {
		out := bytes.Clone(good)
		copy(out[at:], b)
		return out
	}
	const meta = resultHead + 3
	cases := map[string][]byte{
		"magic":           change(0, 'X'),
		"kind":            change(4, 9),
		"kind 0":          change(4, 0),
		"error with data": change(4, resultError),
		"fields":          change(6, 2),
		"no fields":       change(6, 0),
		"many fields":     change(6, 0xff, 0xff),
		"meta":            change(16, 0xff, 0xff, 0xff, 0xff),
		"key length":      change(20, 0xff, 0xff, 0xff, 0xff),
		"data length":     change(24, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff),
		"data limit":      change(24, 0, 0, 0x11),
		"key":             change(resultHead, '/'),
		"key dots":        change(resultHead, '.', '.', '/'),
		"dtype":           change(meta+2, 14),
		"bytes in shape":  change(meta+2, 0),
		"dims":            change(meta+3, 9),
		"field size":      change(meta+4, 9),
		"shape":           change(meta+12, 3),
		"negative shape":  change(meta+12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff),
		"huge shape":      change(meta+12, 2, 0, 0, 0, 0, 0, 0, 0x40),
		"name length":     change(meta, 200),
	}
	for name, frame := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := newFrameReader(bytes.NewReader(frame), 1<<20).next()
			require.ErrorIs(t, err, errFrame)
		})
	}
	for cut := 1; cut < len(good); cut++ {
		_, err := newFrameReader(bytes.NewReader(good[:cut]), 1<<20).next()
		require.ErrorIs(t, err, io.ErrUnexpectedEOF, cut)
	}
}

func FuzzResult(f *testing.F) {
	f.Add(frameOf(resultSample, 7, "key", []Field{{"a", Value{DType: Int32, Shape: []int64{2}, Data: make([]byte, 8)}}, {"b", Value{Data: []byte("x")}}}))
	f.Add(frameOf(resultSample, 1, "", nil))
	f.Add(frameOf(resultError, 1, "summary", nil))
	f.Add([]byte("SSR1"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := newFrameReader(bytes.NewReader(data), 1<<16)
		for {
			res, err := r.next()
			if err != nil {
				return
			}
			for _, field := range res.fields {
				v := field.Value
				if v.DType.Dense() && !shapeHolds(v.Shape, v.DType.Size(), int64(len(v.Data))) {
					t.Fatalf("%v of %v holds %d bytes", v.DType, v.Shape, len(v.Data))
				}
			}
			if !validKey(res.key) {
				t.Fatalf("key %q", res.key)
			}
		}
	})
}

// What goes out must not depend on how it was gathered.
func TestRequestsAreWrittenWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sizes := rapid.SliceOfN(rapid.SampledFrom([]int{0, 1, 100, copyBelow - 1, copyBelow, 100_000, flushAbove}), 0, 8).Draw(t, "sizes")
		var gathered, single bytes.Buffer
		a, b := frameWriter{conn: &gathered}, frameWriter{conn: &single}
		for i, n := range sizes {
			s := Sample{Key: "k", Seed: uint64(i), Fields: []Field{{"x", BytesValue(bytes.Repeat([]byte{byte(i)}, n))}, {"y", BytesValue([]byte("tail"))}}}
			require.NoError(t, a.request(requestSample, 0, uint64(i), &s))
			require.NoError(t, b.request(requestSample, 0, uint64(i), &s))
			require.NoError(t, b.flush())
		}
		require.NoError(t, a.flush())
		require.True(t, bytes.Equal(gathered.Bytes(), single.Bytes()))
		want := 0
		for _, n := range sizes {
			want += requestHead + 1 + 2*(fieldHead+1) + n + 4
		}
		require.Equal(t, want, single.Len())
	})
}

func TestLogKeepsTheEnd(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.IntRange(1, 40).Draw(t, "size")
		l := newLogRing(size)
		var all []byte
		for _, s := range rapid.SliceOf(rapid.StringMatching(`[a-z]{0,50}`)).Draw(t, "writes") {
			n, err := l.Write([]byte(s))
			require.NoError(t, err)
			require.Equal(t, len(s), n)
			all = append(all, s...)
		}
		require.Equal(t, string(all[max(0, len(all)-size):]), l.String())
	})
}
