package cache_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/backend"
	"github.com/shardstream/shardstream/core/backend/backendtest"
	"github.com/shardstream/shardstream/core/store"
)

func tarball(t *testing.T, members, size int) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for i := range members {
		require.NoError(t, w.WriteHeader(&tar.Header{Name: fmt.Sprintf("%04d.bin", i), Size: int64(size), Mode: 0o600}))
		_, err := w.Write(backendtest.Bytes(uint64(i), size))
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return out.Bytes()
}

func TestDescribeReadsHeadersOnly(t *testing.T) {
	b := newBed(t, nil)
	whole := tarball(t, 10, 300_000)
	entries := []backend.Entry{b.remote.Set("s.tar", whole), b.remote.Set("plain", backendtest.Bytes(1, mebi))}
	for range 2 { // the second time nothing is asked
		infos, err := b.cache.Describe(t.Context(), b.bucket, entries, nil)
		require.NoError(t, err)
		assert.EqualValues(t, 10, infos[0].Samples)
		assert.EqualValues(t, 300_000, infos[0].MaxSample)
		assert.Equal(t, store.Stub, infos[0].Kind)
		assert.EqualValues(t, mebi, infos[1].Size)
		assert.Zero(t, b.remote.Calls("open", "plain"))
		assert.LessOrEqual(t, b.remote.Calls("open", "s.tar"), 12)
	}
	assert.Less(t, b.cache.Stats().BackendBytes, int64(100_000))

	described, err := b.store.Stat("b", "s.tar")
	require.NoError(t, err)
	object, err := b.cache.OpenVersion(t.Context(), "b", "s.tar", described.Version)
	require.NoError(t, err)
	assert.Equal(t, described.Version, object.Info().Version)
	assert.Equal(t, described.ETag(), object.Info().ETag())
	require.NoError(t, object.Close())
	infos, err := b.cache.Describe(t.Context(), b.bucket, entries, nil)
	require.NoError(t, err)
	assert.Equal(t, store.Whole, infos[0].Kind)
	assert.EqualValues(t, 10, infos[0].Samples)
}

func TestDescribedVersionThatHasChanged(t *testing.T) {
	b := newBed(t, nil)
	infos, err := b.cache.Describe(t.Context(), b.bucket, []backend.Entry{b.remote.Set("s.tar", tarball(t, 3, 1000))}, nil)
	require.NoError(t, err)
	next := b.remote.Set("s.tar", tarball(t, 4, 1000))
	_, err = b.cache.OpenVersion(t.Context(), "b", "s.tar", infos[0].Version)
	require.ErrorContains(t, err, "changed")
	var answer *api.Error
	if assert.ErrorAs(t, err, &answer) {
		assert.Equal(t, api.CodeChanged, answer.Code)
	}
	after, err := b.cache.Describe(t.Context(), b.bucket, []backend.Entry{next}, nil)
	require.NoError(t, err)
	assert.Greater(t, after[0].Version, infos[0].Version)
	assert.EqualValues(t, 4, after[0].Samples)
	require.NoError(t, b.cache.Prefetch(t.Context(), "b", "s.tar", after[0].Version))
	_, err = b.cache.OpenVersion(t.Context(), "b", "s.tar", after[0].Version)
	require.NoError(t, err)
}

func TestBrokenArchiveIsAnErrorToDescribeAndBytesToRead(t *testing.T) {
	b := newBed(t, nil)
	broken := tarball(t, 3, 1000)[:1500]
	e := b.remote.Set("s.tar", broken)
	_, err := b.cache.Describe(t.Context(), b.bucket, []backend.Entry{e}, nil)
	require.Error(t, err)
	assert.True(t, bytes.Equal(broken, b.mustRead("s.tar")))
	data, hit, err := b.read("s.tar")
	require.NoError(t, err)
	assert.True(t, hit)
	assert.True(t, bytes.Equal(broken, data))
}

func TestFetchAndDescribeAtOnceAgreeOnTheVersion(t *testing.T) {
	b := newBed(t, nil)
	e := b.remote.Set("s.tar", tarball(t, 5, 300_000))
	rest := make(chan struct{})
	b.remote.Fault = func(op, _ string, off int64) error {
		if op == "read" && off >= 1<<20 {
			select {
			case <-rest:
			case <-t.Context().Done():
			}
		}
		return nil
	}
	_, reading, err := b.cache.Get(t.Context(), b.bucket, "s.tar")
	require.NoError(t, err)
	close(rest)
	infos, err := b.cache.Describe(t.Context(), b.bucket, []backend.Entry{e}, nil)
	require.NoError(t, err)
	assert.Equal(t, reading.Info.Version, infos[0].Version)
	b.await("it is here", func() bool { return b.kind("s.tar") == "whole" })
	require.NoError(t, reading.Body.Close())
	info, err := b.store.Stat("b", "s.tar")
	require.NoError(t, err)
	assert.Equal(t, infos[0].Version, info.Version)
}

func TestDescribingAgainWhatAListingTellsLittleOf(t *testing.T) {
	b := newBed(t, nil)
	b.put("a", "c.bin")
	entries := []backend.Entry{{Name: "a", Size: -1}, {Name: "c.bin", Size: -1}}
	first, err := b.cache.Describe(t.Context(), b.bucket, entries, nil)
	require.NoError(t, err)
	again, err := b.cache.Describe(t.Context(), b.bucket, entries, nil)
	require.NoError(t, err)
	for i := range entries {
		assert.EqualValues(t, mebi, again[i].Size)
		assert.Equal(t, first[i].ETag(), again[i].ETag())
	}
}

// However many archives there are, each is told of once, and one that fails ends all.
func TestDescribeTellsOfEachArchive(t *testing.T) {
	b := newBed(t, nil)
	var entries []backend.Entry
	for i := range 100 {
		entries = append(entries, b.remote.Set(fmt.Sprintf("%03d.tar", i), tarball(t, 1, 10)))
	}
	var mu sync.Mutex
	told := map[string]uint64{}
	each := func(info *store.Info) {
		mu.Lock()
		defer mu.Unlock()
		assert.NotContains(t, told, info.Name)
		told[info.Name] = info.Version
	}
	infos, err := b.cache.Describe(t.Context(), b.bucket, append(entries, b.remote.Set("plain", []byte("x"))), each)
	require.NoError(t, err)
	require.Len(t, infos, 101)
	assert.Len(t, told, 100)
	for i := range entries {
		assert.Equal(t, infos[i].Version, told[entries[i].Name])
	}
	bad := b.remote.Set("bad.tar", []byte("no archive, but long enough to be taken for a header of one"))
	for i := range entries {
		entries[i] = b.remote.Set(entries[i].Name, tarball(t, 2, 10))
	}
	_, err = b.cache.Describe(t.Context(), b.bucket, append([]backend.Entry{bad}, entries...), nil)
	require.Error(t, err)
}
