package transfer_test

import (
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/transfer"
	"github.com/shardstream/shardstream/core/backend"
)

func TestWhereFilesGo(t *testing.T) {
	source := folder(t, map[string]string{"top.tar": "t", "a/1.tar": "1", "a/b/2.txt": "2", "a.txt": "x"})
	for _, c := range []struct {
		name   string
		from   []string
		to     string
		result map[string]string
	}{
		{"a file to a name", []string{"top.tar"}, "new", map[string]string{"new": "t"}},
		{"a file to a folder", []string{"top.tar"}, "new/", map[string]string{"new/top.tar": "t"}},
		{"a file to a folder that is there", []string{"top.tar"}, "", map[string]string{"top.tar": "t"}},
		{"a folder", []string{"a"}, "new", map[string]string{"new/1.tar": "1", "new/b/2.txt": "2"}},
		{"a folder with a slash", []string{"a/"}, "new/", map[string]string{"new/1.tar": "1", "new/b/2.txt": "2"}},
		{"several", []string{"top.tar", "a"}, "new", map[string]string{"new/top.tar": "t", "new/1.tar": "1", "new/b/2.txt": "2"}},
		{"a pattern", []string{"*.t?r"}, "new/", map[string]string{"new/top.tar": "t"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			args := []string{}
			for _, from := range c.from {
				args = append(args, source+"/"+from)
			}
			totals, _, err := cp(t, opener(nil), nil, append(args, dir+"/"+c.to)...)
			require.NoError(t, err)
			require.Equal(t, c.result, onDisk(t, dir))
			require.EqualValues(t, len(c.result), totals.Copied)
		})
	}
}

func TestWhereObjectsGo(t *testing.T) {
	m := newMemory()
	for name, content := range map[string]string{
		"set/train-0.tar": "0", "set/train-1.tar": "1", "set/deep/2.tar": "2", "set": "object", "set2/x": "x", "odd/[a]*": "odd",
		"set/folder/": "",
	} {
		m.set(name, content)
	}
	for _, c := range []struct {
		from, to string
		result   map[string]string
	}{
		{"s3://memory/set/train-0.tar", "new", map[string]string{"new": "0"}},
		{"s3://memory/set", "", map[string]string{"set": "object"}}, // an object before a folder of that name
		{"s3://memory/set/", "", map[string]string{"train-0.tar": "0", "train-1.tar": "1", "deep/2.tar": "2"}},
		{"s3://memory/set/deep", "", map[string]string{"2.tar": "2"}},
		{"s3://memory/set/train-{0..1}.tar", "", map[string]string{"train-0.tar": "0", "train-1.tar": "1"}},
		{"s3://memory/s*/train-0.tar", "", map[string]string{"set/train-0.tar": "0"}},
		{"=s3://memory/odd/[a]*", "", map[string]string{"[a]*": "odd"}},
	} {
		t.Run(c.from, func(t *testing.T) {
			dir := t.TempDir()
			_, seen, err := cp(t, opener(m), nil, c.from, dir+"/"+c.to)
			require.NoError(t, err)
			require.Empty(t, seen.errors())
			require.Equal(t, c.result, onDisk(t, dir))
		})
	}
	_, _, err := cp(t, opener(m), nil, "s3://memory/nothing", t.TempDir())
	require.ErrorContains(t, err, "there is no such file, nor any below")
	_, seen, err := cp(t, opener(m), nil, "s3://memory/set/train-{0..3}.tar", t.TempDir()+"/")
	require.NoError(t, err)
	require.Contains(t, seen.errors(), "there is no file s3://memory/set/train-2.tar")
}

func TestUploads(t *testing.T) {
	m, dir := newMemory(), folder(t, map[string]string{"a": "1", "b/c": strings.Repeat("2", 100_000)})
	totals, seen, err := cp(t, opener(m), nil, dir, "s3://memory/to/here")
	require.NoError(t, err)
	require.Empty(t, seen.errors())
	require.EqualValues(t, 100_001, totals.Bytes)
	require.EqualValues(t, 100_001, seen.moved.Load(), "the pass for checksums is not counted")
	require.Equal(t, map[string]string{"to/here/a": "1", "to/here/b/c": strings.Repeat("2", 100_000)}, contents(t, m.side()))
}

func TestCopiesOntoThemselvesAreRefused(t *testing.T) {
	dir := folder(t, map[string]string{"a": "1", "below/b": "2"})
	require.NoError(t, os.Symlink(dir, filepath.Join(dir, "..", "link")))
	m := newMemory()
	m.set("x/a", "1")
	for _, args := range [][]string{
		{dir, dir},
		{dir, dir + "/below/new"},
		{dir + "/below", dir},
		{dir, filepath.Join(dir, "..", "link", "new")},
		{dir + "/a", dir + "/below/../a"},
		{dir + "/a", dir},
		{"s3://memory/x", "s3://memory/x/y"},
		{"s3://memory/x/", "s3://memory/"},
		{"s3://memory/x/a", "s3://memory/x/"},
	} {
		_, _, err := cp(t, opener(m), nil, args...)
		var refusal *transfer.Refusal
		require.ErrorAs(t, err, &refusal, "%v", args)
	}
	require.Equal(t, map[string]string{"a": "1", "below/b": "2"}, onDisk(t, dir))
	_, _, err := cp(t, opener(m), nil, dir+"/a", dir+"/copy")
	require.NoError(t, err)
}

func TestNamesThatAFolderCannotHave(t *testing.T) {
	m := newMemory()
	long := strings.Repeat("n", 300)
	for _, name := range []string{"good", "../up", "a//b", "a/./b", "/etc/x", long, "dir", "dir/file", "in/" + long, ".shardstream-1.part"} {
		m.set(name, "content")
	}
	outside := t.TempDir()
	dir := filepath.Join(outside, "inside")
	o, seen := options()
	o.Jobs = 1 // "dir" comes before "dir/file"
	totals, err := transfer.Sync(t.Context(), m.side(), transfer.NewLocal(dir, false), o)
	require.NoError(t, err)
	require.Equal(t, map[string]string{"inside/good": "content", "inside/dir": "content"}, onDisk(t, outside))
	require.EqualValues(t, 8, totals.Failed)
	for _, says := range []string{
		"s3://memory", "an empty, . or .. part", "at most 255", "a file and a folder can't have the same name", "copies under way",
	} {
		require.Contains(t, seen.errors()+"s3://memory", says)
	}
}

func TestLinksLeadNowhereElse(t *testing.T) {
	outside := folder(t, map[string]string{"secret": "s"})
	dir := folder(t, map[string]string{"file": "f"})
	require.NoError(t, os.Symlink(outside+"/secret", dir+"/link"))
	require.NoError(t, os.Symlink("file", dir+"/inner"))
	require.NoError(t, os.Symlink(outside, dir+"/folder"))

	m := newMemory()
	totals, seen, err := cp(t, opener(m), nil, dir, "s3://memory/")
	require.NoError(t, err)
	require.EqualValues(t, 1, totals.Failed)
	require.Contains(t, seen.errors(), "--follow-links")
	require.Equal(t, map[string]string{"file": "f", "inner": "f"}, contents(t, m.side()))

	follow := opener(m)
	follow.FollowLinks = true
	totals, seen, err = cp(t, follow, nil, dir, "s3://memory/")
	require.NoError(t, err)
	require.Empty(t, seen.errors())
	require.EqualValues(t, 3, totals.Copied)
	require.Equal(t, "s", contents(t, m.side())["link"])

	// A link in the destination is no way out of it either.
	up := newMemory()
	up.set("folder/secret", "overwritten")
	totals, _, err = cp(t, opener(up), nil, "s3://memory/", dir)
	require.NoError(t, err)
	require.EqualValues(t, 1, totals.Failed)
	require.Equal(t, map[string]string{"secret": "s"}, onDisk(t, outside))
}

func TestNoOverwrite(t *testing.T) {
	m, dir := newMemory(), folder(t, map[string]string{"a": "old"})
	m.set("a", "new")
	m.set("b", "new")
	keep := func(o *transfer.Options) { o.NoOverwrite = true }
	totals, _, err := cp(t, opener(m), keep, "s3://memory/", dir)
	require.NoError(t, err)
	require.Equal(t, transfer.Totals{Copied: 1, Skipped: 1, Bytes: 3}, totals)
	require.Equal(t, map[string]string{"a": "old", "b": "new"}, onDisk(t, dir))

	write(t, dir, map[string]string{"b": "newer", "c": "new"})
	totals, _, err = cp(t, opener(m), keep, dir, "s3://memory/")
	require.NoError(t, err)
	require.Equal(t, transfer.Totals{Copied: 1, Skipped: 2, Bytes: 3}, totals)
	require.Equal(t, map[string]string{"a": "new", "b": "new", "c": "new"}, contents(t, m.side()))
}

func TestAFailedFileStopsNoOther(t *testing.T) {
	m := newMemory()
	for _, name := range []string{"a", "b", "c"} {
		m.set(name, "content of "+name)
	}
	m.cut = func(name string, _ int64) int64 { return map[string]int64{"b": 3}[name] }
	dir := t.TempDir()
	totals, seen, err := cp(t, opener(m), nil, "s3://memory/", dir)
	require.NoError(t, err)
	require.EqualValues(t, 1, totals.Failed)
	require.Contains(t, seen.errors(), "cut")
	require.Equal(t, map[string]string{"a": "content of a", "c": "content of c"}, onDisk(t, dir))
}

func TestDamageNeverHasAName(t *testing.T) {
	flip := func(_ string, content []byte) []byte {
		content = append([]byte{}, content...)
		content[0] ^= 1
		return content
	}
	t.Run("of what is read", func(t *testing.T) {
		m := newMemory()
		m.set("a", "content")
		m.serve = flip
		dir := t.TempDir()
		totals, seen, err := cp(t, opener(m), nil, "s3://memory/a", dir)
		require.NoError(t, err)
		require.EqualValues(t, 1, totals.Failed)
		require.Contains(t, seen.errors(), "corrupt: md5")
		require.Empty(t, onDisk(t, dir))
		var out strings.Builder
		sources, err := opener(m).Source(t.Context(), "s3://memory/a", transfer.Access{})
		require.NoError(t, err)
		o, _ := options()
		_, err = transfer.Fetch(t.Context(), sources[0], &out, o)
		require.Equal(t, backend.Corrupt, backend.KindOf(err))
		require.Empty(t, out.String(), "the last bytes are held back")
	})
	t.Run("of what is stored", func(t *testing.T) {
		m, dir := newMemory(), folder(t, map[string]string{"a": "content"})
		m.damage = flip
		totals, seen, err := cp(t, opener(m), nil, dir+"/a", "s3://memory/a")
		require.NoError(t, err)
		require.EqualValues(t, 1, totals.Failed)
		require.Contains(t, seen.errors(), "stored as other bytes")
		require.Empty(t, contents(t, m.side()))
	})
	t.Run("of what has grown", func(t *testing.T) {
		m := newMemory()
		m.set("a", "content")
		m.serve = func(_ string, content []byte) []byte { return append(append([]byte{}, content...), '!') }
		dir := t.TempDir()
		_, seen, err := cp(t, opener(m), nil, "s3://memory/a", dir)
		require.NoError(t, err)
		require.Contains(t, seen.errors(), "more than its 7 bytes")
		require.Empty(t, onDisk(t, dir))
	})
}

func pattern(size int) string {
	content := make([]byte, size)
	for i := range content {
		content[i] = byte(i * i >> 7)
	}
	return string(content)
}

// TestADownloadIsTakenUp cuts a large file off, and has the next copy fetch the rest alone.
func TestADownloadIsTakenUp(t *testing.T) {
	const size, cut = 12 << 20, 9 << 20
	content := pattern(size)
	start := func(t *testing.T) (*memory, string) {
		m, dir := newMemory(), t.TempDir()
		m.set("big/file", content)
		m.cut = func(_ string, offset int64) int64 { return cut - offset }
		totals, _, err := cp(t, opener(m), nil, "s3://memory/", dir)
		require.NoError(t, err)
		require.EqualValues(t, 1, totals.Failed)
		require.NoFileExists(t, dir+"/big/file")
		require.Empty(t, contents(t, transfer.NewLocal(dir, false)), "a part is no file")
		return m, dir
	}
	var from int64
	resume := func(t *testing.T, m *memory, dir string) {
		t.Helper()
		from = -1
		m.cut = func(_ string, offset int64) int64 { from = offset; return 0 }
		totals, seen, err := cp(t, opener(m), nil, "s3://memory/", dir)
		require.NoError(t, err)
		require.Empty(t, seen.errors())
		require.EqualValues(t, 1, totals.Copied)
		all := onDisk(t, dir)
		require.Len(t, all, 1, "nothing but the file is left")
		require.True(t, all["big/file"] == string(m.objects["big/file"].content))
	}
	parts := func(t *testing.T, dir, suffix string) string {
		t.Helper()
		found, err := filepath.Glob(dir + "/big/.shardstream-*" + suffix)
		require.NoError(t, err)
		require.Len(t, found, 1)
		return found[0]
	}
	t.Run("where it stopped", func(t *testing.T) {
		m, dir := start(t)
		resume(t, m, dir)
		require.EqualValues(t, cut, from)
	})
	t.Run("from the start where the object was changed", func(t *testing.T) {
		m, dir := start(t)
		m.set("big/file", strings.Repeat("other", size/4))
		resume(t, m, dir)
		require.Zero(t, from)
	})
	t.Run("from the start where what is there is damaged", func(t *testing.T) {
		m, dir := start(t)
		file, err := os.OpenFile(parts(t, dir, ".part"), os.O_WRONLY, 0)
		require.NoError(t, err)
		_, err = file.WriteAt([]byte("damage"), 1<<20)
		require.NoError(t, errors.Join(err, file.Close()))
		resume(t, m, dir)
		require.Zero(t, from)
	})
	t.Run("from the start where less is there than was noted", func(t *testing.T) {
		m, dir := start(t)
		require.NoError(t, os.Truncate(parts(t, dir, ".part"), 5<<20))
		resume(t, m, dir)
		require.Zero(t, from)
	})
	t.Run("from the start where the note is none", func(t *testing.T) {
		m, dir := start(t)
		require.NoError(t, os.WriteFile(parts(t, dir, ".note"), []byte("{"), 0o600))
		resume(t, m, dir)
		require.Zero(t, from)
	})
}

// TestACopyThatWasKilled finds what a process that was given no time left: parts that are noted now and then.
func TestACopyThatWasKilled(t *testing.T) {
	m, dir, after := newMemory(), t.TempDir(), t.TempDir()
	m.set("file", pattern(40<<20))
	left := 36 << 20
	m.wrap = func(r io.Reader) io.Reader {
		return readerFunc(func(p []byte) (int, error) {
			n, err := r.Read(p)
			if left -= n; left <= 0 && left+n > 0 {
				write(t, after, onDisk(t, dir)) // as it is at this moment
			}
			return n, err
		})
	}
	_, _, err := cp(t, opener(m), nil, "s3://memory/file", dir)
	require.NoError(t, err)
	require.Len(t, onDisk(t, after), 2)

	from := int64(-1)
	m.wrap = nil
	m.cut = func(_ string, offset int64) int64 { from = offset; return 0 }
	_, seen, err := cp(t, opener(m), nil, "s3://memory/file", after)
	require.NoError(t, err)
	require.Empty(t, seen.errors())
	require.GreaterOrEqual(t, from, int64(32<<20))
	require.True(t, maps.Equal(onDisk(t, dir), onDisk(t, after)))
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestInterruptedCopiesLeaveNothingHalf(t *testing.T) {
	m := newMemory()
	ctx, interrupt := context.WithCancel(t.Context())
	for _, name := range []string{"a", "b", "c", "d"} {
		m.set(name, strings.Repeat(name, 1<<20))
	}
	m.serve = func(name string, content []byte) []byte {
		if name == "c" {
			interrupt()
		}
		return content
	}
	dir := t.TempDir()
	o, seen := options()
	o.Jobs = 1
	_, err := transfer.Sync(ctx, m.side(), transfer.NewLocal(dir, false), o)
	require.ErrorIs(t, err, context.Canceled)
	require.Empty(t, seen.errors(), "what was broken off has not failed")
	require.Equal(t, []string{"a", "b"}, keysOf(onDisk(t, dir)))

	totals, _, err := synchronize(t, m.side(), transfer.NewLocal(dir, false), nil)
	require.NoError(t, err)
	require.EqualValues(t, 2, totals.Skipped, "what was done is not done again")
	require.EqualValues(t, 2, totals.Copied)
}

func TestAFileThatChangesIsCopiedAsItIs(t *testing.T) {
	m := newMemory()
	m.set("a", "first")
	dir := t.TempDir()
	sources, err := opener(m).Source(t.Context(), "s3://memory/a", transfer.Access{})
	require.NoError(t, err)
	m.set("a", "the second one")
	o, seen := options()
	_, err = transfer.Copy(t.Context(), sources, &transfer.Target{Side: transfer.NewLocal(dir, false)}, o)
	require.NoError(t, err)
	require.Empty(t, seen.errors())
	require.Equal(t, map[string]string{"a": "the second one"}, onDisk(t, dir))
}

func TestStreams(t *testing.T) {
	m, dir := newMemory(), t.TempDir()
	for _, to := range []string{"s3://memory/piped", dir + "/piped"} {
		target, err := opener(m).Target(t.Context(), to, true, transfer.Access{})
		require.NoError(t, err)
		o, seen := options()
		source := transfer.StreamSource("stdin", strings.NewReader("from a pipe"))
		totals, err := transfer.Copy(t.Context(), []*transfer.Source{source}, target, o)
		require.NoError(t, err)
		require.Empty(t, seen.errors())
		require.EqualValues(t, 11, totals.Bytes)
	}
	require.Equal(t, map[string]string{"piped": "from a pipe"}, onDisk(t, dir))
	require.Equal(t, map[string]string{"piped": "from a pipe"}, contents(t, m.side()))
}

func TestRateBoundsACopy(t *testing.T) {
	m := newMemory()
	m.set("a", strings.Repeat("x", 1<<20))
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(200*time.Millisecond, cancel)
	o, _ := options()
	o.Rate = 1000 // it would take a quarter of an hour
	dir := t.TempDir()
	_, err := transfer.Sync(ctx, m.side(), transfer.NewLocal(dir, false), o)
	require.ErrorIs(t, err, context.Canceled)
	require.Empty(t, onDisk(t, dir))
}
