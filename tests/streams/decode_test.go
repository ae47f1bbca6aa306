package streams_test

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/wire"
	"github.com/shardstream/shardstream/loader"
	"github.com/shardstream/shardstream/tests/arena"
)

// member is a file of a tar.
type member struct{ name, data string }

func packed(t testing.TB, members []member) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, m := range members {
		require.NoError(t, w.WriteHeader(&tar.Header{Name: m.name, Mode: 0o644, Size: int64(len(m.data)), Format: tar.FormatUSTAR}))
		_, err := w.Write([]byte(m.data))
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return buf.Bytes()
}

// picture is an image of one colour.
func picture(t testing.TB, w, h int, c color.NRGBA) string {
	t.Helper()
	img := image.NewNRGBA(image.Rect(0, 0, w, h))
	for i := 0; i < len(img.Pix); i += 4 {
		copy(img.Pix[i:], []byte{c.R, c.G, c.B, c.A})
	}
	var b bytes.Buffer
	require.NoError(t, png.Encode(&b, img))
	return b.String()
}

// pictures fills shards with samples of every kind of field; edit may spoil some.
func pictures(t testing.TB, c *cluster, shards, samples int, edit func(n int, m []member) []member) *cluster {
	t.Helper()
	for s := range shards {
		var members []member
		for i := range samples {
			n, key := s*samples+i, keyOf(s, i)
			m := []member{
				{key + ".png", picture(t, 5, 4, color.NRGBA{uint8(n), uint8(n + 1), uint8(n + 2), 255})},
				{key + ".cls", fmt.Sprintf(" %d\n", n)},
				{key + ".json", fmt.Sprintf(`{"label": %d, "box": [%d, 0.5, 1, 2], "name": "n%d"}`, n, n, n)},
				{key + ".bin", strings.Repeat("x", n)},
			}
			if edit != nil {
				m = edit(n, m)
			}
			members = append(members, m...)
		}
		c.put(fmt.Sprintf("train-%04d.tar", s), packed(t, members))
	}
	c.seal()
	return c
}

// numberOf is a sample's number by its key.
func numberOf(t testing.TB, key string, samples int) int {
	t.Helper()
	var shard, at int
	_, err := fmt.Sscanf(key, "s%d/%d", &shard, &at)
	require.NoError(t, err)
	return shard*samples + at
}

var decodeAll = map[string]any{"png": "rgb8", "cls": "int", "json": map[string]any{"label": "int", "box": "float", "name": "text"}}

func TestFieldsAreDecodedOnTheTargets(t *testing.T) {
	for _, batch := range []int{1, 16} {
		c := pictures(t, newCluster(t, 3), 4, 23, nil)
		got := run(t, open(t, c, func(cfg *loader.Config) { cfg.BatchSize, cfg.Decode = batch, decodeAll }), loader.Run{})
		require.Equal(t, c.planned(0), keysOf(got))
		for _, b := range got {
			checkDecoded(t, b, 23)
		}
	}
}

func checkDecoded(t testing.TB, b arena.Batch, samples int) {
	t.Helper()
	require.Len(t, b.Columns, 6)
	img, cls, box := b.Columns["png"], b.Columns["cls"], b.Columns["json.box"]
	require.EqualValues(t, wire.Uint8, img.DType)
	require.Equal(t, []int64{4, 5, 3}, img.Dims)
	require.EqualValues(t, wire.Int64, cls.DType)
	require.Empty(t, cls.Dims)
	require.EqualValues(t, wire.Float64, box.DType)
	require.Equal(t, []int64{4}, box.Dims)
	for i, k := range b.Keys {
		n := numberOf(t, k, samples)
		require.Equal(t, strings.Repeat(string([]byte{byte(n), byte(n + 1), byte(n + 2)}), 20), string(img.Dense[60*i:60*i+60]), k)
		require.EqualValues(t, n, binary.LittleEndian.Uint64(cls.Dense[8*i:]))
		require.EqualValues(t, n, binary.LittleEndian.Uint64(b.Columns["json.label"].Dense[8*i:]))
		require.Equal(t, fmt.Sprintf("n%d", n), string(b.Columns["json.name"].Ragged[i]))
		require.Equal(t, strings.Repeat("x", n), string(b.Columns["bin"].Ragged[i]), "what is not decoded comes as it is")
	}
}

func TestDecodedStreamsResume(t *testing.T) {
	c := pictures(t, newCluster(t, 2), 3, 20, nil)
	decoding := func(cfg *loader.Config) { cfg.BatchSize, cfg.Decode = 7, decodeAll }
	all := run(t, open(t, c, decoding), loader.Run{})
	rest := run(t, open(t, c, decoding), loader.Run{Position: all[2].Next})
	require.Equal(t, all[3:], renumber(rest, 3))
}

func TestImagesOfDifferentSizesAreRagged(t *testing.T) {
	c := pictures(t, newCluster(t, 2), 2, 20, func(n int, m []member) []member {
		m[0].data = picture(t, 1+n%3, 2, color.NRGBA{9, 8, 7, 255})
		return m
	})
	for _, b := range run(t, open(t, c, func(cfg *loader.Config) { cfg.Decode = map[string]any{"png": "gray8"} }), loader.Run{}) {
		require.EqualValues(t, 1, b.Columns["png"].Kind)
		for i, k := range b.Keys {
			require.Len(t, b.Columns["png"].Ragged[i], 2*(1+numberOf(t, k, 20)%3))
		}
	}
}

func TestFieldThatCantBeDecodedFailsItsSample(t *testing.T) {
	spoil := map[int]struct {
		member int
		data   string
		says   string
	}{
		3:  {0, "not a png", `field "png": not an image`},
		11: {1, "cat", `field "cls": "cat" is not a whole number`},
		25: {2, `{"label": 1.5}`, `field "json.label": "1.5" is not a whole number`},
		30: {2, `{"label": `, "is not JSON"},
	}
	c := pictures(t, newCluster(t, 2), 2, 20, func(n int, m []member) []member {
		if s, ok := spoil[n]; ok {
			m[s.member].data = s.data
		}
		return m
	})
	skipping := open(t, c, func(cfg *loader.Config) { cfg.BatchSize, cfg.Decode, cfg.OnError = 10, decodeAll, loader.Skip })
	total := 0
	for _, b := range run(t, skipping, loader.Run{}) {
		total += len(b.Keys)
		checkDecoded(t, b, 20)
	}
	require.Equal(t, 36, total)
	var want []string
	for n := range spoil {
		want = append(want, keyOf(n/20, n%20))
	}
	require.ElementsMatch(t, want, skipping.Stats().SkippedKeys)

	for n, s := range spoil {
		raising := open(t, c, func(cfg *loader.Config) { cfg.BatchSize, cfg.Decode, cfg.Shuffle = 1, decodeAll, "none" })
		require.NoError(t, raising.Start(loader.Run{Position: int64(n)}))
		_, err := next(t, raising)
		var se *loader.SampleError
		require.ErrorAs(t, err, &se)
		require.Equal(t, api.CodeDecodeFailed, se.Code)
		require.Equal(t, keyOf(n/20, n%20), se.Key)
		require.Contains(t, se.Message, s.says)
		require.Contains(t, se.Message, fmt.Sprintf("ss://b/train-%04d.tar", n/20))
	}
}

func TestDamagedBytesAreNotDecoded(t *testing.T) {
	c := pictures(t, newCluster(t, 1), 1, 20, nil)
	_, files, err := c.targets[0].store.Locate("b", "train-0000.tar")
	require.NoError(t, err)
	data, err := os.ReadFile(files[0])
	require.NoError(t, err)
	at := bytes.Index(data, []byte(" 7\n"))
	require.Positive(t, at)
	data[at+1] = '8'
	require.NoError(t, os.WriteFile(files[0], data, 0o600))
	l := open(t, c, func(cfg *loader.Config) { cfg.Decode = decodeAll })
	require.NoError(t, l.Start(loader.Run{}))
	_, err = drain(t, l)
	var se *loader.SampleError
	require.ErrorAs(t, err, &se)
	require.Equal(t, api.CodeCorrupt, se.Code)
	require.Equal(t, keyOf(0, 7), se.Key)
}

func TestDecodersMeetWhatAnETLReturns(t *testing.T) {
	c := pictures(t, newCluster(t, 2), 2, 20, nil)
	c.deploy(`
def transform(sample):
    n = int(sample["cls"])
    return {"png": sample["png"], "cls": str(n + 1), "json": b'{"label": %d}' % n, "odd": n if n == 33 else b"5"}
`)
	decoding := func(cfg *loader.Config) {
		withETL(cfg)
		cfg.Decode = map[string]any{"png": "rgb8", "cls": "int", "json": map[string]any{"label": "int"}}
		cfg.Fields = []string{"png", "cls", "json"}
	}
	for _, b := range run(t, open(t, c, decoding), loader.Run{}) {
		require.Equal(t, []int64{4, 5, 3}, b.Columns["png"].Dims)
		for i, k := range b.Keys {
			n := numberOf(t, k, 20)
			require.EqualValues(t, n+1, binary.LittleEndian.Uint64(b.Columns["cls"].Dense[8*i:]))
			require.EqualValues(t, n, binary.LittleEndian.Uint64(b.Columns["json.label"].Dense[8*i:]))
		}
	}
	l := open(t, c, func(cfg *loader.Config) {
		withETL(cfg)
		cfg.Fields, cfg.Decode = []string{"odd"}, map[string]any{"odd": "int"}
	})
	require.NoError(t, l.Start(loader.Run{}))
	_, err := drain(t, l)
	require.ErrorContains(t, err, `field "odd": comes from the etl as int64`)
}

func TestDecodersThatFindNothing(t *testing.T) {
	c := pictures(t, newCluster(t, 2), 2, 20, nil)
	for says, how := range map[string]map[string]any{
		`[\"jpeg\"]`:                {"jpeg": "rgb8"},
		"there is no decoder":       {"png": "rgb"},
		`makes a column of this na`: {"json": map[string]any{"x": "int"}, "bin": "bytes"},
	} {
		c := c
		if _, ok := how["bin"]; ok {
			c = pictures(t, newCluster(t, 1), 1, 5, func(_ int, m []member) []member {
				return append(m, member{strings.Replace(m[3].name, ".bin", ".json.x", 1), "7"})
			})
		}
		l := open(t, c, func(cfg *loader.Config) { cfg.Decode = how })
		require.NoError(t, l.Start(loader.Run{}))
		_, err := drain(t, l)
		require.ErrorContains(t, err, strings.ReplaceAll(says, `\`, ""))
	}
}

func TestMemberThatIsMissingOrNullIsNone(t *testing.T) {
	c := pictures(t, newCluster(t, 2), 2, 20, func(n int, m []member) []member {
		if n%2 == 1 {
			m[2].data = `{"label": null}`
		}
		return m
	})
	how := map[string]any{"json": map[string]any{"label": "int", "name": "text"}}
	for _, b := range run(t, open(t, c, func(cfg *loader.Config) { cfg.Decode = how }), loader.Run{}) {
		for i, k := range b.Keys {
			odd := numberOf(t, k, 20)%2 == 1
			require.Equal(t, odd, b.Columns["json.label"].Ragged[i] == nil)
			require.Equal(t, odd, b.Columns["json.name"].Ragged[i] == nil)
		}
	}
}
