// Package backendtest holds every implementation of backend.Backend to the same behaviour, against a real server.
package backendtest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/core/backend"
)

// Target is a kind of backend that is tested, with a server behind it.
type Target struct {
	// Open opens the place below a prefix of a bucket that exists. Each test takes a prefix of its own.
	Open func(t *testing.T, prefix string) backend.Backend
	// Seed puts objects below a prefix by other means, where a backend is not for writing. nil: through the backend.
	Seed func(t *testing.T, prefix string, objects map[string][]byte)
	// NoBucket opens a bucket that does not exist. nil: there is nothing of the kind.
	NoBucket func(t *testing.T) backend.Backend
	// Denied opens the bucket with credentials that are wrong. nil: the server asks for none.
	Denied func(t *testing.T) backend.Backend
	// NoTags is for what has nothing that changes when an object does.
	NoTags bool
	// Sums are checksums that the backend knows of an object that was put whole, in one request; the zero value: none.
	MD5, CRC32C bool
	// Odd are names beyond the usual that the backend has to be able to keep; nil: OddNames.
	Odd []string
	// Large is the size of the object that is put in parts; 0: 40 MiB.
	Large int
	// Names is how many a listing has; 0: 3000.
	Names int
}

// OddNames are names that have to survive paths, queries and listings.
var OddNames = []string{
	"with space", "two  spaces", "plus+plus", "100%", "%2F", "%zz", "a&b=c", "q?x", "hash#tag", "semi;colon", "quote'\"",
	"tilde~", "comma,", "star*", "(round)[square]{curly}", "at@colon:", "umlaut-ä", "日本語", "emoji-🙂", "dollar$", "caret^",
	"back`tick", "pipe|", "less<more>", "equal=", "a.b", "a-b", "a/b", "a0", "nested/deep/er/name", "UPPER", ".hidden",
}

const patience = 2 * time.Minute

// Run runs the suite.
func Run(t *testing.T, target Target) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, Target){
		"read":      testRead,
		"range":     testRange,
		"tag":       testTag,
		"list":      testList,
		"names":     testNames,
		"not found": testNotFound,
		"no bucket": testNoBucket,
		"denied":    testDenied,
		"canceled":  testCanceled,
		"put":       testPut,
		"put wrong": testPutWrong,
		"put large": testPutLarge,
		"delete":    testDelete,
	} {
		t.Run(name, func(t *testing.T) { test(t, target) })
	}
}

// Bytes are random bytes, the same for the same seed.
func Bytes(seed uint64, n int) []byte {
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(b)
	return b
}

// place is a prefix of its own, with objects in it.
func place(t *testing.T, target Target, objects map[string][]byte) (context.Context, backend.Backend) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	prefix := fmt.Sprintf("t%d/%s", time.Now().UnixNano(), strings.ReplaceAll(t.Name()[strings.LastIndex(t.Name(), "/")+1:], " ", "-"))
	b := target.Open(t, prefix)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	if target.Seed != nil {
		target.Seed(t, prefix, objects)
		return ctx, b
	}
	for name, data := range objects {
		_, err := b.Put(ctx, name, bytes.NewReader(data), int64(len(data)), backend.PutOptions{})
		require.NoError(t, err, name)
	}
	return ctx, b
}

func read(ctx context.Context, t *testing.T, b backend.Backend, name string, o backend.OpenOptions) ([]byte, *backend.Body) {
	t.Helper()
	body, err := b.Open(ctx, name, o)
	require.NoError(t, err)
	data, err := io.ReadAll(body)
	require.NoError(t, err)
	require.NoError(t, body.Close())
	return data, body
}

func list(ctx context.Context, t *testing.T, b backend.Backend, prefix, after string) []backend.Entry {
	t.Helper()
	var all []backend.Entry
	for e, err := range b.List(ctx, prefix, after) {
		require.NoError(t, err)
		all = append(all, e)
	}
	return all
}

func namesOf(entries []backend.Entry) []string {
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name
	}
	return names
}

func testRead(t *testing.T, target Target) {
	data := Bytes(1, 300_000)
	ctx, b := place(t, target, map[string][]byte{"dir/read": data, "empty": {}})
	got, body := read(ctx, t, b, "dir/read", backend.OpenOptions{})
	require.Equal(t, data, got)
	require.Equal(t, int64(0), body.Offset)
	require.Contains(t, []int64{-1, int64(len(data))}, body.Length)
	require.Equal(t, "dir/read", body.Entry.Name)

	stat, err := b.Stat(ctx, "dir/read")
	require.NoError(t, err)
	require.Equal(t, "dir/read", stat.Name)
	require.Equal(t, int64(len(data)), stat.Size)
	require.Equal(t, stat.Tag, body.Entry.Tag)
	require.Equal(t, stat.Size, body.Entry.Size)
	require.WithinDuration(t, time.Now(), stat.Modified, 24*time.Hour)
	listed := list(ctx, t, b, "dir/", "")
	require.Len(t, listed, 1)
	require.Equal(t, stat.Tag, listed[0].Tag, "a listing has the same tag as Stat")
	require.Equal(t, !target.NoTags, stat.Tag != "")
	require.Equal(t, "", sumsOf(t, data).Differs(stat.Sums))
	require.Equal(t, "", sumsOf(t, data).Differs(body.Entry.Sums))
	require.Equal(t, target.MD5, stat.Sums.MD5 != nil, "MD5 of Stat")
	require.Equal(t, target.CRC32C, stat.Sums.CRC32C != nil, "CRC32C of Stat")
	require.Equal(t, target.MD5, body.Entry.Sums.MD5 != nil, "MD5 of Open")
	require.Equal(t, target.CRC32C, body.Entry.Sums.CRC32C != nil, "CRC32C of Open")

	got, body = read(ctx, t, b, "empty", backend.OpenOptions{})
	require.Empty(t, got)
	require.Zero(t, body.Entry.Size)

	body, err = b.Open(ctx, "dir/read", backend.OpenOptions{})
	require.NoError(t, err)
	_, err = io.ReadFull(body, make([]byte, 10))
	require.NoError(t, err)
	require.NoError(t, body.Close(), "a body may be given up")
}

func sumsOf(t *testing.T, data []byte) backend.Sums {
	t.Helper()
	sums, err := backend.Summed(bytes.NewReader(data), int64(len(data)), backend.Sums{}, backend.AllSums)
	require.NoError(t, err)
	return sums
}

func testRange(t *testing.T, target Target) {
	data := Bytes(2, 100_000)
	ctx, b := place(t, target, map[string][]byte{"range": data})
	whole := int64(len(data))
	for _, test := range []struct{ offset, length, end int64 }{
		{0, 1, 1},
		{0, 10, 10},
		{5, 0, whole},
		{1000, 4096, 5096},
		{whole - 1, 1, whole},
		{whole - 10, 0, whole},
		{whole - 10, 1000, whole}, // up to what there is
		{0, whole, whole},
	} {
		got, body := read(ctx, t, b, "range", backend.OpenOptions{Offset: test.offset, Length: test.length})
		require.Equal(t, data[test.offset:test.end], got, "%+v", test)
		require.Equal(t, test.offset, body.Offset, "%+v", test)
		require.Contains(t, []int64{-1, test.end - test.offset}, body.Length, "%+v", test)
		require.Equal(t, whole, body.Entry.Size, "%+v", test)
	}
	for _, offset := range []int64{whole, whole + 1, whole + 1000} {
		_, err := b.Open(ctx, "range", backend.OpenOptions{Offset: offset, Length: 5})
		require.Equal(t, backend.Range, backend.KindOf(err), "offset %d: %v", offset, err)
	}
}

func testTag(t *testing.T, target Target) {
	if target.NoTags || target.Seed != nil {
		t.Skip("nothing to overwrite, or no tags")
	}
	ctx, b := place(t, target, nil)
	first, second := Bytes(3, 5000), Bytes(4, 5000)
	put := func(data []byte) backend.Entry {
		e, err := b.Put(ctx, "tagged", bytes.NewReader(data), int64(len(data)), backend.PutOptions{})
		require.NoError(t, err)
		return e
	}
	old := put(first)
	for _, o := range []backend.OpenOptions{{}, {Offset: 10, Length: 100}} {
		o.Tag = old.Tag
		_, body := read(ctx, t, b, "tagged", o)
		require.Equal(t, old.Tag, body.Entry.Tag)
	}
	present := put(second)
	require.NotEqual(t, old.Tag, present.Tag)
	for _, o := range []backend.OpenOptions{{}, {Offset: 10, Length: 100}} {
		o.Tag = old.Tag
		_, err := b.Open(ctx, "tagged", o)
		require.Equal(t, backend.Changed, backend.KindOf(err), "%v", err)
	}
	got, _ := read(ctx, t, b, "tagged", backend.OpenOptions{Tag: present.Tag})
	require.Equal(t, second, got)
}

func testList(t *testing.T, target Target) {
	count := target.Names
	if count == 0 {
		count = 3000
	}
	objects := map[string][]byte{"a": {1}, "z": {1}}
	for i := range count {
		objects[fmt.Sprintf("many/%05d.tar", i)] = []byte{byte(i)}
	}
	ctx, b := place(t, target, objects)
	var want []string
	for name := range objects {
		want = append(want, name)
	}
	slices.Sort(want)
	entries := list(ctx, t, b, "", "")
	require.Equal(t, want, namesOf(entries))
	require.Equal(t, int64(1), entries[7].Size)

	many := want[1 : len(want)-1]
	require.Equal(t, many, namesOf(list(ctx, t, b, "many/", "")))
	require.Equal(t, many[:10], namesOf(list(ctx, t, b, "many/0000", "")), "a prefix within a name")
	require.Equal(t, many[10:], namesOf(list(ctx, t, b, "many/", many[9])), "after a name")
	require.Equal(t, many[10:], namesOf(list(ctx, t, b, "many/", many[9]+"x")), "after what is no name")
	require.Equal(t, many, namesOf(list(ctx, t, b, "many/", "a")), "after what is before the prefix")
	require.Empty(t, list(ctx, t, b, "many/", "z"), "after what is beyond the prefix")
	require.Equal(t, []string{"z"}, namesOf(list(ctx, t, b, "", many[len(many)-1])))
	require.Empty(t, list(ctx, t, b, "none", ""))

	taken := 0
	for _, err := range b.List(ctx, "", "") {
		require.NoError(t, err)
		if taken++; taken == 5 {
			break
		}
	}
	require.Equal(t, 5, taken)
}

func testNames(t *testing.T, target Target) {
	odd := target.Odd
	if odd == nil {
		odd = OddNames
	}
	objects := make(map[string][]byte)
	for i, name := range odd {
		objects[name] = Bytes(uint64(i), 100+i)
	}
	ctx, b := place(t, target, objects)
	want := slices.Clone(odd)
	slices.Sort(want)
	require.Equal(t, want, namesOf(list(ctx, t, b, "", "")))
	for i, name := range want {
		got, _ := read(ctx, t, b, name, backend.OpenOptions{})
		require.Equal(t, objects[name], got, name)
		e, err := b.Stat(ctx, name)
		require.NoError(t, err, name)
		require.Equal(t, name, e.Name)
		require.Equal(t, want[i+1:], append([]string{}, namesOf(list(ctx, t, b, "", name))...), "after %s", name)
		require.Contains(t, namesOf(list(ctx, t, b, name, "")), name, "prefix %s", name)
	}
	if target.Seed != nil {
		return
	}
	for _, name := range odd {
		require.NoError(t, b.Delete(ctx, name), name)
	}
	require.Empty(t, list(ctx, t, b, "", ""))
}

func testNotFound(t *testing.T, target Target) {
	ctx, b := place(t, target, map[string][]byte{"there": {1, 2, 3}})
	for _, name := range []string{"missing", "dir/missing", "ther"} {
		_, err := b.Stat(ctx, name)
		require.Equal(t, backend.NotFound, backend.KindOf(err), "stat: %v", err)
		require.ErrorContains(t, err, name)
		_, err = b.Open(ctx, name, backend.OpenOptions{})
		require.Equal(t, backend.NotFound, backend.KindOf(err), "open: %v", err)
		_, err = b.Open(ctx, name, backend.OpenOptions{Offset: 1, Length: 1})
		require.Equal(t, backend.NotFound, backend.KindOf(err), "range: %v", err)
	}
}

func testNoBucket(t *testing.T, target Target) {
	if target.NoBucket == nil {
		t.Skip("nothing of the kind")
	}
	b := target.NoBucket(t)
	each(t, b, backend.NoBucket, true)
}

func testDenied(t *testing.T, target Target) {
	if target.Denied == nil {
		t.Skip("the server asks for no credentials")
	}
	b := target.Denied(t)
	each(t, b, backend.Denied, target.Seed == nil)
}

// each has every call fail the same way.
func each(t *testing.T, b backend.Backend, kind backend.Kind, writes bool) {
	t.Helper()
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err := b.Stat(ctx, "x")
	require.Equal(t, kind, backend.KindOf(err), "stat: %v", err)
	_, err = b.Open(ctx, "x", backend.OpenOptions{})
	require.Equal(t, kind, backend.KindOf(err), "open: %v", err)
	err = nil
	for _, e := range b.List(ctx, "", "") {
		err = e
	}
	require.Equal(t, kind, backend.KindOf(err), "list: %v", err)
	if writes {
		_, err = b.Put(ctx, "x", strings.NewReader("x"), 1, backend.PutOptions{})
		require.Equal(t, kind, backend.KindOf(err), "put: %v", err)
		err = b.Delete(ctx, "x")
		require.Equal(t, kind, backend.KindOf(err), "delete: %v", err)
	}
}

func testCanceled(t *testing.T, target Target) {
	_, b := place(t, target, map[string][]byte{"there": {1, 2, 3}})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := b.Stat(ctx, "there")
	require.ErrorIs(t, err, context.Canceled)
	_, err = b.Open(ctx, "there", backend.OpenOptions{})
	require.ErrorIs(t, err, context.Canceled)
}

// onlySeeks is a body that can be read and sought, and nothing else.
type onlySeeks struct{ io.ReadSeeker }

func testPut(t *testing.T, target Target) {
	if target.Seed != nil {
		t.Skip("not for writing")
	}
	ctx, b := place(t, target, nil)
	for _, size := range []int{0, 1, 1000, 3 << 20} {
		data := Bytes(uint64(size), size)
		put, err := b.Put(ctx, "put", onlySeeks{bytes.NewReader(data)}, int64(size), backend.PutOptions{
			ContentType: "application/x-tar", Sums: sumsOf(t, data),
		})
		require.NoError(t, err)
		require.Equal(t, "put", put.Name)
		require.Equal(t, int64(size), put.Size)
		got, body := read(ctx, t, b, "put", backend.OpenOptions{Tag: put.Tag})
		require.Equal(t, data, got)
		require.Equal(t, put.Tag, body.Entry.Tag)
		require.Contains(t, []string{"", "application/x-tar"}, body.Entry.ContentType)
	}
	zipped := []byte("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03 not really")
	_, err := b.Put(ctx, "text.gz", bytes.NewReader(zipped), int64(len(zipped)), backend.PutOptions{ContentType: "application/gzip"})
	require.NoError(t, err)
	got, _ := read(ctx, t, b, "text.gz", backend.OpenOptions{})
	require.Equal(t, zipped, got)
}

func testPutWrong(t *testing.T, target Target) {
	if target.Seed != nil {
		t.Skip("not for writing")
	}
	ctx, b := place(t, target, map[string][]byte{"kept": []byte("as it was")})
	data := Bytes(5, 1000)
	wrong := sumsOf(t, Bytes(6, 1000))
	for name, sums := range map[string]backend.Sums{
		"MD5": {MD5: wrong.MD5}, "SHA-256": {SHA256: wrong.SHA256}, "CRC32C": {CRC32C: wrong.CRC32C}, "XXH3": {XXH3: wrong.XXH3},
	} {
		for _, key := range []string{"kept", "new"} {
			_, err := b.Put(ctx, key, bytes.NewReader(data), 1000, backend.PutOptions{Sums: sums})
			require.Equal(t, backend.Corrupt, backend.KindOf(err), "%s: %v", name, err)
		}
	}
	_, err := b.Put(ctx, "new", bytes.NewReader(data), 1001, backend.PutOptions{})
	require.Error(t, err, "a body that is shorter than was said")
	_, err = b.Put(ctx, "new", bytes.NewReader(data), 999, backend.PutOptions{})
	require.Error(t, err, "a body that is longer than was said")
	got, _ := read(ctx, t, b, "kept", backend.OpenOptions{})
	require.Equal(t, "as it was", string(got))
	_, err = b.Stat(ctx, "new")
	require.Equal(t, backend.NotFound, backend.KindOf(err), "%v", err)
}

func testPutLarge(t *testing.T, target Target) {
	if target.Seed != nil {
		t.Skip("not for writing")
	}
	size := target.Large
	if size == 0 {
		size = 40 << 20
	}
	ctx, b := place(t, target, nil)
	data := Bytes(7, size+12345)
	put, err := b.Put(ctx, "large/object", bytes.NewReader(data), int64(len(data)), backend.PutOptions{ContentType: "application/x-tar"})
	require.NoError(t, err)
	stat, err := b.Stat(ctx, "large/object")
	require.NoError(t, err)
	require.Equal(t, int64(len(data)), stat.Size)
	require.Equal(t, put.Tag, stat.Tag)
	require.Equal(t, "", sumsOf(t, data).Differs(stat.Sums))
	got, _ := read(ctx, t, b, "large/object", backend.OpenOptions{Tag: put.Tag})
	require.True(t, bytes.Equal(data, got))
	offset := int64(len(data)) - 5000
	got, _ = read(ctx, t, b, "large/object", backend.OpenOptions{Offset: offset, Tag: put.Tag})
	require.Equal(t, data[offset:], got)
}

func testDelete(t *testing.T, target Target) {
	if target.Seed != nil {
		t.Skip("not for writing")
	}
	ctx, b := place(t, target, map[string][]byte{"gone": {1}, "gone-not": {2}})
	require.NoError(t, b.Delete(ctx, "gone"))
	_, err := b.Stat(ctx, "gone")
	require.Equal(t, backend.NotFound, backend.KindOf(err))
	require.Equal(t, []string{"gone-not"}, namesOf(list(ctx, t, b, "", "")))
	require.NoError(t, b.Delete(ctx, "gone"), "that there is none is no error")
	require.NoError(t, b.Delete(ctx, "never/was"))
}
