package decode_test

import (
	"bytes"
	"encoding/json"
	"hash/crc32"
	"image"
	"image/gif"
	"image/jpeg"
	"image/png"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	_ "golang.org/x/image/webp" // for image.DecodeConfig
	"pgregory.net/rapid"

	"github.com/shardstream/shardstream/core/decode"
	"github.com/shardstream/shardstream/core/wire"
)

// checksum is what a PNG chunk ends with.
func checksum(chunk []byte) []byte {
	sum := crc32.ChecksumIEEE(chunk)
	return []byte{byte(sum >> 24), byte(sum >> 16), byte(sum >> 8), byte(sum)}
}

var everything = map[string]any{
	"bytes": "bytes", "float": "float", "gray8": "gray8", "int": "int", "json": "json", "npy": "npy", "rgb8": "rgb8", "rgba8": "rgba8", "text": "text",
	"members": map[string]any{"a": "int", "b": "float", "c": map[string]any{"a": "bool", "d": "json"}, "d": "text"},
}

// FuzzDecode: whatever the bytes, every decoder gives values whose shapes fit their bytes, or an error of the sample.
func FuzzDecode(f *testing.F) {
	files, err := filepath.Glob("testdata/*.*")
	require.NoError(f, err)
	require.NotEmpty(f, files)
	for _, name := range files {
		if src, err := os.ReadFile(name); err == nil && len(src) < 3000 {
			f.Add(src)
		}
	}
	var g, p, j bytes.Buffer
	require.NoError(f, gif.Encode(&g, gradient(5, 4, true), nil))
	require.NoError(f, png.Encode(&p, gradient(5, 4, true)))
	require.NoError(f, jpeg.Encode(&j, gradient(5, 4, true), nil))
	for _, src := range [][]byte{
		g.Bytes(), p.Bytes(), j.Bytes(),
		[]byte(npy(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2), }", "abcdefgh")),
		[]byte(`{"a": [[1, 2], [3, 4]], "b": 1e5, "c": {"a": [true], "d": {"x": []}}, "d": "\u00e9"}`),
		[]byte(" 12\n"), []byte("-1.5e3"),
	} {
		f.Add(src)
	}
	plan, err := decode.Parse(everything)
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, src []byte) {
		for _, field := range plan.Fields() {
			d := plan.Decoder(field)
			if c, _, err := image.DecodeConfig(bytes.NewReader(src)); err == nil && c.Width*c.Height > 1<<22 {
				continue // only slow
			}
			values, err := d.Decode(src, &decode.Scratch{}, &heap{left: 1 << 30}, nil)
			if err != nil {
				var fault *decode.Error
				require.ErrorAs(t, err, &fault)
				continue
			}
			require.Len(t, values, len(d.Columns()))
			for _, v := range values {
				requireFits(t, v)
			}
		}
	})
}

func requireFits(t testing.TB, v decode.Value) {
	t.Helper()
	if v.Absent {
		return
	}
	if !wire.IsArray(v.DType) {
		require.Zero(t, v.NDim)
		if v.DType == wire.JSON {
			require.True(t, json.Valid(v.Data))
		}
		return
	}
	n := wire.ItemSize(v.DType)
	for _, d := range v.Dims[:v.NDim] {
		n *= d
	}
	require.EqualValues(t, n, len(v.Data))
}

// TestNumbersRoundTrip: what Go prints, and lists of it in JSON, is read back bit for bit.
func TestNumbersRoundTrip(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		whole := rapid.SliceOf(rapid.Int64()).Draw(r, "whole")
		floating := rapid.SliceOf(rapid.Float64Range(-1e300, 1e300)).Draw(r, "real")
		doc, err := json.Marshal(map[string]any{"i": append([]int64{}, whole...), "f": append([]float64{}, floating...), "é\"": 1})
		require.NoError(t, err)
		_, v, err := decoded(t, map[string]any{"i": "int", "f": "float"}, string(doc))
		require.NoError(t, err)
		require.Equal(t, len(floating), len(v[0].Data)/8)
		require.ElementsMatch(t, floating, floats(v[0].Data))
		require.ElementsMatch(t, whole, words(v[1].Data))
		for _, n := range whole {
			require.Equal(t, []int64{n}, words(one(t, "int", " "+strconv.FormatInt(n, 10)+"\n").Data))
		}
	})
}

// TestSelectionAgreesWithJSON compares the walk with encoding/json on documents of any form.
func TestSelectionAgreesWithJSON(t *testing.T) {
	key := rapid.SampledFrom([]string{"a", "b", "c", "x", "\"", "\\", "a\n"})
	var value func(depth int) *rapid.Generator[any]
	value = func(depth int) *rapid.Generator[any] {
		leaf := []*rapid.Generator[any]{
			rapid.Just[any](nil), rapid.Just[any](true), rapid.Int64().AsAny(), rapid.Float64().AsAny(), rapid.String().AsAny(),
		}
		if depth > 0 {
			leaf = append(leaf, rapid.Deferred(func() *rapid.Generator[any] { return rapid.SliceOfN(value(depth-1), 0, 4).AsAny() }),
				rapid.Deferred(func() *rapid.Generator[any] { return rapid.MapOfN(key, value(depth-1), 0, 5).AsAny() }))
		}
		return rapid.OneOf(leaf...)
	}
	how := map[string]any{"a": "json", "b": map[string]any{"a": "json", "c": map[string]any{"b": "json"}}, "c": "json"}
	rapid.Check(t, func(r *rapid.T) {
		doc, err := json.MarshalIndent(rapid.MapOfN(key, value(4), 0, 5).Draw(r, "doc"), "", rapid.SampledFrom([]string{"", " ", "\t"}).Draw(r, "indent"))
		require.NoError(t, err)
		columns, v, err := decoded(t, how, string(doc))
		for i, c := range columns {
			want, isObject := lookUp(t, doc, strings.Split(c, ".")[1:])
			if !isObject {
				require.Error(t, err)
				return
			}
			if err != nil {
				continue
			}
			if want == nil {
				require.True(t, v[i].Absent, "%s in %s", c, doc)
				continue
			}
			require.JSONEq(t, string(want), string(v[i].Data))
		}
		require.NoError(t, err)
	})
}

// lookUp follows a path; false where something on it is neither an object nor null.
func lookUp(t testing.TB, doc []byte, path []string) (json.RawMessage, bool) {
	t.Helper()
	at := json.RawMessage(doc)
	for _, name := range path {
		if string(at) == "null" {
			return nil, true
		}
		var object map[string]json.RawMessage
		if json.Unmarshal(at, &object) != nil {
			return nil, false
		}
		var ok bool
		if at, ok = object[name]; !ok {
			return nil, true
		}
	}
	if string(at) == "null" {
		return nil, true
	}
	return at, true
}
