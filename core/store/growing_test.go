package store_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/core/store"
)

// follow reads all that a write yields, as it comes, and how the write ended.
func follow(f *store.Follower) (got []byte, info store.Info, err error) {
	defer func() { err = errors.Join(err, f.Close()) }()
	for {
		end, err := f.Wait(ctx, int64(len(got)))
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return got, info, err
		}
		var b bytes.Buffer
		if _, err := f.WriteRange(&b, int64(len(got)), end-int64(len(got))); err != nil {
			return got, info, err
		}
		got = append(got, b.Bytes()...)
	}
	info, err = f.Outcome(ctx)
	return got, info, err
}

// TestFollow: many read an object while it is stored, from its first blocks on, and see the same bytes as those who read
// it after.
func TestFollow(t *testing.T) {
	s, o := fresh(t)
	for _, size := range []int{0, 1, store.BlockSize, 1<<20 + 1, 5<<20 + 12345} {
		data := payload(uint64(size), size)
		var wg sync.WaitGroup
		var growing *store.Growing
		body, feed := io.Pipe()
		started := make(chan struct{})
		one := func() {
			f, ok := growing.Follow()
			require.True(t, ok)
			wg.Go(func() {
				got, info, err := follow(f)
				if err != nil || !bytes.Equal(data, got) || info.Version == 0 || info.Size != int64(size) {
					t.Errorf("%d of %d bytes, version %d: %v", len(got), size, info.Version, err)
				}
			})
		}
		wg.Go(func() {
			<-started
			for range 8 {
				one()
			}
			late, ok := growing.Follow()
			if !ok {
				t.Error("it has not ended")
				return
			}
			for at := 0; at < size; {
				n, err := feed.Write(data[at:min(at+100_000, size)])
				if at += n; err != nil {
					t.Error(err)
				}
				if at >= 2*store.BlockSize && at <= 1<<20 { // what the reader is behind by is less than two blocks
					if _, err := late.Wait(ctx, int64(at-2*store.BlockSize)); err != nil {
						t.Error(err)
					}
				}
			}
			_ = late.Close()
			_ = feed.Close()
		})
		info, err := s.Put(ctx, "b", "x", body, store.PutOptions{Size: int64(size), Follow: func(g *store.Growing) {
			growing = g
			close(started)
		}})
		require.NoError(t, err)
		wg.Wait()
		_, ok := growing.Follow()
		require.False(t, ok, "it is in the store by now")
		require.True(t, bytes.Equal(data, read(t, s, "b", "x")))
		require.Equal(t, int64(size), info.Size)
	}
	clean(t, s, o, 1)
}

// TestFollowStaged: a staged body stays readable until it is committed, and after. The outcome comes with the commit.
func TestFollowStaged(t *testing.T) {
	s, _ := fresh(t)
	data := payload(3, 300_000)
	var f *store.Follower
	staged, err := s.Stage(ctx, "b", "x", bytes.NewReader(data), store.PutOptions{Size: -1, Follow: func(g *store.Growing) {
		f, _ = g.Follow()
	}})
	require.NoError(t, err)
	require.EqualValues(t, len(data), f.Written())
	ended, cancel := context.WithCancel(ctx)
	cancel()
	_, err = f.Outcome(ended)
	require.ErrorIs(t, err, context.Canceled)
	_, err = f.Wait(ended, int64(len(data)))
	require.ErrorIs(t, err, context.Canceled)
	got := make([]byte, 1000)
	n, err := f.ReadAt(got, 100_000)
	require.NoError(t, err)
	require.Equal(t, data[100_000:101_000], got[:n])
	_, err = f.WriteRange(io.Discard, 0, int64(len(data))+1)
	require.ErrorIs(t, err, store.ErrRange)
	want, err := staged.Commit(0, created, store.Condition{})
	require.NoError(t, err)
	require.NoError(t, s.Delete(ctx, "b", "x", store.Condition{}))
	after, info, err := follow(f)
	require.NoError(t, err)
	require.True(t, bytes.Equal(data, after))
	require.Equal(t, want, info)
}

// openFiles are the files below a directory that this process has open.
func openFiles(t *testing.T, o store.Options) (out []string) {
	t.Helper()
	require.Len(t, o.Disks, 1)
	links, err := filepath.Glob("/proc/self/fd/*")
	require.NoError(t, err)
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil && bytes.Contains([]byte(to), []byte(o.Disks[0].Path+"/tmp/")) {
			out = append(out, to)
		}
	}
	return out
}

// TestFollowOfAFailure: those who follow a write that fails get its error, and nothing of it after that. The last of them
// lets go of the file.
func TestFollowOfAFailure(t *testing.T) {
	o := options(t.TempDir())
	s := open(t, o)
	cause := errors.New("the origin has hung up")
	data := payload(4, 400_000)
	var f, g *store.Follower
	begin := func(w *store.Growing) {
		f, _ = w.Follow()
		g, _ = w.Follow()
	}
	check := func(want error) {
		t.Helper()
		for _, one := range []*store.Follower{f, g} {
			_, err := one.Wait(ctx, 0)
			require.ErrorIs(t, err, want)
			_, err = one.Outcome(ctx)
			require.ErrorIs(t, err, want)
			_, err = one.ReadAt(make([]byte, 10), 0)
			require.ErrorIs(t, err, want)
			require.Len(t, openFiles(t, o), 1)
			require.NoError(t, one.Close())
			require.NoError(t, one.Close(), "twice is once")
		}
		require.Empty(t, openFiles(t, o))
	}
	broken := io.MultiReader(bytes.NewReader(data), iotest.ErrReader(cause))
	_, err := s.Put(ctx, "b", "x", broken, store.PutOptions{Size: -1, Follow: begin})
	require.ErrorIs(t, err, cause)
	check(cause)
	staged, err := s.Stage(ctx, "b", "x", bytes.NewReader(data), store.PutOptions{Size: -1, Follow: begin})
	require.NoError(t, err)
	require.NoError(t, staged.Discard())
	check(store.ErrDiscarded)
	staged, err = s.Stage(ctx, "b", "x", bytes.NewReader(data), store.PutOptions{Size: -1, Follow: begin})
	require.NoError(t, err)
	_, err = staged.Commit(0, created, store.Condition{IfMatch: "*"})
	require.ErrorIs(t, err, store.ErrPrecondition)
	check(store.ErrPrecondition)
	clean(t, s, o, 0)
}
