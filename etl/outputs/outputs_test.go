package outputs_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"math/rand"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/zeebo/xxh3"

	"github.com/shardstream/shardstream/etl/outputs"
)

const kib, mib = 1 << 10, 1 << 20

func identity(i int) outputs.Identity {
	return outputs.Identity{Bucket: "b", Name: "o" + strconv.Itoa(i), Object: `"1-2"`, Chain: []outputs.Step{{ETL: "e", Version: 3}}}
}

// content is the output of identity(i).
func content(i, size int) []byte {
	data := make([]byte, size)
	_, _ = rand.New(rand.NewSource(int64(i))).Read(data)
	return data
}

func open(t testing.TB, dir string, quota int64) *outputs.Cache {
	t.Helper()
	c, err := outputs.Open(outputs.Options{Dir: dir, Quota: quota, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	require.NoError(t, c.Load(t.Context()))
	return c
}

func producer(data []byte) func(context.Context, io.Writer) (string, error) {
	return func(_ context.Context, w io.Writer) (string, error) {
		_, err := w.Write(data)
		return "text/plain", err
	}
}

func keep(t testing.TB, c *outputs.Cache, i, size int) {
	t.Helper()
	out, _, err := c.Do(t.Context(), identity(i), producer(content(i, size)))
	require.NoError(t, err)
	require.True(t, bytes.Equal(content(i, size), all(t, out)))
}

func all(t testing.TB, out *outputs.Output) []byte {
	t.Helper()
	defer func() { require.NoError(t, out.Close()) }()
	var b bytes.Buffer
	n, err := out.WriteRange(&b, 0, out.Size)
	require.NoError(t, err)
	require.Equal(t, out.Size, n)
	require.Equal(t, out.XXH3, xxh3.Hash(b.Bytes()))
	return b.Bytes()
}

func has(c *outputs.Cache, i int) bool {
	out := c.Get(identity(i))
	if out == nil {
		return false
	}
	_ = out.Close()
	return true
}

// files are the entries' files below a directory; aside are those being written.
func files(t testing.TB, dir string) (entries, aside []string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil || d.IsDir():
		case filepath.Base(filepath.Dir(path)) == "aside":
			aside = append(aside, path)
		default:
			entries = append(entries, path)
		}
		return err
	}))
	return entries, aside
}

func TestKeptOutputs(t *testing.T) {
	for _, size := range []int{0, 1, 256*kib - 1, 256 * kib, 256*kib + 1, 3*mib + 17} {
		t.Run(strconv.Itoa(size), func(t *testing.T) {
			dir := t.TempDir()
			c := open(t, dir, 100*mib)
			out, hit, err := c.Do(t.Context(), identity(1), producer(content(1, size)))
			require.NoError(t, err)
			require.False(t, hit)
			require.Equal(t, "text/plain", out.ContentType)
			require.True(t, bytes.Equal(content(1, size), all(t, out)))
			c = open(t, dir, 100*mib) // a restart
			out, hit, err = c.Do(t.Context(), identity(1), func(context.Context, io.Writer) (string, error) {
				return "", errors.New("was made again")
			})
			require.NoError(t, err)
			require.True(t, hit)
			require.True(t, bytes.Equal(content(1, size), all(t, out)))
			for range 20 {
				out := c.Get(identity(1))
				off := rand.Int63n(out.Size + 1)
				n := rand.Int63n(out.Size - off + 1)
				var b bytes.Buffer
				_, err := out.WriteRange(&b, off, n)
				require.NoError(t, err)
				require.Equal(t, content(1, size)[off:off+n], append([]byte{}, b.Bytes()...))
				require.NoError(t, out.Close())
			}
			require.EqualValues(t, 1, c.Stats().Entries)
			require.Zero(t, c.Stats().Misses)
		})
	}
}

func TestIdentities(t *testing.T) {
	c := open(t, t.TempDir(), 10*mib)
	keep(t, c, 1, 100)
	base := identity(1)
	for name, change := range map[string]func(*outputs.Identity){
		"bucket":  func(id *outputs.Identity) { id.Bucket = "c" },
		"name":    func(id *outputs.Identity) { id.Name = "o2" },
		"object":  func(id *outputs.Identity) { id.Object = `"2-2"` },
		"member":  func(id *outputs.Identity) { id.Member = "m" },
		"etl":     func(id *outputs.Identity) { id.Chain = []outputs.Step{{ETL: "f", Version: 3}} },
		"version": func(id *outputs.Identity) { id.Chain = []outputs.Step{{ETL: "e", Version: 4}} },
		"args":    func(id *outputs.Identity) { id.Chain = []outputs.Step{{ETL: "e", Version: 3, Args: []byte(`{"a":1}`)}} },
		"chain":   func(id *outputs.Identity) { id.Chain = append(id.Chain, id.Chain...) },
		"shifted": func(id *outputs.Identity) { id.Bucket, id.Name = "bo", "1" },
	} {
		other := base
		change(&other)
		require.NotEqual(t, base.Key(), other.Key(), name)
		require.NotEqual(t, base.ETag(), other.ETag(), name)
		require.Nil(t, c.Get(other), name)
	}
}

func TestQuota(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir, 10*mib)
	for i := range 9 {
		keep(t, c, i, mib-kib)
	}
	require.True(t, has(c, 0)) // and now it is the one used last
	for i := 9; i < 14; i++ {
		keep(t, c, i, mib-kib)
		require.LessOrEqual(t, c.Stats().Bytes, int64(10*mib))
	}
	require.True(t, has(c, 0))
	require.False(t, has(c, 1))
	require.Positive(t, c.Stats().Evictions)
	entries, aside := files(t, dir)
	require.Len(t, entries, int(c.Stats().Entries))
	require.Empty(t, aside)

	t.Run("too large", func(t *testing.T) {
		before := c.Stats()
		_, _, err := c.Do(t.Context(), identity(99), producer(content(99, 6*mib)))
		var none *outputs.NoRoomError
		require.ErrorAs(t, err, &none)
		after := c.Stats()
		require.GreaterOrEqual(t, after.Bytes, before.Bytes/2-mib)
		_, _, err = c.Do(t.Context(), identity(99), producer(content(99, 6*mib)))
		require.ErrorAs(t, err, &none)
		require.Equal(t, after.Bytes, c.Stats().Bytes, "it drives nobody out again")
		_, aside := files(t, dir)
		require.Empty(t, aside)
	})
	t.Run("smaller after a restart, the last used stays", func(t *testing.T) {
		require.NoError(t, os.Chtimes(entryOf(t, dir, identity(13)), past(), past()))
		c := open(t, dir, 4*mib)
		require.LessOrEqual(t, c.Stats().Bytes, int64(4*mib))
		require.False(t, has(c, 13))
		require.True(t, has(c, 12))
	})
}

func TestFullDisk(t *testing.T) {
	dir, free := t.TempDir(), atomic.Int64{}
	free.Store(100 * mib)
	c, err := outputs.Open(outputs.Options{Dir: dir, Quota: 50 * mib, Usage: func() (int64, int64, error) { return free.Load(), 200 * mib, nil }})
	require.NoError(t, err)
	keep(t, c, 1, mib)
	free.Store(10 * mib) // a twentieth
	_, _, err = c.Do(t.Context(), identity(2), producer(content(2, mib)))
	var none *outputs.NoRoomError
	require.ErrorAs(t, err, &none)
	require.ErrorContains(t, err, "disk")
	require.Zero(t, c.Stats().Bytes, "what is kept makes way for objects")
	free.Store(100 * mib)
	keep(t, c, 2, mib)
}

func TestErrorsOfTheProducer(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir, 10*mib)
	broken := errors.New("broken")
	_, _, err := c.Do(t.Context(), identity(1), func(_ context.Context, w io.Writer) (string, error) {
		_, _ = w.Write(make([]byte, mib))
		return "", broken
	})
	require.ErrorIs(t, err, broken)
	require.Panics(t, func() {
		_, _, _ = c.Do(t.Context(), identity(1), func(context.Context, io.Writer) (string, error) { panic("at the disco") })
	})
	require.False(t, has(c, 1))
	_, aside := files(t, dir)
	require.Empty(t, aside)
	keep(t, c, 1, 10)
}

func TestOneMakesItForAll(t *testing.T) {
	c := open(t, t.TempDir(), 10*mib)
	var made atomic.Int64
	begun, proceed := make(chan struct{}), make(chan struct{})
	slow := func(_ context.Context, w io.Writer) (string, error) {
		if made.Add(1) == 1 {
			close(begun)
		}
		<-proceed
		_, err := w.Write(content(1, 100))
		return "", err
	}
	var wait sync.WaitGroup
	for range 20 {
		wait.Go(func() {
			out, _, err := c.Do(t.Context(), identity(1), slow)
			if err != nil {
				t.Error(err)
				return
			}
			_ = out.Close()
		})
	}
	<-begun
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err := c.Do(ctx, identity(1), slow)
	require.ErrorIs(t, err, context.Canceled, "a waiter need not wait for good")
	close(proceed)
	wait.Wait()
	require.EqualValues(t, 1, made.Load())
	require.EqualValues(t, 19, c.Stats().Hits)
}

func TestALeaderThatGaveUpIsFollowed(t *testing.T) {
	c := open(t, t.TempDir(), 10*mib)
	begun, giveUp := make(chan struct{}), make(chan struct{})
	done := make(chan error, 1)
	go func() {
		_, _, err := c.Do(t.Context(), identity(1), func(context.Context, io.Writer) (string, error) {
			close(begun)
			<-giveUp
			return "", context.Canceled
		})
		done <- err
	}()
	<-begun
	go close(giveUp)
	keep(t, c, 1, 100)
	require.ErrorIs(t, <-done, context.Canceled)
}

func TestSweep(t *testing.T) {
	c := open(t, t.TempDir(), 10*mib)
	for i := range 10 {
		keep(t, c, i, 100)
	}
	c.Sweep(func(id outputs.Identity) bool { return id.Name < "o5" })
	require.EqualValues(t, 5, c.Stats().Entries)
	require.False(t, has(c, 4))
	require.True(t, has(c, 5))
}

// TestEntriesHoldNoArguments: an entry in memory is as small for a request with long arguments as for one without.
func TestEntriesHoldNoArguments(t *testing.T) {
	dir := t.TempDir()
	id := identity(1)
	id.Chain[0].Args = []byte(`{"text":"as long as arguments may be"}`)
	c := open(t, dir, 10*mib)
	out, _, err := c.Do(t.Context(), id, producer([]byte("made")))
	require.NoError(t, err)
	require.NoError(t, out.Close())
	for _, c := range []*outputs.Cache{c, open(t, dir, 10*mib)} { // the second one finds it on disk
		swept := 0
		c.Sweep(func(of outputs.Identity) bool {
			require.Equal(t, identity(1), of)
			swept++
			return false
		})
		require.Equal(t, 1, swept)
		out := c.Get(id)
		require.NotNil(t, out)
		require.Equal(t, "made", string(all(t, out)))
	}
	c.Sweep(func(outputs.Identity) bool { return true })
	require.Nil(t, c.Get(id))
}
