package decode_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/core/decode"
	"github.com/shardstream/shardstream/core/wire"
)

// heap gives values memory that is dirty, as reused memory is.
type heap struct{ left int64 }

var errFull = errors.New("no room")

func (h *heap) Alloc(n int64) ([]byte, error) {
	if n > h.left {
		return nil, errFull
	}
	b := make([]byte, n)
	for i := range b {
		b[i] = 0xa5
	}
	return b, nil
}

// decoded runs a decoder over one field.
func decoded(t testing.TB, how any, src string) ([]string, []decode.Value, error) {
	t.Helper()
	plan, err := decode.Parse(map[string]any{"f": how})
	require.NoError(t, err)
	d := plan.Decoder("f")
	values, err := d.Decode([]byte(src), &decode.Scratch{}, &heap{left: 1 << 30}, nil)
	return d.Columns(), values, err
}

func one(t testing.TB, how any, src string) decode.Value {
	t.Helper()
	_, values, err := decoded(t, how, src)
	require.NoError(t, err)
	require.Len(t, values, 1)
	return values[0]
}

func words(b []byte) (out []int64) {
	for ; len(b) >= 8; b = b[8:] {
		out = append(out, int64(binary.LittleEndian.Uint64(b)))
	}
	return out
}

func floats(b []byte) (out []float64) {
	for _, w := range words(b) {
		out = append(out, math.Float64frombits(uint64(w)))
	}
	return out
}

func TestNumbersAndText(t *testing.T) {
	for src, want := range map[string]int64{
		"0": 0, "7": 7, "12": 12, "-3": -3, "+5": 5, "007": 7, "9223372036854775807": math.MaxInt64, "-9223372036854775808": math.MinInt64,
	} {
		v := one(t, "int", "\t "+src+"\r\n")
		require.Equal(t, wire.Int64, v.DType)
		require.Zero(t, v.NDim)
		require.Equal(t, []int64{want}, words(v.Data), "%q", src)
	}
	for src, want := range map[string]float64{
		"0": 0, "1.5": 1.5, "-2e-3": -0.002, "1e308": 1e308, "inf": math.Inf(1), "-Infinity": math.Inf(-1), "3": 3, ".5": .5, "5.": 5,
	} {
		v := one(t, "float", " "+src+"\n")
		require.Equal(t, wire.Float64, v.DType)
		require.Equal(t, []float64{want}, floats(v.Data), "%q", src)
	}
	require.True(t, math.IsNaN(floats(one(t, "float", "nan").Data)[0]))
	for _, src := range []string{"", "a cat", "né 日本\x00"} {
		v := one(t, "text", src)
		require.Equal(t, wire.Text, v.DType)
		require.Equal(t, src, string(v.Data))
		require.Equal(t, wire.Bytes, one(t, "bytes", src).DType)
	}
}

func TestWhatIsWrongIsSaid(t *testing.T) {
	long := strings.Repeat("9", 10_000)
	for _, c := range []struct{ how, src, says string }{
		{"int", "", "is empty"},
		{"int", "cat", `"cat" is not a whole number`},
		{"int", "1.5", `"1.5" is not a whole number`},
		{"int", "1_000", "not a whole number"},
		{"int", "0x10", "not a whole number"},
		{"int", "9223372036854775808", "does not fit into int64"},
		{"int", long, "too long"},
		{"float", "", "is empty"},
		{"float", "1,5", `"1,5" is not a number`},
		{"float", "0x1p-2", "not a number"},
		{"float", "1_0", "not a number"},
		{"float", "1e999", "does not fit into float64"},
		{"float", long, "too long"},
		{"text", "ab\xffcd", "byte 2 (0xff) is not UTF-8"},
		{"text", "\xed\xa0\x80", "byte 0"},
		{"json", "", "is not JSON"},
		{"json", `{"a": 1`, "is not JSON"},
		{"json", `NaN`, "is not JSON"},
		{"json", "\"a\xff\"", "byte 2 of the JSON is not UTF-8"},
		{"json", strings.Repeat("[", 300) + strings.Repeat("]", 300), "nested more than 256 deep"},
		{"json", `{"a": ` + long + `}`, "digits"},
		{"rgb8", "", "not an image"},
		{"rgb8", "%PDF-1.4", "not an image"},
		{"rgb8", "\xff\xd8\xff", "the JPEG of 3 bytes can't be read"},
		{"npy", "PK\x03\x04", "not an .npy"},
	} {
		_, _, err := decoded(t, c.how, c.src)
		var fault *decode.Error
		require.ErrorAs(t, err, &fault, "%s of %.40q", c.how, c.src)
		require.Equal(t, "f", fault.Column)
		require.Contains(t, err.Error(), c.says)
		require.Contains(t, err.Error(), `field "f"`)
		require.Less(t, len(err.Error()), 400)
	}
}

func TestMemoryThatIsNotThereIsNotTheSamplesFault(t *testing.T) {
	plan, err := decode.Parse(map[string]any{"f": "int"})
	require.NoError(t, err)
	_, err = plan.Decoder("f").Decode([]byte("7"), &decode.Scratch{}, &heap{left: 7}, nil)
	require.ErrorIs(t, err, errFull)
}

// npy makes a file as numpy.save does.
func npy(version byte, header, data string) string {
	length := fmt.Sprintf("%c%c", len(header)&255, len(header)>>8)
	if version > 1 {
		length += "\x00\x00"
	}
	return "\x93NUMPY" + string([]byte{version, 0}) + length + header + data
}

func TestNPY(t *testing.T) {
	for name, c := range map[string]struct {
		src   string
		dtype uint8
		dims  []int64
		data  string
	}{
		"float32 2x3": {npy(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n", strings.Repeat("abcd", 6)), wire.Float32, []int64{2, 3}, strings.Repeat("abcd", 6)},
		"one":         {npy(1, "{'descr': '<i8', 'fortran_order': False, 'shape': (1,), }", "12345678"), wire.Int64, []int64{1}, "12345678"},
		"scalar":      {npy(1, "{'descr': '|u1', 'fortran_order': False, 'shape': (), }", "x"), wire.Uint8, nil, "x"},
		"empty":       {npy(1, "{'descr': '<f2', 'fortran_order': False, 'shape': (0, 5), }", ""), wire.Float16, []int64{0, 5}, ""},
		"version 2":   {npy(2, "{'descr': '|b1', 'fortran_order': False, 'shape': (3,), }", "\x00\x01\x01"), wire.Bool, []int64{3}, "\x00\x01\x01"},
		"other order": {npy(3, "{'shape':(2,),'fortran_order':True,'descr':'<u2'}", "abcd"), wire.Uint16, []int64{2}, "abcd"},
		"Python 2":    {npy(1, "{'descr': '<i2', 'fortran_order': False, 'shape': (2L, 1L), }", "abcd"), wire.Int16, []int64{2, 1}, "abcd"},
	} {
		t.Run(name, func(t *testing.T) {
			v := one(t, "npy", c.src)
			require.Equal(t, c.dtype, v.DType)
			require.Equal(t, c.dims, append([]int64(nil), v.Dims[:v.NDim]...))
			require.Equal(t, c.data, string(v.Data))
		})
	}
	for says, src := range map[string]string{
		"Fortran order":        npy(1, "{'descr': '<f4', 'fortran_order': True, 'shape': (1, 2), }", "abcdefgh"),
		"Python objects":       npy(1, "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", "abcdefgh"),
		"big-endian":           npy(1, "{'descr': '>f4', 'fortran_order': False, 'shape': (1,), }", "abcd"),
		"no column has":        npy(1, "{'descr': '<U3', 'fortran_order': False, 'shape': (1,), }", strings.Repeat("a", 12)),
		"structured":           npy(1, "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }", "abcd"),
		"takes 12":             npy(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }", "abcd"),
		"more than it":         npy(1, "{'descr': '<f8', 'fortran_order': False, 'shape': (4294967296, 4294967296), }", "abcd"),
		"9 dimensions":         npy(1, "{'descr': '|u1', 'fortran_order': False, 'shape': (1, 1, 1, 1, 1, 1, 1, 1, 1), }", "a"),
		"cut off":              npy(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }", "")[:30],
		"version 9":            npy(9, "{}", ""),
		"is no dict":           npy(1, "import os", ""),
		"tuple of whole":       npy(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (-3,), }", ""),
		"has not the keys":     npy(1, "{'descr': '<f4', 'fortran_order': False, }", ""),
		`has a key "__import_`: npy(1, "{'__import__': '<f4', 'fortran_order': False, }", ""),
	} {
		_, _, err := decoded(t, "npy", src)
		require.ErrorContains(t, err, says)
	}
}

func TestMembersOfJSON(t *testing.T) {
	how := map[string]any{
		"label": "int", "box": "float", "seen": "bool", "name": "text", "rest": "json",
		"meta": map[string]any{"id": "int", "tags": map[string]any{"n": "int"}},
	}
	columns, v, err := decoded(t, how, ` {"skip": [{"label": 9}, "}]\"{"], "label": 3, "box": [[1, 2.5, -3e2, 4], [5, 6, 7, 8]],
		"seen": [true, false], "na\u006de": "Mi\u00f6 \"x\"", "rest": {"a": [1, {"b": null}]}, "meta": {"id": 1, "tags": {"n": 2}, "id": 7}} `)
	require.NoError(t, err)
	at := map[string]decode.Value{}
	for i, c := range columns {
		at[c] = v[i]
	}
	require.Equal(t, []string{"f.box", "f.label", "f.meta.id", "f.meta.tags.n", "f.name", "f.rest", "f.seen"}, columns)
	require.Equal(t, []int64{3}, words(at["f.label"].Data))
	require.Equal(t, []int64{2, 4}, append([]int64(nil), v[0].Dims[:v[0].NDim]...))
	require.Equal(t, []float64{1, 2.5, -300, 4, 5, 6, 7, 8}, floats(at["f.box"].Data))
	require.Equal(t, "\x01\x00", string(at["f.seen"].Data))
	require.Equal(t, `Miö "x"`, string(at["f.name"].Data))
	require.Equal(t, `{"a": [1, {"b": null}]}`, string(at["f.rest"].Data))
	require.Equal(t, []int64{7}, words(at["f.meta.id"].Data), "of a member that comes twice the last counts")
	require.Equal(t, []int64{2}, words(at["f.meta.tags.n"].Data))

	_, v, err = decoded(t, how, `{"label": null, "meta": {"id": 5}, "meta": null}`)
	require.NoError(t, err)
	for i := range v {
		require.True(t, v[i].Absent, columns[i])
	}
}

func TestShapesOfLists(t *testing.T) {
	how := map[string]any{"x": "int"}
	for src, dims := range map[string][]int64{
		`5`: nil, `[]`: {0}, `[1,2,3]`: {3}, `[[1],[2]]`: {2, 1}, `[[],[]]`: {2, 0}, `[[[1,2]]]`: {1, 1, 2}, `[[[[[[[[1]]]]]]]]`: {1, 1, 1, 1, 1, 1, 1, 1},
	} {
		v := one(t, how, `{"x": `+src+`}`)
		require.Equal(t, dims, append([]int64(nil), v.Dims[:v.NDim]...), src)
	}
	for src, says := range map[string]string{
		`[[1],[1,2]]`: "different lengths (1 and 2)", `[1,[2]]`: "different depths", `[[1],2]`: "different depths", `[[],1]`: "different depths",
		`[[],[[1]]]`: "different depths", `[[[[[[[[[1]]]]]]]]]`: "more than 8 dimensions", `1.5`: "not a whole number", `"5"`: "not a whole number",
		`[1,null]`: "not a whole number", `true`: "not a whole number", `{"a":1}`: "not a whole number", `1e3`: "not a whole number",
		`99999999999999999999`: "does not fit",
	} {
		_, _, err := decoded(t, how, `{"x": `+src+`}`)
		require.ErrorContains(t, err, says, src)
		require.ErrorContains(t, err, `"f.x"`)
	}
	for kind, src := range map[string]string{"float": `"nan"`, "bool": `1`, "text": `5`} {
		_, _, err := decoded(t, map[string]any{"x": kind}, `{"x": `+src+`}`)
		require.ErrorContains(t, err, kind+" wants")
	}
	_, _, err := decoded(t, how, `[{"x": 5}]`)
	require.ErrorContains(t, err, "no object")
	_, _, err = decoded(t, map[string]any{"x": map[string]any{"y": "int"}}, `{"x": 5}`)
	require.ErrorContains(t, err, "5")
}

func TestDescriptionsRefused(t *testing.T) {
	deep := map[string]any{"x": "int"}
	for range 20 {
		deep = map[string]any{"x": deep}
	}
	many := map[string]any{}
	for i := range 2000 {
		many[fmt.Sprint(i)] = "int"
	}
	for says, d := range map[string]map[string]any{
		"there are bytes, float, gray8, int, json, npy, rgb8, rgba8, text": {"jpg": "rgb"},
		"not 5":                            {"jpg": 5},
		"names no member":                  {"json": map[string]any{}},
		`no decoder "rgb8" for "json.img"`: {"json": map[string]any{"img": "rgb8"}},
		"nested more than":                 {"json": deep},
		"more than 1024":                   many,
		"column \"json.a.b\" twice":        {"json": map[string]any{"a": map[string]any{"b": "int"}}, "json.a.b": "text"},
		"field of 0 bytes":                 {"": "int"},
		"wants the name of a decoder":      {"json": map[string]any{"a": 7}},
	} {
		_, err := decode.Parse(d)
		require.ErrorContains(t, err, says)
	}
	plan, err := decode.Parse(nil)
	require.NoError(t, err)
	require.Nil(t, plan.Decoder("jpg"))
	require.False(t, plan.Makes("jpg"))
}

// TestSteadyStateAllocatesNothing: a label per sample is on the hot path.
func TestSteadyStateAllocatesNothing(t *testing.T) {
	plan, err := decode.Parse(map[string]any{"cls": "int", "score": "float", "txt": "text"})
	require.NoError(t, err)
	memory, scratch := &fixed{make([]byte, 8)}, &decode.Scratch{}
	dst := make([]decode.Value, 0, 4)
	src := []byte("12\n")
	for _, field := range plan.Fields() {
		d := plan.Decoder(field)
		require.Zero(t, testing.AllocsPerRun(100, func() { dst, _ = d.Decode(src, scratch, memory, dst[:0]) }), field)
	}
}

type fixed struct{ b []byte }

func (f *fixed) Alloc(n int64) ([]byte, error) { return f.b[:n], nil }
