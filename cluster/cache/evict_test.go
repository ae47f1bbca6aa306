package cache_test

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/cache"
	"github.com/shardstream/shardstream/core/backend"
	"github.com/shardstream/shardstream/core/backend/backendtest"
	"github.com/shardstream/shardstream/core/store"
)

const mebi = 1 << 20

// plan is a future that was written down.
type plan map[string]float64

func (p plan) NextUse(_, key string) (float64, bool) {
	order, known := p[key]
	return order, known
}

func withQuota(bytes int64, pinned ...string) func(*api.Backend) {
	return func(b *api.Backend) { b.Quota, b.Pinned = bytes, pinned }
}

// fill puts some objects of a MiB at the backend.
func (b *bed) put(keys ...string) {
	for i, key := range keys {
		b.remote.Set(key, backendtest.Bytes(uint64(i+1), mebi))
	}
}

// whole are those of the objects that are here.
func (b *bed) whole(keys ...string) (here []string) {
	for _, key := range keys {
		if b.kind(key) == "whole" {
			here = append(here, key)
		}
	}
	return here
}

func TestQuotaEvictsWhatWasUsedLongestAgo(t *testing.T) {
	b := newBed(t, withQuota(3*mebi))
	b.put("a", "b", "c", "d")
	for _, key := range []string{"a", "b", "c", "a", "d"} {
		b.mustRead(key)
	}
	assert.Equal(t, []string{"a", "c", "d"}, b.whole("a", "b", "c", "d"))
	assert.Equal(t, "stub", b.kind("b"))
	info, err := b.store.Stat("b", "b")
	require.NoError(t, err)
	assert.False(t, info.Unread(), "its checksums are known")
	b.mustRead("b")
	again, err := b.store.Stat("b", "b")
	require.NoError(t, err)
	assert.Equal(t, info.Version, again.Version)
	assert.Equal(t, info.ETag(), again.ETag())
	status, err := b.cache.Status(t.Context(), "b")
	require.NoError(t, err)
	assert.Equal(t, api.Cached{Objects: 3, Bytes: 3 * mebi, Known: 1, Quota: 3 * mebi}, status)
}

func TestEvictionGoesByThePlan(t *testing.T) {
	b := newBed(t, withQuota(3*mebi))
	b.put("a", "b", "c", "d", "e")
	for _, key := range []string{"a", "b", "c"} {
		b.mustRead(key)
	}
	b.cache.SetFuture(plan{"a": 30, "b": 10, "c": 20, "d": 15, "e": 25})
	require.NoError(t, b.cache.Prefetch(t.Context(), "b", "d", 0))
	assert.Equal(t, []string{"b", "c", "d"}, b.whole("a", "b", "c", "d"), "what is needed last goes")
	require.ErrorIs(t, b.cache.Prefetch(t.Context(), "b", "e", 0), cache.ErrNoRoom)
	assert.Equal(t, []string{"b", "c", "d"}, b.whole("b", "c", "d"), "nothing that is needed sooner goes")
	b.mustRead("e")
	assert.Equal(t, []string{"b", "d", "e"}, b.whole("b", "c", "d", "e"), "but somebody waits for it")
}

func TestPinnedStay(t *testing.T) {
	b := newBed(t, withQuota(2*mebi, "keep/*"))
	b.put("keep/a", "keep/b", "c")
	b.mustRead("keep/a")
	b.mustRead("keep/b")
	for range 2 { // passed through, each time
		want := b.remote.Data("c")
		assert.True(t, bytes.Equal(want, b.mustRead("c")))
	}
	assert.Equal(t, 3, b.remote.Calls("open", "c"), "two reads, and a fetch that found no room, as its size was not known")
	assert.Equal(t, []string{"keep/a", "keep/b"}, b.whole("keep/a", "keep/b", "c"))
	_, err := b.cache.Evict(t.Context(), "b", "keep/a")
	require.ErrorIs(t, err, cache.ErrPinned)
	_, _, err = b.cache.Whole(t.Context(), b.bucket, "c")
	require.ErrorContains(t, err, "quota")
}

func TestEvictKeepsOwnObjects(t *testing.T) {
	b := newBed(t, nil)
	_, err := b.store.Put(t.Context(), "b", "own", bytes.NewReader([]byte("x")), store.PutOptions{Size: 1})
	require.NoError(t, err)
	b.put("a")
	b.mustRead("a")
	_, err = b.cache.Evict(t.Context(), "b", "own")
	require.ErrorIs(t, err, store.ErrSole)
	n, err := b.cache.Evict(t.Context(), "b", "a")
	require.NoError(t, err)
	assert.EqualValues(t, mebi, n)
	n, err = b.cache.MakeRoom(t.Context(), 100*mebi, "")
	require.NoError(t, err)
	assert.Zero(t, n)
	assert.Equal(t, "whole", b.kind("own"))
	assert.Equal(t, "stub", b.kind("a"))
}

func TestRefetchMustGiveTheSameBytes(t *testing.T) {
	b := newBed(t, nil)
	b.put("a")
	b.mustRead("a")
	before, err := b.store.Stat("b", "a")
	require.NoError(t, err)
	_, err = b.cache.Evict(t.Context(), "b", "a")
	require.NoError(t, err)
	b.remote.Flip("a") // under the same tag
	_, _, err = b.read("a")
	require.ErrorContains(t, err, "has changed")
	assert.Equal(t, "nothing", b.kind("a"))
	assert.True(t, bytes.Equal(b.remote.Data("a"), b.mustRead("a")), "what there is now is another version")
	after, err := b.store.Stat("b", "a")
	require.NoError(t, err)
	assert.NotEqual(t, before.ETag(), after.ETag())
}

func TestCorruptObjectIsReadOnceMore(t *testing.T) {
	b := newBed(t, nil)
	b.put("a")
	times := 0
	b.remote.Fault = func(op, name string, off int64) error {
		if op == "read" && off > mebi-100<<10 && times < 1 {
			times++
			return b.remote.Failure(op, name, backend.Corrupt)
		}
		return nil
	}
	object, hit, err := b.cache.Whole(t.Context(), b.bucket, "a")
	require.NoError(t, err)
	assert.False(t, hit)
	require.NoError(t, object.Close())
}

func TestManyEvictionsKeepWithinTheQuota(t *testing.T) {
	b := newBed(t, withQuota(5*mebi))
	keys := make([]string, 20)
	for i := range keys {
		keys[i] = fmt.Sprintf("k%02d", i)
	}
	b.put(keys...)
	for range 2 {
		for _, key := range keys {
			b.mustRead(key)
			assert.LessOrEqual(t, len(b.whole(keys...)), 5)
		}
	}
	stats := b.cache.Stats()
	assert.EqualValues(t, 35, stats.Evictions["quota"])
	assert.EqualValues(t, 40*mebi, stats.BackendBytes)
	assert.EqualValues(t, 5*mebi, stats.CachedBytes)
	assert.Zero(t, stats.WastedBytes)
}

func TestReaderKeepsWhatIsEvicted(t *testing.T) {
	b := newBed(t, nil)
	b.put("a")
	want := b.mustRead("a")
	object, _, err := b.cache.Get(t.Context(), b.bucket, "a")
	require.NoError(t, err)
	_, err = b.cache.Evict(t.Context(), "b", "a")
	require.NoError(t, err)
	got, err := io.ReadAll(io.NewSectionReader(object, 0, mebi))
	require.NoError(t, err)
	assert.True(t, bytes.Equal(want, got))
	require.NoError(t, object.Close())
}

func TestObjectReplacesItsFormerVersionWithinTheQuota(t *testing.T) {
	b := newBed(t, func(b *api.Backend) { b.Quota, b.Check = 3*mebi, api.CheckAlways })
	for seed := range uint64(3) {
		b.remote.Set("a", backendtest.Bytes(seed, 2*mebi))
		b.mustRead("a")
		data, hit, err := b.read("a")
		require.NoError(t, err)
		assert.True(t, hit)
		assert.True(t, bytes.Equal(backendtest.Bytes(seed, 2*mebi), data))
	}
}

// Nothing gives way to what is fetched into spare room; once somebody waits for it, it does.
func TestSpareRoomIsAllThatAGuessTakes(t *testing.T) {
	b := newBed(t, withQuota(2*mebi))
	b.put("a", "b", "c")
	b.mustRead("a")
	described := func(key string) uint64 {
		infos, err := b.cache.Describe(t.Context(), b.bucket, []backend.Entry{b.entry(key)}, nil)
		require.NoError(t, err)
		return infos[0].Version
	}
	require.NoError(t, b.cache.PrefetchSpare(t.Context(), "b", "b", described("b")))
	require.ErrorIs(t, b.cache.PrefetchSpare(t.Context(), "b", "c", described("c")), cache.ErrNoRoom)
	assert.Equal(t, []string{"a", "b"}, b.whole("a", "b", "c"))
	assert.Zero(t, b.remote.Calls("open", "c"), "nothing is read for which there is no room")
	object, err := b.cache.OpenVersion(t.Context(), "b", "c", described("c"))
	require.NoError(t, err)
	require.NoError(t, object.Close())
	assert.Equal(t, []string{"b", "c"}, b.whole("a", "b", "c"))
}

// Whoever waits for an object that is being fetched into spare room follows that fetch.
func TestReaderFollowsAFetchIntoSpareRoom(t *testing.T) {
	b := newBed(t, withQuota(2*mebi))
	b.put("a")
	infos, err := b.cache.Describe(t.Context(), b.bucket, []backend.Entry{b.entry("a")}, nil)
	require.NoError(t, err)
	began, goOn := make(chan struct{}), make(chan struct{})
	b.remote.Fault = func(op, _ string, off int64) error {
		if op == "open" && off == 0 {
			close(began)
			<-goOn
		}
		return nil
	}
	var wait sync.WaitGroup
	wait.Go(func() { assert.NoError(t, b.cache.PrefetchSpare(t.Context(), "b", "a", infos[0].Version)) })
	<-began
	wait.Go(func() {
		object, err := b.cache.OpenVersion(t.Context(), "b", "a", infos[0].Version)
		if assert.NoError(t, err) {
			data, err := io.ReadAll(io.NewSectionReader(object, 0, mebi))
			assert.NoError(t, err)
			assert.True(t, bytes.Equal(b.remote.Data("a"), data))
			assert.NoError(t, object.Close())
		}
	})
	close(goOn)
	wait.Wait()
	assert.Equal(t, 1, b.remote.Calls("open", "a"))
}
