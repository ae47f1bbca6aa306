package archive_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/zeebo/xxh3"

	"github.com/shardstream/shardstream/core/archive"
)

// entry is one entry of an archive under test.
type entry struct {
	name string
	data string
	kind byte
	pax  map[string]string
	form tar.Format
}

func file(name, data string) entry { return entry{name: name, data: data, kind: tar.TypeReg} }

func build(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Typeflag: e.kind, Mode: 0o644, PAXRecords: e.pax, Format: e.form}
		if e.kind == tar.TypeReg {
			h.Size = int64(len(e.data))
		}
		if e.kind == tar.TypeSymlink || e.kind == tar.TypeLink {
			h.Linkname = e.data
		}
		if e.kind == tar.TypeXGlobalHeader {
			h = &tar.Header{Typeflag: e.kind, PAXRecords: e.pax}
		}
		require.NoError(t, w.WriteHeader(h))
		if e.kind == tar.TypeReg {
			_, err := io.WriteString(w, e.data)
			require.NoError(t, err)
		}
	}
	require.NoError(t, w.Close())
	return b.Bytes()
}

func index(data []byte) (*archive.Index, error) {
	x := archive.NewIndexer(archive.Tar)
	if _, err := x.Write(data); err != nil {
		return nil, err
	}
	return x.Finish()
}

// samples renders the grouping: key:field,field.
func samples(x *archive.Index) []string {
	out := []string{}
	for s := range x.NumSamples() {
		first, count := x.Sample(s)
		var fields []string
		for m := first; m < first+count; m++ {
			fields = append(fields, x.Field(m))
		}
		out = append(out, x.Key(s)+":"+strings.Join(fields, ","))
	}
	return out
}

func members(x *archive.Index) []archive.Member {
	var out []archive.Member
	for m := range x.NumMembers() {
		out = append(out, x.Member(m))
	}
	return out
}

func TestGrouping(t *testing.T) {
	long := strings.Repeat("deep/", 60) + "a"
	for name, c := range map[string]struct {
		entries []entry
		samples []string
		members int
	}{
		"plain":       {[]entry{file("a.jpg", "x"), file("a.cls", "1"), file("b.jpg", "yy")}, []string{"a:jpg,cls", "b:jpg"}, 3},
		"first dot":   {[]entry{file("a.seg.png", "x"), file("a.png", "y")}, []string{"a:seg.png,png"}, 2},
		"directories": {[]entry{{name: "d.x/", kind: tar.TypeDir}, file("d.x/a.jpg", "1"), file("e/a.jpg", "2")}, []string{"d.x/a:jpg", "e/a:jpg"}, 2},
		"dot slash":   {[]entry{file("./a.jpg", "1"), file("./b.jpg", "2")}, []string{"./a:jpg", "./b:jpg"}, 2},
		"links":       {[]entry{file("a.jpg", "1"), {name: "a.lnk", data: "/etc/passwd", kind: tar.TypeSymlink}, {name: "a.hard", data: "a.jpg", kind: tar.TypeLink}, file("a.cls", "1")}, []string{"a:jpg,cls"}, 2},
		"pax name":    {[]entry{{name: long + ".jpg", data: "1", kind: tar.TypeReg, form: tar.FormatPAX}, {name: long + ".cls", data: "2", kind: tar.TypeReg, form: tar.FormatPAX}}, []string{long + ":jpg,cls"}, 2},
		"GNU name":    {[]entry{{name: long + ".jpg", data: "1", kind: tar.TypeReg, form: tar.FormatGNU}, file("b.jpg", "2")}, []string{long + ":jpg", "b:jpg"}, 2},
		"ustar name":  {[]entry{{name: strings.Repeat("d", 100) + "/" + strings.Repeat("n", 80) + ".jpg", data: "1", kind: tar.TypeReg, form: tar.FormatUSTAR}}, []string{strings.Repeat("d", 100) + "/" + strings.Repeat("n", 80) + ":jpg"}, 1},
		"no sample":   {[]entry{file("README", "r"), file("._a.jpg", "mac"), file("a.jpg", "1"), file("._a.cls", "mac"), file("a.cls", "2")}, []string{"a:jpg,cls"}, 5},
		"global":      {[]entry{{kind: tar.TypeXGlobalHeader, pax: map[string]string{"comment": "made by git"}}, file("a.jpg", "1")}, []string{"a:jpg"}, 1},
		"empty":       {nil, []string{}, 0},
		"two dots":    {[]entry{file("a..b/c..jpg", "1")}, []string{"a..b/c:.jpg"}, 1},
		"no bytes":    {[]entry{file("a.jpg", ""), file("a.cls", "")}, []string{"a:jpg,cls"}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			data := build(t, c.entries...)
			x, err := index(data)
			require.NoError(t, err)
			require.Equal(t, c.samples, samples(x))
			require.Equal(t, c.members, x.NumMembers())
			for _, m := range members(x) {
				require.Equal(t, xxh3.Hash(data[m.Offset:m.Offset+m.Size]), m.Sum, m.Name)
				found, ok := x.Lookup(m.Name)
				require.True(t, ok)
				require.Equal(t, m, found)
			}
			_, ok := x.Lookup("nobody")
			require.False(t, ok)
		})
	}
}

func TestSampleSizes(t *testing.T) {
	x, err := index(build(t, file("a.jpg", "12345"), file("a.cls", "1"), file("b.jpg", "123")))
	require.NoError(t, err)
	require.EqualValues(t, 6, x.SampleSize(0))
	require.EqualValues(t, 3, x.SampleSize(1))
	require.EqualValues(t, 6, x.MaxSample())
}

// patch changes a header block and mends its checksum.
func patch(data []byte, at int, change func(b []byte)) []byte {
	data = bytes.Clone(data)
	b := data[at : at+512]
	change(b)
	copy(b[148:156], "        ")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return data
}

func TestRefused(t *testing.T) {
	two := build(t, file("a.jpg", strings.Repeat("x", 700)), file("b.jpg", "2"))
	setName := func(name string) []byte {
		return patch(two, 1536, func(b []byte) { clear(b[:100]); copy(b, name) })
	}
	for name, c := range map[string]struct {
		data   []byte
		offset int64
		reason string
	}{
		"nothing":              {nil, 0, "no end-of-archive"},
		"inside a header":      {two[:1600], 1600, "inside a header"},
		"inside a member":      {two[:1000], 1000, "inside a member"},
		"inside padding":       {two[:1300], 1300, "inside a member"},
		"at a member boundary": {two[:1536], 1536, "no end-of-archive"},
		"after the last":       {two[:2560], 2560, "no end-of-archive"},
		"garbage":              {bytes.Repeat([]byte("garbage "), 100), 0, "checksum"},
		"damaged header":       {func() []byte { d := bytes.Clone(two); d[1540] ^= 1; return d }(), 1536, "checksum"},
		"joined archives":      {append(bytes.Clone(two), two...), int64(len(two)), "two archives joined"},
		"zeros, then a member": {append(make([]byte, 512), two...), 512, "two archives joined"},
		"dot dot":              {setName("x/../../b.jpg"), 1536, "leads out"},
		"absolute":             {setName("/etc/b.jpg"), 1536, "absolute"},
		"no name":              {setName(""), 1536, "no name"},
		"directory as file":    {setName("b.jpg/"), 1536, "directory"},
		"negative size":        {patch(two, 1536, func(b []byte) { copy(b[124:136], bytes.Repeat([]byte{0xff}, 12)) }), 1536, "bad size"},
		"size not a number":    {patch(two, 1536, func(b []byte) { copy(b[124:136], "12345678901\x00") }), 1536, "bad size"},
		"huge size":            {patch(two, 1536, func(b []byte) { copy(b[124:136], "\x80\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff") }), 1536, "bad size"},
		"old sparse":           {patch(two, 1536, func(b []byte) { b[156] = 'S' }), 1536, "sparse"},
		"pax sparse":           {paxArchive("22 GNU.sparse.major=1\n"), 1024, "sparse"},
		"NUL in a pax name":    {paxArchive("16 path=a\x00.jpg\n\n"), 0, "NUL"},
		"bad pax length":       {paxArchive("99 path=a\n"), 0, "length"},
		"bad pax size":         {paxArchive("11 size=-1\n"), 1024, "size"},
		"interleaved":          {build(t, file("a.jpg", "1"), file("b.jpg", "2"), file("a.cls", "3")), 2048, `"a" comes back`},
		"same field":           {build(t, file("a.jpg", "1"), file("a.jpg", "2")), 1024, "twice"},
		"same loose name":      {build(t, file("README", "1"), file("a.jpg", "2"), file("README", "2")), 2048, "twice"},
		"long name":            {build(t, entry{name: strings.Repeat("n", 5000) + ".jpg", kind: tar.TypeReg, form: tar.FormatPAX}), 5632, "5004 bytes"},
		"global path":          {build(t, entry{kind: tar.TypeXGlobalHeader, pax: map[string]string{"path": "x.jpg"}}, file("a.jpg", "")), 0, "global"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := index(c.data)
			var bad *archive.FormatError
			require.ErrorAs(t, err, &bad)
			require.Contains(t, bad.Reason, c.reason)
			require.Equal(t, c.offset, bad.Offset)
		})
	}
}

// paxArchive is an archive whose one member has this extended header.
func paxArchive(records string) []byte {
	var b bytes.Buffer
	head := func(kind byte, size int) {
		h := make([]byte, 512)
		copy(h, "a.jpg")
		copy(h[124:], fmt.Sprintf("%011o\x00", size))
		h[156] = kind
		copy(h[257:], "ustar\x0000")
		b.Write(patch(h, 0, func([]byte) {}))
	}
	head('x', len(records))
	b.WriteString(records)
	b.Write(make([]byte, 512-len(records)))
	head('0', 0)
	b.Write(make([]byte, 1024))
	return b.Bytes()
}

func TestBase256Size(t *testing.T) {
	data := patch(build(t, file("a.jpg", "12345")), 0, func(b []byte) {
		copy(b[124:136], "\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x05")
	})
	x, err := index(data)
	require.NoError(t, err)
	require.EqualValues(t, 5, x.Member(0).Size)
}

func TestPaxSize(t *testing.T) {
	data := paxArchive("10 size=3\n")
	data = append(append(data[:1536:1536], append([]byte("abc"), make([]byte, 509)...)...), make([]byte, 1024)...)
	x, err := index(data)
	require.NoError(t, err)
	require.EqualValues(t, 3, x.Member(0).Size)
	require.Equal(t, xxh3.HashString("abc"), x.Member(0).Sum)
}

// big is an archive of n samples of two members each.
func big(t testing.TB, n, size int) []byte {
	var entries []entry
	r := rand.New(rand.NewPCG(1, 2))
	for i := range n {
		data := make([]byte, size/2+r.IntN(size))
		for j := range data {
			data[j] = byte(r.Uint32())
		}
		key := fmt.Sprintf("train/%06d", i)
		entries = append(entries, file(key+".jpg", string(data)), file(key+".cls", "123"))
	}
	return build(t, entries...)
}

func TestAnyChunking(t *testing.T) {
	data := append(big(t, 40, 900), make([]byte, 3000)...)
	want, err := index(data)
	require.NoError(t, err)
	for _, chunk := range []int{1, 7, 511, 512, 513, 4096} {
		x := archive.NewIndexer(archive.Tar)
		for rest := data; len(rest) > 0; {
			n := min(chunk, len(rest))
			w, err := x.Write(rest[:n])
			require.NoError(t, err)
			require.Equal(t, n, w)
			rest = rest[n:]
		}
		got, err := x.Finish()
		require.NoError(t, err)
		require.Equal(t, members(want), members(got), "chunks of %d", chunk)
	}
}

func TestStoredForm(t *testing.T) {
	for name, data := range map[string][]byte{
		"big":   big(t, 300, 100),
		"empty": build(t),
		"loose": build(t, file("README", "r"), file("a.jpg", "1"), file("notes", "n"), file("a.cls", "2")),
	} {
		t.Run(name, func(t *testing.T) {
			want, err := index(data)
			require.NoError(t, err)
			b, err := want.MarshalBinary()
			require.NoError(t, err)
			got, err := archive.UnmarshalIndex(b)
			require.NoError(t, err)
			require.Equal(t, members(want), members(got))
			require.Equal(t, samples(want), samples(got))
			require.Equal(t, want.MaxSample(), got.MaxSample())
			for cut := 0; cut < len(b); cut += 1 + cut/50 {
				_, err := archive.UnmarshalIndex(b[:cut])
				var bad *archive.FormatError
				require.ErrorAs(t, err, &bad, "cut at %d", cut)
			}
			_, err = archive.UnmarshalIndex(append(b, 0))
			require.Error(t, err)
		})
	}
}

func TestAccessDoesNotAllocate(t *testing.T) {
	x, err := index(big(t, 50, 100))
	require.NoError(t, err)
	name := x.Member(30).Name
	x.Lookup(name)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		first, count := x.Sample(7)
		_ = x.Key(7)
		for m := first; m < first+count; m++ {
			_, _ = x.Field(m), x.Member(m)
		}
		if _, ok := x.Lookup(name); !ok {
			panic("member is gone")
		}
	}))
}

func TestOpaque(t *testing.T) {
	x := archive.NewIndexer(archive.None)
	_, err := x.Write([]byte("anything"))
	require.NoError(t, err)
	got, err := x.Finish()
	require.NoError(t, err)
	require.Zero(t, got.NumMembers()+got.NumSamples())
	require.Equal(t, archive.Tar, archive.FormatOf("a/b.TAR"))
	require.Equal(t, archive.None, archive.FormatOf("a/b.tar.gz"))
	require.Equal(t, archive.None, archive.FormatOf(".tar"))
}

func TestErrorSticks(t *testing.T) {
	x := archive.NewIndexer(archive.Tar)
	_, first := x.Write(bytes.Repeat([]byte{1}, 600))
	_, again := x.Write(make([]byte, 10))
	_, last := x.Finish()
	require.Error(t, first)
	require.True(t, errors.Is(again, first) && errors.Is(last, first))
}
