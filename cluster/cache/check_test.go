package cache_test

import (
	"bytes"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/backend"
	"github.com/shardstream/shardstream/core/backend/backendtest"
	"github.com/shardstream/shardstream/core/store"
)

func check(policy string, ttl float64) func(*api.Backend) {
	return func(b *api.Backend) { b.Check, b.TTLS = policy, ttl }
}

func TestCheckPolicies(t *testing.T) {
	old, fresh := backendtest.Bytes(1, mebi), backendtest.Bytes(2, 2*mebi)
	for _, c := range []struct {
		name   string
		change func(*api.Backend)
		want   []byte
		stats  int // of two reads of what is here
	}{
		{"never", check(api.CheckNever, 0), old, 0},
		{"within the time", check(api.CheckTTL, 3600), old, 0},
		{"after the time", check(api.CheckTTL, 1e-9), fresh, 2},
		{"always", check(api.CheckAlways, 0), fresh, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBed(t, c.change)
			b.remote.Set("a", old)
			before := b.mustRead("a")
			assert.True(t, bytes.Equal(old, before))
			b.remote.Set("a", fresh)
			assert.True(t, bytes.Equal(c.want, b.mustRead("a")))
			assert.True(t, bytes.Equal(c.want, b.mustRead("a")))
			assert.Equal(t, c.stats, b.remote.Calls("stat", "a"))
		})
	}
}

func TestBackendThatIsAway(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*api.Backend)
		served bool
	}{
		{"never", check(api.CheckNever, 0), true},
		{"within the time", check(api.CheckTTL, 3600), true},
		{"after the time", check(api.CheckTTL, 1e-9), false},
		{"always", check(api.CheckAlways, 0), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBed(t, c.change)
			b.put("a")
			b.mustRead("a")
			b.remote.Fault = func(op, name string, _ int64) error { return b.remote.Failure(op, name, backend.Passing) }
			_, _, err := b.read("a")
			assert.Equal(t, c.served, err == nil, "%v", err)
			assert.Equal(t, "whole", b.kind("a"), "it is not dropped for that")
		})
	}
}

func TestWhatIsGoneIsForgotten(t *testing.T) {
	b := newBed(t, check(api.CheckAlways, 0))
	b.put("a", "s")
	b.mustRead("a")
	_, err := b.cache.Describe(t.Context(), b.bucket, []backend.Entry{b.entry("s")}, nil)
	require.NoError(t, err)
	for _, key := range []string{"a", "s"} {
		b.remote.Remove(key)
		_, _, err := b.read(key)
		require.ErrorIs(t, err, store.ErrNotFound)
		assert.Equal(t, "nothing", b.kind(key))
	}
}

// entry is how the backend lists an object.
func (b *bed) entry(key string) backend.Entry {
	for e, err := range b.remote.List(b.t.Context(), key, "") {
		require.NoError(b.t, err)
		return e
	}
	b.t.Fatalf("no %s", key)
	return backend.Entry{}
}

func TestVersionHoldsFromHeadToGet(t *testing.T) {
	b := newBed(t, nil)
	b.put("a")
	head, err := b.cache.Stat(t.Context(), b.bucket, "a")
	require.NoError(t, err)
	assert.Equal(t, store.Stub, head.Kind)
	assert.Equal(t, "nothing", b.kind("a"), "a question writes nothing")
	b.mustRead("a")
	got, err := b.cache.Stat(t.Context(), b.bucket, "a")
	require.NoError(t, err)
	assert.Equal(t, store.Whole, got.Kind)
	assert.Equal(t, head.ETag(), got.ETag())
	assert.Equal(t, head.Version, got.Version)
}

// A question that was under way while the object was written is asked again: its answer is of before.
func TestAnswerOfBeforeAWriteDoesNotCount(t *testing.T) {
	b := newBed(t, func(b *api.Backend) { b.Check, b.Write = api.CheckAlways, api.WriteThrough })
	asked, answer := make(chan struct{}), make(chan struct{})
	var first sync.Once
	b.remote.Fault = func(op, name string, _ int64) (err error) {
		if op == "stat" {
			first.Do(func() {
				close(asked)
				<-answer
				err = b.remote.Failure(op, name, backend.NotFound)
			})
		}
		return err
	}
	var info store.Info
	var failed error
	var wait sync.WaitGroup
	wait.Go(func() { info, failed = b.cache.Stat(t.Context(), b.bucket, "a") })
	<-asked
	want := backendtest.Bytes(1, mebi)
	put, err := b.cache.Put(t.Context(), b.bucket, "a", bytes.NewReader(want), store.PutOptions{Size: mebi}, func(bool) error { return nil })
	require.NoError(t, err)
	close(answer)
	wait.Wait()
	require.NoError(t, failed)
	assert.Equal(t, put.ETag(), info.ETag())
	assert.Equal(t, "whole", b.kind("a"))
}

// The condition of a write is evaluated while the object's change is entered, and an object may be gone from its backend
// by then.
func TestConditionOfAWriteOfWhatIsGone(t *testing.T) {
	b := newBed(t, func(b *api.Backend) { b.Write, b.Delete = api.WriteThrough, api.DeleteThrough })
	b.put("a")
	b.mustRead("a")
	meets := func(entered bool) error {
		if entered {
			b.remote.Remove("a")
		}
		_, exists, err := b.cache.Exists(t.Context(), b.bucket, "a", entered)
		if err == nil && entered == exists {
			err = assert.AnError
		}
		return err
	}
	_, err := b.cache.Put(t.Context(), b.bucket, "a", bytes.NewReader(make([]byte, 10)), store.PutOptions{Size: 10}, meets)
	require.NoError(t, err)
	assert.Len(t, b.remote.Data("a"), 10)
	_, err = b.cache.Delete(t.Context(), b.bucket, "a", meets)
	require.NoError(t, err)
	assert.Equal(t, "nothing", b.kind("a"))
}
