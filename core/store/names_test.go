package store_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/core/store"
)

func TestNames(t *testing.T) {
	s, o := fresh(t)
	for _, name := range []string{
		"a", "a/b", "ä/✓.tar", "a b", "a\\b", "-rf", "...", "a..b", "%2e%2e/x", strings.Repeat("n", 1024), "C:/x", ".hidden", "data/../x"[:7] + "x",
	} {
		put(t, s, "b", name, []byte(name))
		require.Equal(t, name, string(read(t, s, "b", name)))
	}
	before := len(dataFiles(t, o))
	for _, name := range []string{
		"", "..", "../x", "a/../b", "a/..", "./a", "a/./b", "/etc/passwd", "a//b", "a/", "a\x00b", "a\nb", "a\x7fb", "a\u0085b", "\xff\xfe",
		strings.Repeat("n", 1025),
	} {
		_, err := s.Put(ctx, "b", name, strings.NewReader("x"), store.PutOptions{Size: 1})
		var bad *store.NameError
		require.ErrorAs(t, err, &bad, "%q", name)
		_, err = s.Open("b", name)
		require.ErrorAs(t, err, &bad, "%q", name)
		require.ErrorAs(t, s.Delete(ctx, "b", name, store.Condition{}), &bad, "%q", name)
	}
	for _, bucket := range []string{"", ".", "..", "a..b", "A", "a/b", "-a", "a-", ".a", "a\x00", "a b", strings.Repeat("b", 64)} {
		_, err := s.Put(ctx, bucket, "o", strings.NewReader("x"), store.PutOptions{Size: 1})
		var bad *store.NameError
		require.ErrorAs(t, err, &bad, "%q", bucket)
		_, _, err = s.List(bucket, "", "", 0)
		require.ErrorAs(t, err, &bad, "%q", bucket)
	}
	for _, bucket := range []string{"a", "0", "my.data_set-2", strings.Repeat("b", 63)} {
		require.NoError(t, store.CheckBucket(bucket))
	}
	require.Len(t, dataFiles(t, o), before)
}

func TestList(t *testing.T) {
	s, o := fresh(t)
	var names []string
	for i := range 60 {
		names = append(names, fmt.Sprintf("a/%03d", i))
		put(t, s, "b", names[i], []byte("x"))
	}
	put(t, s, "b", "z", []byte("x"))
	put(t, s, "b0", "a/other", []byte("x")) // a bucket that sorts right behind
	list := func(bucket, prefix, after string, limit int) (out []string, more bool) {
		infos, more, err := s.List(bucket, prefix, after, limit)
		require.NoError(t, err)
		for _, i := range infos {
			require.Equal(t, bucket, i.Bucket)
			out = append(out, i.Name)
		}
		return out, more
	}
	all, more := list("b", "", "", 0)
	require.Equal(t, append(names[:60:60], "z"), all)
	require.False(t, more)
	var paged []string
	for after, more := "", true; more; {
		var page []string
		page, more = list("b", "a/", after, 7)
		require.LessOrEqual(t, len(page), 7)
		paged = append(paged, page...)
		after = page[len(page)-1]
	}
	require.Equal(t, names, paged)
	page, more := list("b", "", "", 61)
	require.Len(t, page, 61)
	require.False(t, more, "a full last page is the last")
	page, _ = list("b", "a/05", "a", 0)
	require.Equal(t, names[50:60], page)
	page, _ = list("b", "a/05", "a/058", 0)
	require.Equal(t, names[59:60], page)
	page, _ = list("b", "a/05", "b", 0)
	require.Empty(t, page)
	page, _ = list("b", "nobody", "", 0)
	require.Empty(t, page)

	empty, err := s.Empty("b")
	require.NoError(t, err)
	require.False(t, empty)
	require.NoError(t, s.DropBucket(ctx, "b"))
	empty, err = s.Empty("b")
	require.NoError(t, err)
	require.True(t, empty)
	page, _ = list("b0", "", "", 0)
	require.Equal(t, []string{"a/other"}, page)
	clean(t, s, o, 1)
}
