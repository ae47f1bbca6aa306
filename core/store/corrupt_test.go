package store_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/core/archive"
	"github.com/shardstream/shardstream/core/store"
)

func flip(t testing.TB, path string, off int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	b := make([]byte, 1)
	_, err = f.ReadAt(b, off)
	require.NoError(t, err)
	b[0] ^= 0x10
	_, err = f.WriteAt(b, off)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

// TestFlippedByte flips one byte anywhere in a data file: reads of the block fail and name it, reads of others go on,
// fsck finds it, and no wrong byte comes out.
func TestFlippedByte(t *testing.T) {
	o := options(t.TempDir())
	s := open(t, o)
	data := payload(1, 1<<20+500)
	put(t, s, "b", "o", data)
	_, files, err := s.Locate("b", "o")
	require.NoError(t, err)
	r := rand.New(rand.NewPCG(5, 6))
	for range 40 {
		off := r.Int64N(int64(len(data)))
		flip(t, files[0], off)
		obj, err := s.Open("b", "o")
		require.NoError(t, err)
		var bad *store.CorruptError
		p := make([]byte, 10)
		start := max(off-5, 0)
		n, err := obj.ReadAt(p, start)
		require.ErrorAs(t, err, &bad)
		require.True(t, bytes.Equal(data[start:start+int64(n)], p[:n]))
		require.True(t, bytes.Equal(make([]byte, 10-n), p[n:]), "nothing of the damaged block")
		require.Equal(t, []any{"b", "o", "disk-1", off / store.BlockSize, off / store.BlockSize * store.BlockSize},
			[]any{bad.Bucket, bad.Name, bad.Disk, bad.Block, bad.Offset})
		require.Contains(t, err.Error(), fmt.Sprintf("b/o on disk disk-1 is damaged: block %d", off/store.BlockSize))

		var out bytes.Buffer
		w, err := obj.WriteRange(&out, 0, int64(len(data)))
		require.ErrorAs(t, err, &bad)
		require.EqualValues(t, out.Len(), w)
		require.True(t, bytes.Equal(data[:w], out.Bytes()))
		require.ErrorAs(t, obj.VerifyRange(off, 1), &bad)
		elsewhere := (off + 2*store.BlockSize) % (1 << 20)
		if elsewhere/store.BlockSize != off/store.BlockSize {
			require.NoError(t, obj.VerifyRange(elsewhere, 1))
		}
		report, err := s.Fsck(ctx)
		require.NoError(t, err)
		require.Len(t, report.Corrupt, 1)
		require.Empty(t, report.Missing)
		require.Empty(t, report.Stray)
		f := report.Corrupt[0]
		require.Equal(t, []any{"disk-1", "b", "o", files[0], off / store.BlockSize}, []any{f.Disk, f.Bucket, f.Name, f.File, f.Block})
		flip(t, files[0], off)
		require.NoError(t, obj.Close())
	}
	clean(t, s, o, 1)
}

// TestFlippedTrailer flips bytes in all parts behind the payload, one at a time.
func TestFlippedTrailer(t *testing.T) {
	o := options(t.TempDir())
	data := tarOf(t, map[string][]byte{"a.jpg": payload(1, 70_000), "b.jpg": payload(2, 9)})
	s := open(t, o)
	_, err := s.Put(ctx, "b", "s.tar", bytes.NewReader(data), store.PutOptions{Size: -1, Archive: archive.Tar})
	require.NoError(t, err)
	_, files, err := s.Locate("b", "s.tar")
	require.NoError(t, err)
	stat, err := os.Stat(files[0])
	require.NoError(t, err)
	put(t, s, "b", "other", nil)
	for off := int64(len(data)); off < stat.Size(); off += 5 { // each takes a new store
		flip(t, files[0], off)
		// Push the object out of the cache without touching its file.
		require.NoError(t, s.Close())
		s, err = store.Open(o)
		require.NoError(t, err)
		report, err := s.Fsck(ctx)
		require.NoError(t, err)
		require.Len(t, report.Corrupt, 1, "byte %d", off)
		require.EqualValues(t, -1, report.Corrupt[0].Block)
		require.Empty(t, report.Missing)
		require.Empty(t, report.Stray)
		obj, err := s.Open("b", "s.tar")
		var bad *store.CorruptError
		if err == nil {
			var out bytes.Buffer
			_, err = obj.WriteRange(&out, 0, int64(len(data)))
			require.NoError(t, err)
			require.True(t, bytes.Equal(data, out.Bytes()))
			if _, err = obj.Index(); err != nil {
				require.ErrorAs(t, err, &bad)
			}
			require.NoError(t, obj.Close())
		} else {
			require.ErrorAs(t, err, &bad)
			require.EqualValues(t, -1, bad.Block)
			require.Equal(t, "disk-1", bad.Disk)
		}
		flip(t, files[0], off)
	}
	require.NoError(t, s.Close())
	clean(t, open(t, o), o, 2)
}

func TestCutOffMissingAndStrayFiles(t *testing.T) {
	o := options(t.TempDir())
	s := open(t, o)
	data := payload(1, 300_000)
	for _, name := range []string{"cut", "gone", "swapped", "twin", "fine"} {
		put(t, s, "b", name, data)
	}
	file := func(name string) string {
		_, files, err := s.Locate("b", name)
		require.NoError(t, err)
		return files[0]
	}
	require.NoError(t, os.Truncate(file("cut"), 200_000))
	require.NoError(t, os.Remove(file("gone")))
	twin, err := os.ReadFile(file("twin"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file("swapped"), twin, 0o600))
	root := o.Disks[0].Path
	strays := []string{
		filepath.Join(root, "data", "00", "00112233445566778899aabbccddeeff"),
		filepath.Join(root, "data", "00", "notes.txt"),
		filepath.Join(root, "tmp", "11112233445566778899aabbccddeeff"),
	}
	for _, p := range strays {
		require.NoError(t, os.WriteFile(p, []byte("x"), 0o600))
	}
	for name, detail := range map[string]string{"cut": "", "gone": "missing", "swapped": "not the one"} {
		_, err := s.Open("b", name)
		var bad *store.CorruptError
		require.ErrorAs(t, err, &bad, name)
		require.Contains(t, err.Error(), detail)
	}
	report, err := s.Fsck(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 5, report.Objects)
	require.Equal(t, []string{"cut", "swapped"}, []string{report.Corrupt[0].Name, report.Corrupt[1].Name})
	require.Len(t, report.Corrupt, 2)
	require.Len(t, report.Missing, 1)
	require.Equal(t, "gone", report.Missing[0].Name)
	var found []string
	for _, f := range report.Stray {
		found = append(found, f.File)
	}
	require.ElementsMatch(t, strays, found)
	for _, p := range strays {
		require.FileExists(t, p, "fsck changes nothing")
	}
	// The next start clears what a crash can have left; what is not the store's own stays.
	require.NoError(t, s.Close())
	s = open(t, o)
	report, err = s.Fsck(ctx)
	require.NoError(t, err)
	require.Len(t, report.Stray, 1)
	require.Equal(t, strays[1], report.Stray[0].File)
}

// TestMetadataFromFiles: the files alone are enough.
func TestMetadataFromFiles(t *testing.T) {
	o := options(t.TempDir(), t.TempDir())
	s := open(t, o)
	shard := tarOf(t, map[string][]byte{"a.jpg": payload(1, 1000)})
	var want []store.Info
	for i := range 20 {
		info, err := s.Put(ctx, "b", fmt.Sprintf("%02d.tar", i), bytes.NewReader(shard), store.PutOptions{
			Size: -1, Archive: archive.Tar, ContentType: "application/x-tar", Meta: map[string]string{"i": fmt.Sprint(i)},
		})
		require.NoError(t, err)
		want = append(want, info)
	}
	require.NoError(t, s.Close())
	require.NoError(t, os.RemoveAll(filepath.Join(o.Disks[0].Path, "meta")))
	s = open(t, o)
	got, _, err := s.List("b", "", "", 0)
	require.NoError(t, err)
	require.Equal(t, want, got)
	clean(t, s, o, 20)
}

func TestIndexIsShared(t *testing.T) {
	s, _ := fresh(t)
	_, err := s.Put(ctx, "b", "s.tar", bytes.NewReader(tarOf(t, map[string][]byte{"a.jpg": nil})), store.PutOptions{Size: -1, Archive: archive.Tar})
	require.NoError(t, err)
	var seen *archive.Index
	for range 3 {
		obj, err := s.Open("b", "s.tar")
		require.NoError(t, err)
		x, err := obj.Index()
		require.NoError(t, err)
		require.True(t, seen == nil || seen == x)
		seen = x
		_, err = obj.WriteRange(io.Discard, 0, obj.Info().Size)
		require.NoError(t, err)
		require.NoError(t, obj.Close())
	}
}
