package archive_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"path"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/zeebo/xxh3"

	"github.com/shardstream/shardstream/core/archive"
)

// FuzzIndexer holds the indexer to archive/tar: what that reads, and our rules allow, we must index
// with the same names and bytes, in any chunking.
func FuzzIndexer(f *testing.F) {
	f.Add(build(f, file("a.jpg", "1"), file("a.cls", "2"), file("b.jpg", "3")), uint16(0))
	f.Add(build(f, entry{name: strings.Repeat("d/", 100) + "a.jpg", data: "1", kind: tar.TypeReg, form: tar.FormatPAX}), uint16(7))
	f.Add(build(f, entry{name: strings.Repeat("d/", 100) + "a.jpg", data: "1", kind: tar.TypeReg, form: tar.FormatGNU}), uint16(512))
	f.Add(build(f, entry{name: "d/", kind: tar.TypeDir}, entry{name: "d/l", data: "x", kind: tar.TypeSymlink}, file("README", "r")), uint16(100))
	f.Add(paxArchive("10 size=3\n"), uint16(1))
	f.Add(build(f, entry{kind: tar.TypeXGlobalHeader, pax: map[string]string{"comment": "c"}}, file("a.jpg", "")), uint16(3))
	f.Fuzz(func(t *testing.T, data []byte, chunk uint16) {
		if len(data) > 1<<16 {
			return
		}
		data = mend(data)
		x := archive.NewIndexer(archive.Tar)
		var err error
		for rest := data; len(rest) > 0 && err == nil; {
			n := len(rest)
			if chunk > 0 {
				n = min(n, int(chunk))
			}
			_, err = x.Write(rest[:n])
			rest = rest[n:]
		}
		got, finishErr := x.Finish()
		if err != nil {
			require.Equal(t, err, finishErr)
		}
		want, ok := readAll(data)
		if finishErr != nil {
			var bad *archive.FormatError
			require.ErrorAs(t, finishErr, &bad)
			require.LessOrEqual(t, bad.Offset, int64(len(data)))
			stricter := strings.Contains(bad.Reason, "truncated") || strings.Contains(bad.Reason, "end of the archive")
			require.True(t, !ok || stricter, "archive/tar reads it: %v", finishErr)
			return
		}
		for _, m := range members(got) {
			require.Equal(t, xxh3.Hash(data[m.Offset:m.Offset+m.Size]), m.Sum)
		}
		if ok {
			found := map[string]uint64{}
			for _, m := range members(got) {
				found[m.Name] = m.Sum
			}
			require.Equal(t, want, found)
		}
		b, err := got.MarshalBinary()
		require.NoError(t, err)
		again, err := archive.UnmarshalIndex(b)
		require.NoError(t, err)
		require.Equal(t, members(got), members(again))
	})
}

// mend sets the checksum of every block that looks like a header, so that the fuzzer gets past it.
func mend(data []byte) []byte {
	for at := 0; at+512 <= len(data); at += 512 {
		if string(data[at+257:at+262]) == "ustar" {
			data = patch(data, at, func([]byte) {})
		}
	}
	return data
}

// readAll reads an archive with archive/tar: the checksum of each member by name. Not ok: it can't be
// read, or breaks a rule of ours.
func readAll(data []byte) (map[string]uint64, bool) {
	out := map[string]uint64{}
	r := tar.NewReader(bytes.NewReader(data))
	last, keys := "\x00", map[string]bool{}
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out, true
		}
		if err != nil {
			return nil, false
		}
		for k, v := range h.PAXRecords {
			global := h.Typeflag == tar.TypeXGlobalHeader && (k == "path" || k == "size") && v != ""
			if global || strings.HasPrefix(k, "GNU.sparse.") || k == "" {
				return nil, false
			}
		}
		switch h.Typeflag {
		case tar.TypeGNUSparse:
			return nil, false
		case tar.TypeReg, tar.TypeCont:
		default:
			continue
		}
		body, err := io.ReadAll(r)
		if err != nil {
			return nil, false
		}
		_, twice := out[h.Name]
		if twice || !sane(h.Name) {
			return nil, false
		}
		if key, ok := keyOf(h.Name); ok && key != last {
			if keys[key] {
				return nil, false
			}
			last, keys[key] = key, true
		}
		out[h.Name] = xxh3.Hash(body)
	}
}

func sane(name string) bool {
	if name == "" || len(name) > 4096 || name[0] == '/' || strings.HasSuffix(name, "/") || strings.Contains(name, "\x00") {
		return false
	}
	for seg := range strings.SplitSeq(name, "/") {
		if seg == ".." {
			return false
		}
	}
	return true
}

func keyOf(name string) (string, bool) {
	dir, base := path.Split(name)
	i := strings.IndexByte(base, '.')
	if i < 1 {
		return "", false
	}
	return dir + base[:i], true
}

// FuzzUnmarshalIndex feeds the stored form with damage: an error or an index that can be walked.
func FuzzUnmarshalIndex(f *testing.F) {
	for _, data := range [][]byte{build(f), big(f, 5, 10), build(f, file("README", "r"), file("a.jpg", "1"))} {
		x, err := index(data)
		require.NoError(f, err)
		b, err := x.MarshalBinary()
		require.NoError(f, err)
		f.Add(b)
		x, err = (&remote{data: data}).scan(archive.ScanOptions{})
		require.NoError(f, err)
		b, err = x.MarshalBinary()
		require.NoError(f, err)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		x, err := archive.UnmarshalIndex(data)
		if err != nil {
			var bad *archive.FormatError
			require.ErrorAs(t, err, &bad)
			return
		}
		for _, m := range members(x) {
			found, ok := x.Lookup(m.Name)
			require.True(t, ok)
			require.Equal(t, m, found)
		}
		_ = samples(x)
		b, err := x.MarshalBinary()
		require.NoError(t, err)
		again, err := archive.UnmarshalIndex(b)
		require.NoError(t, err)
		require.Equal(t, members(x), members(again))
	})
}
