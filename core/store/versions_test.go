package store_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/core/store"
)

func TestConditions(t *testing.T) {
	s, o := fresh(t)
	with := func(c store.Condition) (store.Info, error) {
		return s.Put(ctx, "b", "o", strings.NewReader("x"), store.PutOptions{Size: 1, Condition: c})
	}
	_, err := with(store.Condition{IfMatch: "*"})
	require.ErrorIs(t, err, store.ErrPrecondition)
	first, err := with(store.Condition{IfNoneMatch: "*"})
	require.NoError(t, err)
	_, err = with(store.Condition{IfNoneMatch: "*"})
	require.ErrorIs(t, err, store.ErrPrecondition)
	_, err = with(store.Condition{IfNoneMatch: first.ETag()})
	require.ErrorIs(t, err, store.ErrPrecondition)
	_, err = with(store.Condition{IfMatch: `"other"`})
	require.ErrorIs(t, err, store.ErrPrecondition)
	second, err := with(store.Condition{IfMatch: `"other", ` + first.ETag()})
	require.NoError(t, err)
	require.NotEqual(t, first.ETag(), second.ETag(), "same bytes, another version")
	require.ErrorIs(t, s.Delete(ctx, "b", "o", store.Condition{IfMatch: first.ETag()}), store.ErrPrecondition)
	require.NoError(t, s.Delete(ctx, "b", "o", store.Condition{IfMatch: second.ETag()}))
	require.ErrorIs(t, s.Delete(ctx, "b", "o", store.Condition{}), store.ErrNotFound)
	require.ErrorIs(t, s.Delete(ctx, "b", "o", store.Condition{IfMatch: "*"}), store.ErrPrecondition)
	clean(t, s, o, 0)
}

func TestVersionsRise(t *testing.T) {
	o := options(t.TempDir())
	now := time.Unix(1_000_000, 0)
	o.Now = func() time.Time { return now }
	s := open(t, o)
	var last uint64
	step := func() {
		info := put(t, s, "b", "o", []byte("x"))
		require.Greater(t, info.Version, last)
		last = info.Version
	}
	step()
	step() // the clock stands still
	require.EqualValues(t, now.UnixNano()+1, last)
	require.NoError(t, s.Delete(ctx, "b", "o", store.Condition{}))
	step()
	now = now.Add(-time.Hour)
	require.NoError(t, s.Close())
	s = open(t, o)
	step() // the clock went back, and the process is another
}

func TestOldVersionStaysReadable(t *testing.T) {
	s, o := fresh(t)
	old, fresh := payload(1, 2<<20), payload(2, 1<<20)
	put(t, s, "b", "o", old)
	pinned, err := s.Open("b", "o")
	require.NoError(t, err)
	put(t, s, "b", "o", fresh)
	require.True(t, bytes.Equal(fresh, read(t, s, "b", "o")))
	clean(t, s, o, 1)
	require.NoError(t, s.Delete(ctx, "b", "o", store.Condition{}))
	clean(t, s, o, 0)
	_, err = s.Open("b", "o")
	require.ErrorIs(t, err, store.ErrNotFound)
	_, err = s.Stat("b", "o")
	require.ErrorIs(t, err, store.ErrNotFound)
	got := make([]byte, len(old))
	_, err = pinned.ReadAt(got, 0)
	require.NoError(t, err)
	require.True(t, bytes.Equal(old, got))
	require.EqualValues(t, len(old), pinned.Info().Size)
	require.NoError(t, pinned.Close())
}
