package cache_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/cache"
	"github.com/shardstream/shardstream/core/backend"
	"github.com/shardstream/shardstream/core/backend/backendtest"
	"github.com/shardstream/shardstream/core/store"
)

// bed is a cache over a store, with a backend in memory.
type bed struct {
	t      *testing.T
	cache  *cache.Cache
	store  *store.Store
	remote *backendtest.Memory
	bucket *api.Bucket
	locks  sync.Map
}

func newBed(t *testing.T, change func(*api.Backend)) *bed {
	t.Helper()
	b := &bed{t: t, remote: backendtest.NewMemory("s3://far"), bucket: &api.Bucket{
		Name: "b", Mirror: 1, Backend: &api.Backend{URL: "s3://far", Check: api.CheckTTL, Write: api.WriteReadOnly, Delete: api.DeleteRefused},
	}}
	if change != nil {
		change(b.bucket.Backend)
	}
	var err error
	b.store, err = store.Open(store.Options{Disks: []store.Disk{{ID: "d", Path: filepath.Join(t.TempDir(), "d")}}, ProbeEvery: -1})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.store.Close()) })
	b.cache = cache.New(cache.Config{
		Store: b.store, Backends: b, High: 1, Low: 1,
		Bucket:  func(name string) (*api.Bucket, bool) { return b.bucket, name == "b" },
		Buckets: func() []string { return []string{"b"} },
		Enter:   b.enter,
		Lock:    b.lock,
		Learn:   func(context.Context, string, string) error { return nil },
		Version: b.store.NextVersion, Share: func() float64 { return 1 },
	})
	t.Cleanup(b.cache.Close)
	return b
}

func (b *bed) Get(context.Context, *api.Bucket) (backend.Backend, error) { return b.remote, nil }

func (b *bed) enter(_ context.Context, _, key string) (func(), error) {
	lock, _ := b.locks.LoadOrStore(key, &sync.Mutex{})
	mu, _ := lock.(*sync.Mutex)
	mu.Lock()
	return mu.Unlock, nil
}

func (b *bed) lock(ctx context.Context, bucket, key string) (func() (func(), error), func(), error) {
	unlock, err := b.enter(ctx, bucket, key)
	return func() (func(), error) { return func() {}, nil }, unlock, err
}

// read reads an object whole; hit: without its backend.
func (b *bed) read(key string) (data []byte, hit bool, err error) {
	object, reading, err := b.cache.Get(b.t.Context(), b.bucket, key)
	if err != nil {
		return nil, false, err
	}
	if object != nil {
		data = make([]byte, object.Info().Size)
		_, err = object.ReadAt(data, 0)
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return data, true, errors.Join(err, object.Close())
	}
	data, err = io.ReadAll(reading.Body)
	return data, false, errors.Join(err, reading.Body.Close())
}

func (b *bed) mustRead(key string) []byte {
	b.t.Helper()
	data, _, err := b.read(key)
	require.NoError(b.t, err)
	return data
}

// kind is what the store has of an object.
func (b *bed) kind(key string) string {
	info, ok, err := b.store.State("b", key)
	require.NoError(b.t, err)
	if !ok {
		return "nothing"
	}
	return map[store.Kind]string{store.Whole: "whole", store.Stub: "stub", store.Tombstone: "nothing", store.Lost: "lost"}[info.Kind]
}

func (b *bed) await(what string, holds func() bool) {
	b.t.Helper()
	require.Eventually(b.t, holds, 20*time.Second, 2*time.Millisecond, what)
}

func TestSecondReadIsAHit(t *testing.T) {
	for _, size := range []int{0, 1, 1000, 64 << 10, 64<<10 + 1, 5 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			b := newBed(t, nil)
			want := backendtest.Bytes(1, size)
			b.remote.Set("x", want)
			assert.True(t, bytes.Equal(want, b.mustRead("x")))
			data, hit, err := b.read("x")
			require.NoError(t, err)
			assert.True(t, hit)
			assert.True(t, bytes.Equal(want, data))
			assert.Equal(t, 1, b.remote.Calls("open", "x"))
		})
	}
}

func TestManyReadersAreOneFetch(t *testing.T) {
	b := newBed(t, nil)
	want := backendtest.Bytes(2, 3<<20)
	b.remote.Set("x", want)
	begin := make(chan struct{})
	b.remote.Fault = func(op, _ string, _ int64) error {
		if op == "open" {
			<-begin
		}
		return nil
	}
	var wait sync.WaitGroup
	for range 64 {
		wait.Go(func() {
			data, _, err := b.read("x")
			assert.NoError(t, err)
			assert.True(t, bytes.Equal(want, data))
		})
	}
	close(begin)
	wait.Wait()
	assert.Equal(t, 1, b.remote.Calls("open", "x"))
}

func TestReaderGetsBytesWhileTheyCome(t *testing.T) {
	b := newBed(t, nil)
	want := backendtest.Bytes(3, 4<<20)
	b.remote.Set("x", want)
	rest := make(chan struct{})
	b.remote.Fault = func(op, _ string, off int64) error {
		if op == "read" && off >= 2<<20 {
			<-rest
		}
		return nil
	}
	object, reading, err := b.cache.Get(t.Context(), b.bucket, "x")
	require.NoError(t, err)
	require.Nil(t, object)
	head := make([]byte, 1<<20)
	_, err = io.ReadFull(reading.Body, head)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(want[:1<<20], head))
	assert.Equal(t, "nothing", b.kind("x"))
	close(rest)
	tail, err := io.ReadAll(reading.Body)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(want[1<<20:], tail))
	require.NoError(t, reading.Body.Close())
	assert.Equal(t, "whole", b.kind("x"))
}

func TestSlowReaderDoesNotHoldUpTheFetch(t *testing.T) {
	b := newBed(t, nil)
	want := backendtest.Bytes(4, 4<<20)
	b.remote.Set("x", want)
	_, reading, err := b.cache.Get(t.Context(), b.bucket, "x")
	require.NoError(t, err)
	one := make([]byte, 1)
	_, err = reading.Body.Read(one)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(want, b.mustRead("x")))
	assert.Equal(t, "whole", b.kind("x"))
	tail, err := io.ReadAll(reading.Body)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(want[1:], tail))
	require.NoError(t, reading.Body.Close())
}

func TestBrokenFetchNeverLooksWhole(t *testing.T) {
	b := newBed(t, nil)
	want := backendtest.Bytes(5, 4<<20)
	b.remote.Set("x", want)
	var broken bool
	b.remote.Fault = func(op, name string, off int64) error {
		if op == "read" && off >= 4<<20-64<<10 && !broken {
			broken = true
			return b.remote.Failure("read", name, backend.Passing)
		}
		return nil
	}
	data, _, err := b.read("x")
	require.Error(t, err)
	assert.True(t, kindOf(err) == backend.Passing, "%v", err)
	assert.Less(t, len(data), len(want))
	assert.Equal(t, "nothing", b.kind("x"))
	assert.True(t, bytes.Equal(want, b.mustRead("x")), "the next read completes")
}

func kindOf(err error) backend.Kind { return backend.KindOf(err) }

func TestFetchEndsWithTheLastReader(t *testing.T) {
	b := newBed(t, nil)
	b.remote.Set("x", backendtest.Bytes(6, 4<<20))
	rest := make(chan struct{})
	b.remote.Fault = func(op, _ string, off int64) error {
		if op == "read" && off >= 2<<20 {
			<-rest
		}
		return nil
	}
	_, reading, err := b.cache.Get(t.Context(), b.bucket, "x")
	require.NoError(t, err)
	require.NoError(t, reading.Body.Close())
	close(rest)
	b.await("the fetch ends", func() bool { return b.cache.Fetches() == 0 })
	assert.Equal(t, "nothing", b.kind("x"))
}

func TestDamagedBytesAreNotCompletedByARange(t *testing.T) {
	b := newBed(t, nil)
	e := b.remote.Set("x", backendtest.Bytes(7, 4<<20))
	for _, described := range []bool{false, true} {
		if described {
			_, err := b.cache.Describe(t.Context(), b.bucket, []backend.Entry{e}, nil)
			require.NoError(t, err)
		}
		broken, followed := false, make(chan struct{})
		b.remote.Fault = func(op, name string, off int64) error {
			if op == "read" && off >= 3<<20 && !broken {
				broken = true
				<-followed
				return b.remote.Failure("read", name, backend.Corrupt)
			}
			return nil
		}
		_, reading, err := b.cache.Get(t.Context(), b.bucket, "x")
		require.NoError(t, err)
		close(followed)
		_, err = io.ReadAll(reading.Body)
		require.Error(t, err)
		require.NoError(t, reading.Body.Close())
		after, err := b.cache.Stat(t.Context(), b.bucket, "x")
		require.NoError(t, err)
		assert.NotEqual(t, reading.Info.ETag(), after.ETag())
	}
}

func TestFetchesThatNobodyWaitsForLeaveRoomToOtherBuckets(t *testing.T) {
	b := newBed(t, nil)
	b.put("wanted")
	hung := make(chan struct{})
	b.remote.Fault = func(op, name string, _ int64) error {
		if op == "open" && name != "wanted" {
			<-hung
		}
		return nil
	}
	var wait sync.WaitGroup
	keys := make([]string, 30)
	for i := range keys {
		keys[i] = fmt.Sprintf("late-%02d", i)
		b.remote.Set(keys[i], backendtest.Bytes(uint64(i), 1000))
		wait.Go(func() { assert.NoError(t, b.cache.Prefetch(t.Context(), "b", keys[i], 0)) })
	}
	begun := func() (n int) {
		for _, key := range keys {
			n += b.remote.Calls("open", key)
		}
		return n
	}
	b.await("all are asked for", func() bool { return b.cache.Fetches() == int64(len(keys)) && begun() >= 12 })
	b.mustRead("wanted")
	assert.Equal(t, 12, begun())
	close(hung)
	wait.Wait()
	assert.Len(t, b.whole(keys...), len(keys))
}
