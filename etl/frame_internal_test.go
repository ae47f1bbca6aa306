package etl

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
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
		meta = le.AppendUint64(meta, placeInline)
		for _, d := range f.Value.Shape {
			meta = le.AppendUint64(meta, uint64(d))
		}
		meta = append(meta, f.Name...)
		data = append(data, f.Value.Data...)
	}
	b := append([]byte("SSR2"), kind, 0)
	b = le.AppendUint16(b, uint16(len(fields)))
	b = le.AppendUint64(b, seq)
	b = le.AppendUint32(b, uint32(len(meta)))
	b = le.AppendUint32(b, uint32(len(key)))
	b = le.AppendUint64(b, uint64(len(data)))
	return append(append(append(b, key...), meta...), data...)
}

func genField(t *rapid.T) Field {
	f := Field{Name: rapid.String().Filter(validName).Draw(t, "name")}
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
		r := newFrameReader(bytes.NewReader(append(frame, frame...)), nil, 1<<20)
		for range 2 {
			got, err := r.next(0, nil)
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
		_, err := r.next(0, nil)
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
		"place":           change(meta+12, 0, 0, 0, 0, 0, 0, 0, 0),
		"place overflow":  change(meta+12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f),
		"echo":            change(meta+12, 0, 0, 0, 0, 0, 0, 0, 0x80),
		"shape":           change(meta+20, 3),
		"negative shape":  change(meta+20, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff),
		"huge shape":      change(meta+20, 2, 0, 0, 0, 0, 0, 0, 0x40),
		"name length":     change(meta, 200),
		"name":            change(len(good)-9, '/'),
		"name not UTF-8":  change(len(good)-9, 0xff),
	}
	for name, frame := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := newFrameReader(bytes.NewReader(frame), nil, 1<<20).next(0, nil)
			require.ErrorIs(t, err, errFrame)
		})
	}
	for cut := 1; cut < len(good); cut++ {
		_, err := newFrameReader(bytes.NewReader(good[:cut]), nil, 1<<20).next(0, nil)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF, cut)
	}
}

// What a worker says is not kept, but for names that a function could have given to fields.
func TestLittleIsKeptOfAnswers(t *testing.T) {
	long := strings.Repeat("x", 1<<16-1)
	fields := make([]Field, 120)
	for i := range fields {
		fields[i] = Field{Name: fmt.Sprint(i, long)[:1<<16-1], Value: BytesValue(nil)}
	}
	r := newFrameReader(bytes.NewReader(frameOf(resultSample, 7, "", fields)), nil, 1<<20)
	_, err := r.next(0, nil)
	require.ErrorIs(t, err, errFrame)
	require.Empty(t, r.names)
	require.LessOrEqual(t, cap(r.meta), keptMeta)
}

// An answer may name a blob of the request many times over: that counts like any other bytes.
func TestEchoesCount(t *testing.T) {
	le := binary.LittleEndian
	frame := frameOf(resultSample, 7, "", []Field{{"a", BytesValue(nil)}, {"b", BytesValue(nil)}, {"c", BytesValue(nil)}})
	for i := range 3 {
		at := resultHead + i*(fieldHead+1)
		le.PutUint64(frame[at+4:], 400)
		le.PutUint64(frame[at+12:], placeEcho)
	}
	given := func(int, int) (Value, bool) { return BytesValue(make([]byte, 400)), true }
	res, err := newFrameReader(bytes.NewReader(frame), nil, 1200).next(0, given)
	require.NoError(t, err)
	require.Len(t, res.fields[2].Value.Data, 400)
	_, err = newFrameReader(bytes.NewReader(frame), nil, 1199).next(0, given)
	require.ErrorIs(t, err, errFrame)
}

// columnsOf builds the answer to a batch: a dense column of n uint8 and one of n blobs.
func columnsOf(n int, places ...uint64) []byte {
	le := binary.LittleEndian
	head := func(b []byte, name string, dtype, dims byte, size, place uint64) []byte {
		b = append(le.AppendUint16(b, uint16(len(name))), dtype, dims)
		return le.AppendUint64(le.AppendUint64(b, size), place)
	}
	meta := head(nil, "n", byte(Uint8), 1, uint64(n), placeInline)
	meta = append(le.AppendUint64(meta, uint64(n)), "n"...)
	meta = append(head(meta, "b", dtypeRows, 0, 0, placeInline), "b"...)
	data := bytes.Repeat([]byte{9}, n)
	for i := range n {
		place := uint64(placeInline)
		if i < len(places) {
			place = places[i]
		} else {
			data = append(data, 'a', byte(i))
		}
		meta = head(meta, "", byte(Bytes), 0, 2, place)
	}
	b := append([]byte("SSR2"), resultColumns, 0)
	b = le.AppendUint16(b, 2)
	b = le.AppendUint64(b, 7)
	b = le.AppendUint32(b, uint32(len(meta)))
	b = le.AppendUint32(b, 0)
	b = le.AppendUint64(b, uint64(len(data)))
	return append(append(b, meta...), data...)
}

func TestColumnsAreReadWhereverTheyLie(t *testing.T) {
	area := []byte("0123456789")
	given := func(sample, field int) (Value, bool) {
		return BytesValue([]byte{'g', byte(sample)}), field == 3 && sample < 4
	}
	frame := columnsOf(4, 8, placeEcho|2<<16|3, 0)
	res, err := newFrameReader(bytes.NewReader(frame), area, 1<<20).next(4, given)
	require.NoError(t, err)
	require.Equal(t, []byte{9, 9, 9, 9}, res.columns[0].dense.Data)
	for i, want := range []string{"89", "g\x02", "01", "a\x03"} {
		require.Equal(t, want, string(res.columns[1].rows[i].Data))
		require.Equal(t, Value{DType: Uint8, Data: []byte{9}}, res.columns[0].row(i))
	}
	area[8] = 'x'
	require.Equal(t, "89", string(res.columns[1].rows[0].Data), "what was read no longer changes")
	for name, frame := range map[string][]byte{
		"beyond the area":  columnsOf(4, 9),
		"echo of a field":  columnsOf(4, placeEcho|2<<16|2),
		"echo of a sample": columnsOf(4, placeEcho|4<<16|3),
		"echo of nothing":  columnsOf(4, placeEcho|0xffff<<40),
		"fewer rows":       columnsOf(3),
		"more rows":        columnsOf(5),
	} {
		_, err := newFrameReader(bytes.NewReader(frame), area, 1<<20).next(4, given)
		require.ErrorIs(t, err, errFrame, name)
	}
}

func FuzzResult(f *testing.F) {
	f.Add(frameOf(resultSample, 7, "key", []Field{{"a", Value{DType: Int32, Shape: []int64{2}, Data: make([]byte, 8)}}, {"b", Value{Data: []byte("x")}}}))
	f.Add(frameOf(resultSample, 1, "", nil))
	f.Add(frameOf(resultError, 1, "summary", nil))
	f.Add(columnsOf(4, 8, placeEcho|2<<16|3, 0))
	f.Add([]byte("SSR2"))
	given := func(sample, field int) (Value, bool) { return BytesValue([]byte("ab")), sample < 4 && field < 4 }
	f.Fuzz(func(t *testing.T, data []byte) {
		r := newFrameReader(bytes.NewReader(data), make([]byte, 100), 1<<16)
		for {
			res, err := r.next(4, given)
			if err != nil {
				return
			}
			values := []Value{}
			for _, field := range res.fields {
				values = append(values, field.Value)
			}
			for _, column := range res.columns {
				for i := range 4 {
					values = append(values, column.row(i))
				}
			}
			for _, v := range values {
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
		sizes := rapid.SliceOfN(rapid.SampledFrom([]int{0, 1, 100, sharedFrom, copyBelow - 1, copyBelow, 100_000, flushAbove}), 0, 8).Draw(t, "sizes")
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

// Large payloads go by the shared memory while it has room, and over the socket then.
func TestRequestsUseTheSharedMemory(t *testing.T) {
	var sent bytes.Buffer
	w := frameWriter{conn: &sent, area: make([]byte, 10_000)}
	payload := bytes.Repeat([]byte("x"), sharedFrom)
	s := Sample{Fields: []Field{{"a", BytesValue(payload)}, {"b", BytesValue(payload)}, {"c", BytesValue(payload)}, {"d", BytesValue(payload[1:])}}}
	require.NoError(t, w.request(requestSample, 0, 1, &s))
	require.NoError(t, w.flush())
	require.Equal(t, requestHead+4*(fieldHead+1)+2*sharedFrom-1, sent.Len())
	require.Equal(t, payload, w.area[sharedFrom:2*sharedFrom])
	require.EqualValues(t, 2*sharedFrom-1, binary.LittleEndian.Uint64(sent.Bytes()[32:]))
	w.reset()
	sent.Reset()
	require.NoError(t, w.request(requestSample, 0, 2, &Sample{Fields: s.Fields[:1]}))
	require.NoError(t, w.flush())
	require.Equal(t, requestHead+fieldHead+1, sent.Len())
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
