package transfer_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/shardstream/shardstream/cluster/transfer"
)

func keysOf(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }

// TestSyncOfAnyTree: whatever either side had, they are the same afterwards, and a second run finds nothing to do.
func TestSyncOfAnyTree(t *testing.T) {
	part := rapid.StringMatching(`[a-c.\-]{1,3}`)
	name := rapid.Custom(func(t *rapid.T) string {
		return strings.Join(rapid.SliceOfN(part, 1, 3).Draw(t, "parts"), "/")
	}).Filter(func(s string) bool { return filepath.IsLocal(s) && filepath.Clean(s) == s && s != "." })
	tree := rapid.Custom(func(t *rapid.T) map[string]string {
		files := map[string]string{}
		for n, content := range rapid.MapOfN(name, rapid.StringMatching(`[xy]{0,2}`), 0, 12).Draw(t, "files") {
			if !conflicts(files, n) {
				files[n] = content
			}
		}
		return files
	})
	rapid.Check(t, func(rt *rapid.T) {
		source, there := tree.Draw(rt, "source"), tree.Draw(rt, "there")
		local := rapid.Bool().Draw(rt, "local")
		dir, m := folder(t, nil), newMemory()
		defer func() { require.NoError(rt, os.RemoveAll(dir)) }()
		var from, to transfer.Side = transfer.NewLocal(dir, false), m.side()
		if local {
			from, to = to, from
			write(t, dir, there)
			for n, content := range source {
				m.set(n, content)
			}
		} else {
			write(t, dir, source)
			for n, content := range there {
				m.set(n, content)
			}
		}
		all := func(o *transfer.Options) { o.Delete, o.Force, o.Checksum = true, true, true }
		// A file that stands where a folder is to be goes by the first run, and the folder comes by the second.
		for range 2 {
			_, _, err := synchronize(t, from, to, all)
			require.NoError(rt, err)
		}
		require.Equal(rt, source, contents(t, to))
		for _, c := range []struct{ checksum, first bool }{{true, false}, {false, true}, {false, false}, {true, false}} {
			totals, _, err := synchronize(t, from, to, func(o *transfer.Options) { o.Delete, o.Checksum = true, c.checksum })
			require.NoError(rt, err)
			if !c.first { // by time, a file that was there with the same content may be copied, once
				require.Equal(rt, transfer.Totals{Skipped: int64(len(source))}, totals)
			}
		}
	})
}

// conflicts says that a name is a folder's of others, or one of others its.
func conflicts(files map[string]string, name string) bool {
	for other := range files {
		if strings.HasPrefix(other, name+"/") || strings.HasPrefix(name, other+"/") {
			return true
		}
	}
	return false
}

func TestWhatCountsAsTheSame(t *testing.T) {
	old, recent := time.Now().Add(-2*time.Hour), time.Now()
	for _, c := range []struct {
		name        string
		there       string
		at          time.Time
		sums        bool
		checksum    bool
		same        bool
		because     string
		destination string // the side whose file is "there"
	}{
		{name: "other size", there: "longer", at: recent, because: transfer.ReasonSize},
		{name: "as new", there: "other", at: recent, same: true, because: transfer.ReasonSameTime},
		{name: "older", there: "value", at: old, because: transfer.ReasonNewer},
		{name: "other content by checksum", there: "other", at: recent, checksum: true, because: transfer.ReasonContent},
		{name: "same content by checksum", there: "value", at: old, checksum: true, same: true, because: transfer.ReasonSameSum},
		{name: "other content, with the vendor's checksum", there: "other", at: recent, sums: true, checksum: true, because: transfer.ReasonContent},
		{name: "same content, with the vendor's checksum", there: "value", at: old, sums: true, checksum: true, same: true, because: transfer.ReasonSameSum},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMemory()
			m.sums = c.sums
			m.set("file", "value")
			dir := folder(t, map[string]string{"file": c.there})
			require.NoError(t, os.Chtimes(dir+"/file", c.at, c.at))
			totals, seen, err := synchronize(t, m.side(), transfer.NewLocal(dir, false), func(o *transfer.Options) { o.Checksum = c.checksum })
			require.NoError(t, err)
			require.Len(t, seen.events, 1)
			require.Equal(t, c.because, seen.events[0].Reason)
			if c.same {
				require.EqualValues(t, 1, totals.Skipped)
				require.Equal(t, c.there, onDisk(t, dir)["file"])
			} else {
				require.EqualValues(t, 1, totals.Copied)
				require.Equal(t, "value", onDisk(t, dir)["file"])
			}
		})
	}
}

func TestCommonChecksumsDecideWithoutReading(t *testing.T) {
	a, b := newMemory(), newMemory()
	a.set("same", "value")
	b.set("same", "value")
	a.set("other", "value")
	b.set("other", "eulav")
	totals, _, err := synchronize(t, a.side(), b.side(), nil)
	require.NoError(t, err)
	require.Equal(t, transfer.Totals{Copied: 1, Skipped: 1, Bytes: 5}, totals)
	require.EqualValues(t, 1, a.reads.Load())
	require.Zero(t, b.reads.Load())
}

func TestDeleting(t *testing.T) {
	remove := func(o *transfer.Options) { o.Delete = true }
	force := func(o *transfer.Options) { o.Delete, o.Force = true, true }
	extra := map[string]string{"a": "a", "extra": "e", "deep/down/extra": "e"}
	t.Run("only where it is asked for", func(t *testing.T) {
		m, dir := newMemory(), folder(t, extra)
		m.set("a", "a")
		totals, _, err := synchronize(t, m.side(), transfer.NewLocal(dir, false), nil)
		require.NoError(t, err)
		require.Zero(t, totals.Deleted)
		require.Len(t, onDisk(t, dir), 3)
		totals, _, err = synchronize(t, m.side(), transfer.NewLocal(dir, false), remove)
		require.NoError(t, err)
		require.EqualValues(t, 2, totals.Deleted)
		require.Equal(t, map[string]string{"a": "a"}, onDisk(t, dir))
		require.NoDirExists(t, dir+"/deep", "a folder that is empty goes too")
	})
	t.Run("not what is excluded", func(t *testing.T) {
		m, dir := newMemory(), folder(t, extra)
		m.set("a", "a")
		_, _, err := synchronize(t, m.side(), transfer.NewLocal(dir, false), func(o *transfer.Options) {
			o.Delete, o.Filter.Exclude = true, []string{"down/"}
		})
		require.NoError(t, err)
		require.Equal(t, []string{"a", "deep/down/extra"}, keysOf(onDisk(t, dir)))
	})
	t.Run("not where the source is empty, unless by force", func(t *testing.T) {
		m, dir := newMemory(), folder(t, extra)
		_, _, err := synchronize(t, m.side(), transfer.NewLocal(dir, false), remove)
		require.ErrorContains(t, err, "--force")
		require.Len(t, onDisk(t, dir), 3)
		_, _, err = synchronize(t, m.side(), transfer.NewLocal(dir, false), force)
		require.NoError(t, err)
		require.Empty(t, onDisk(t, dir))
	})
	t.Run("not where the source could not be listed, nor by force", func(t *testing.T) {
		for _, how := range []func(*transfer.Options){remove, force} {
			m, dir := newMemory(), folder(t, map[string]string{"a": "a", "b": "b", "extra": "e"})
			m.set("a", "a")
			m.set("b", "b")
			m.listFail = errors.New("the listing broke off")
			totals, seen, err := synchronize(t, m.side(), transfer.NewLocal(dir, false), how)
			require.ErrorContains(t, err, "could not be listed whole")
			require.Contains(t, seen.errors(), "broke off")
			require.EqualValues(t, 1, totals.Failed)
			require.Len(t, onDisk(t, dir), 3)
		}
	})
	t.Run("not where a file failed", func(t *testing.T) {
		m, dir := newMemory(), folder(t, extra)
		m.set("a", "changed")
		m.cut = func(string, int64) int64 { return 2 }
		_, _, err := synchronize(t, m.side(), transfer.NewLocal(dir, false), remove)
		require.ErrorContains(t, err, "nothing was deleted")
		require.Len(t, onDisk(t, dir), 3)
	})
	t.Run("nothing at all where the destination can't be listed", func(t *testing.T) {
		m, dir := newMemory(), folder(t, map[string]string{"a": "a", "b": "b", "z": "z"})
		m.set("a", "old")
		m.set("b", "old")
		m.listFail = errors.New("the listing broke off")
		_, _, err := synchronize(t, transfer.NewLocal(dir, false), m.side(), force)
		require.ErrorContains(t, err, "broke off")
		m.listFail = nil
		require.NotContains(t, contents(t, m.side()), "z")
	})
}

func TestDryRunDoesNothing(t *testing.T) {
	m, dir := newMemory(), folder(t, map[string]string{"a": "other", "extra": "e"})
	m.set("a", "a")
	m.set("new/b", "b")
	before := onDisk(t, dir)
	totals, seen, err := synchronize(t, m.side(), transfer.NewLocal(dir, false), func(o *transfer.Options) { o.Delete, o.DryRun = true, true })
	require.NoError(t, err)
	require.Equal(t, transfer.Totals{Copied: 2, Deleted: 1, Bytes: 2}, totals)
	require.Equal(t, []string{dir + "/a", dir + "/new/b"}, seen.of(transfer.Copied))
	require.Equal(t, []string{dir + "/extra"}, seen.of(transfer.Deleted))
	require.Equal(t, before, onDisk(t, dir))
	require.NoDirExists(t, dir+"/new")
	require.Zero(t, m.reads.Load())
}

func TestFilters(t *testing.T) {
	for _, c := range []struct {
		include, exclude []string
		chosen           []string
	}{
		{nil, nil, []string{"a.tar", "b.txt", "logs/c.tar", "x/logs/d.tar", "x/y/e.tar"}},
		{[]string{"*.tar"}, nil, []string{"a.tar", "logs/c.tar", "x/logs/d.tar", "x/y/e.tar"}},
		{[]string{"*.tar"}, []string{"logs/"}, []string{"a.tar", "x/y/e.tar"}},
		{nil, []string{"x/logs/"}, []string{"a.tar", "b.txt", "logs/c.tar", "x/y/e.tar"}},
		{[]string{"x/*/*.tar"}, nil, []string{"x/logs/d.tar", "x/y/e.tar"}},
		{[]string{"x/", "b.*"}, []string{"e.???"}, []string{"b.txt", "x/logs/d.tar"}},
	} {
		filter := transfer.Filter{Include: c.include, Exclude: c.exclude}
		require.NoError(t, filter.Check())
		chosen := slices.DeleteFunc([]string{"a.tar", "b.txt", "logs/c.tar", "x/logs/d.tar", "x/y/e.tar"}, func(s string) bool { return !filter.Match(s) })
		require.Equal(t, c.chosen, chosen, "%v %v", c.include, c.exclude)
	}
	for _, bad := range []string{"[a", ""} {
		require.Error(t, transfer.Filter{Include: []string{bad}}.Check())
	}
}

// TestOrderOfLocalListings: a folder's files come where their whole names belong, or a merge would lose some.
func TestOrderOfLocalListings(t *testing.T) {
	files := map[string]string{}
	for _, name := range []string{"a/b", "a.b", "a-b", "a/b.c/d", "a/b-c", "ab", "a b", "A", "é", "z/z"} {
		files[name] = ""
	}
	delete(files, "a/b") // it can't be beside a/b.c in one way only
	dir := folder(t, files)
	var names []string
	for file, err := range transfer.NewLocal(dir, false).List(t.Context(), "") {
		require.NoError(t, err)
		names = append(names, file.Name)
	}
	require.Equal(t, keysOf(files), names)
}

func TestManyFiles(t *testing.T) {
	m, dir := newMemory(), t.TempDir()
	for i := range 400 {
		m.set(fmt.Sprintf("%02d/%04d", i%7, i), fmt.Sprint(i))
	}
	totals, seen, err := synchronize(t, m.side(), transfer.NewLocal(dir, false), func(o *transfer.Options) { o.Jobs = 16 })
	require.NoError(t, err)
	require.EqualValues(t, 400, totals.Copied)
	require.Equal(t, seen.planned, seen.moved.Load())
	require.True(t, seen.listed)
	require.Equal(t, contents(t, m.side()), onDisk(t, dir))
}

// Backends leave out of their listings what can't be an object's name: that it is not listed says nothing.
func TestWhatASourceCanNotListIsKept(t *testing.T) {
	m := newMemory()
	m.set("file", "value")
	dir := folder(t, map[string]string{"two\nlines": "kept", "extra": "deleted"})
	totals, _, err := synchronize(t, m.side(), transfer.NewLocal(dir, false), func(o *transfer.Options) { o.Delete = true })
	require.NoError(t, err)
	require.Equal(t, int64(1), totals.Deleted)
	require.FileExists(t, filepath.Join(dir, "two\nlines"))
	require.NoFileExists(t, filepath.Join(dir, "extra"))
	totals, _, err = synchronize(t, transfer.NewLocal(folder(t, map[string]string{"file": "value"}), false), transfer.NewLocal(dir, false),
		func(o *transfer.Options) { o.Delete = true })
	require.NoError(t, err)
	require.Equal(t, int64(1), totals.Deleted, "a folder lists all")
}
