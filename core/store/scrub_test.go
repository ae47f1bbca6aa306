package store_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/core/store"
)

// meter counts what it is asked for.
type meter struct {
	bytes, most int
	err         error
}

func (m *meter) WaitN(_ context.Context, n int) error {
	m.bytes += n
	m.most = max(m.most, n)
	return m.err
}

func scrubbed(t testing.TB, s *store.Store, o store.ScrubOptions) []store.Scrubbed {
	t.Helper()
	var out []store.Scrubbed
	require.NoError(t, s.Scrub(ctx, o, func(one store.Scrubbed) error {
		out = append(out, one)
		return nil
	}))
	return out
}

// TestScrub: it comes by every copy in the order of keys, says what is wrong with each, and goes on from any.
func TestScrub(t *testing.T) {
	s, _ := fresh(t)
	size := 0
	for i := range 150 { // more than are read at once
		data := payload(uint64(i), i*1000)
		put(t, s, "b", fmt.Sprintf("%03d", i), data)
		size += len(data)
	}
	big := payload(3, 2<<20+5)
	require.NoError(t, s.Bury(ctx, "b", "grave", v(1)))
	putCoded(t, s, "stub", big, v(1))
	require.NoError(t, s.Evict(ctx, "b", "stub", v(1)))
	putSlice(t, s, store.SliceKey{Bucket: "a", Name: "stub", Version: v(1), Slice: 2}, big)
	putSlice(t, s, store.SliceKey{Bucket: "b", Name: "stub", Version: v(1), Slice: 4}, big)
	pace := &meter{}
	all := scrubbed(t, s, store.ScrubOptions{Pace: pace})
	require.Len(t, all, 153)
	for i, one := range all {
		require.NoError(t, one.Err)
		if i < 150 {
			require.Equal(t, fmt.Sprintf("%03d", i), one.Info.Name)
		}
	}
	require.Equal(t, []store.Kind{store.Stub, store.Slice, store.Slice}, []store.Kind{all[150].Info.Kind, all[151].Info.Kind, all[152].Info.Kind})
	require.Equal(t, size+2*len(big), pace.bytes)
	require.Equal(t, 1<<20, pace.most)
	for _, i := range []int{0, 126, 127, 128, 149, 150, 151, 152} {
		require.Equal(t, all[i+1:], append([]store.Scrubbed{}, scrubbed(t, s, store.ScrubOptions{After: all[i].Cursor})...))
	}

	damage := func(name string, do func(file string)) {
		info, files, err := s.Locate("b", name)
		require.NoError(t, err)
		require.NotEmpty(t, info)
		do(files[0])
	}
	damage("007", func(file string) { flip(t, file, 10) })
	damage("100", func(file string) { require.NoError(t, os.Remove(file)) })
	damage("101", func(file string) { require.NoError(t, os.Truncate(file, 5)) })
	info, err := s.Stat("b", "009")
	require.NoError(t, err)
	require.NoError(t, s.Quarantine(ctx, "b", "009", info.Version))
	bad := map[string]error{}
	for _, one := range scrubbed(t, s, store.ScrubOptions{}) {
		if one.Err != nil {
			bad[one.Info.Name] = one.Err
		}
	}
	require.Len(t, bad, 4)
	require.ErrorIs(t, bad["009"], store.ErrLost)
	for _, name := range []string{"007", "100", "101"} {
		var corrupt *store.CorruptError
		require.ErrorAs(t, bad[name], &corrupt, name)
		require.Equal(t, name, corrupt.Name)
	}
	require.ErrorIs(t, s.Scrub(ctx, store.ScrubOptions{}, func(store.Scrubbed) error { return errBody }), errBody)
	nothing := func(store.Scrubbed) error { return nil }
	require.ErrorIs(t, s.Scrub(ctx, store.ScrubOptions{Pace: &meter{err: errBody}}, nothing), errBody)
	require.ErrorContains(t, s.Scrub(ctx, store.ScrubOptions{After: "?"}, nothing), "cursor")
	stopped, stop := context.WithCancel(ctx)
	n := 0
	require.ErrorIs(t, s.Scrub(stopped, store.ScrubOptions{}, func(store.Scrubbed) error {
		if n++; n == 3 {
			stop()
		}
		return nil
	}), context.Canceled)
	require.Equal(t, 3, n)
	require.NoError(t, s.Close())
	require.ErrorIs(t, s.Scrub(ctx, store.ScrubOptions{}, nothing), store.ErrClosed)
}

// TestScrubBesideWriters: what changes while it looks is no fault, and the store can be closed meanwhile.
func TestScrubBesideWriters(t *testing.T) {
	s, _ := fresh(t)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for w := range 2 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				name := fmt.Sprint(w, i%5)
				if i%3 == 2 {
					_ = s.Delete(ctx, "b", name, store.Condition{})
				} else if _, err := s.Put(ctx, "b", name, bytes.NewReader(payload(1, 100_000)), store.PutOptions{Size: -1}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	visits := 0
	for visits < 100 {
		for _, one := range scrubbed(t, s, store.ScrubOptions{}) {
			require.NoError(t, one.Err)
			visits++
		}
	}
	close(stop)
	wg.Wait()
	put(t, s, "b", "last", nil)
	err := s.Scrub(ctx, store.ScrubOptions{}, func(store.Scrubbed) error { return s.Close() })
	if err != nil {
		require.ErrorIs(t, err, store.ErrClosed)
	}
}
