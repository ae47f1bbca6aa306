package copies_test

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/copies"
	"github.com/shardstream/shardstream/cluster/placement"
	"github.com/shardstream/shardstream/core/archive"
	"github.com/shardstream/shardstream/core/store"
)

// shard is a tar of some samples, and its index as a scan gives it.
func shard(t testing.TB) ([]byte, *archive.Index) {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := range 20 {
		require.NoError(t, w.WriteHeader(&tar.Header{Name: fmt.Sprintf("%03d.jpg", i), Size: 1000, Mode: 0o644}))
		_, err := w.Write(pattern(1000))
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	data := bytes.NewReader(b.Bytes())
	read := func(_ context.Context, p []byte, off int64) (int, error) { return data.ReadAt(p, off) }
	x, err := archive.Scan(t.Context(), read, int64(b.Len()), archive.ScanOptions{})
	require.NoError(t, err)
	return b.Bytes(), x
}

// described is the description of an object that its origin has, as a target that has not read it has it.
func described(key string, version uint64, size int, x *archive.Index) store.Info {
	i := copyOf(key, version, nil)
	i.Kind, i.Size, i.XXH3, i.CRC32 = store.Stub, int64(size), 0, 0
	i.Meta = map[string]string{store.OriginTag: "tag of " + key, store.UnreadMark: "1"}
	if x != nil {
		i.Archive, i.Members, i.Samples, i.MaxSample = archive.Tar, int64(x.NumMembers()), int64(x.NumSamples()), x.MaxSample()
	}
	return i
}

// holds fetches what a target has of an object: its description, and the bytes that come with it.
func holds(t testing.TB, client *copies.Client, node api.Node, i store.Info) (store.Info, []byte, error) {
	t.Helper()
	info, body, err := client.Fetch(t.Context(), node, i.Bucket, i.Name, i.Version)
	if err != nil {
		return info, nil, err
	}
	defer func() { _ = body.Close() }()
	data, err := io.ReadAll(body)
	require.NoError(t, err)
	return info, data, nil
}

// TestMarks: what the store keeps among an object's metadata is what the API names so, and users can't set it.
func TestMarks(t *testing.T) {
	assert.Equal(t, api.OriginTag, store.OriginTag)
	for _, mark := range []string{store.OriginTag, store.UnreadMark, store.UnindexedMark} {
		assert.True(t, api.IsReservedMeta(mark), mark)
	}
}

// TestDescriptionsTravel: what is known of an object whose bytes are at its origin is given to others with its member index,
// and goes where the object belongs when the set of targets changes. So does a cached copy.
func TestDescriptionsTravel(t *testing.T) {
	cluster := mirrored(t, 2, 1)
	data, x := shard(t)
	stored, err := x.MarshalBinary()
	require.NoError(t, err)
	all := map[string]store.Info{}
	var version int64 // of the map
	client := copies.NewClient("another", func() int64 { return version })
	t.Cleanup(client.Close)
	give := func(key string, at func(version uint64) (store.Info, []byte)) {
		var nodes []api.Node
		nodes, version = list(t, cluster, key, 1)
		i, body := at(placement.FirstVersion(version) + 1<<30)
		require.NoError(t, client.Put(t.Context(), nodes[0], i, bytes.NewReader(body)))
		all[key] = i
	}
	for n := range 8 {
		give(fmt.Sprintf("%d.tar", n), func(v uint64) (store.Info, []byte) {
			return described(fmt.Sprintf("%d.tar", n), v, len(data), x), stored
		})
		give(fmt.Sprintf("%d.jpg", n), func(v uint64) (store.Info, []byte) { return described(fmt.Sprintf("%d.jpg", n), v, 100, nil), nil })
		give(fmt.Sprintf("%d.whole", n), func(v uint64) (store.Info, []byte) {
			i := copyOf(fmt.Sprintf("%d.whole", n), v, data)
			i.Meta = map[string]string{store.OriginTag: "t"}
			return i, data
		})
	}
	check := func() {
		t.Helper()
		for key, want := range all {
			var nodes []api.Node
			nodes, version = list(t, cluster, key, 1)
			got, body, err := holds(t, client, nodes[0], want)
			require.NoError(t, err, key)
			assert.Equal(t, []any{want.Kind, want.Size, want.Samples, want.MaxSample, want.Meta, want.ETag()},
				[]any{got.Kind, got.Size, got.Samples, got.MaxSample, got.Meta, got.ETag()}, key)
			switch {
			case want.Kind == store.Whole:
				assert.Equal(t, data, body)
			case want.Samples > 0:
				assert.Equal(t, stored, body)
			default:
				assert.Empty(t, body)
			}
			states, err := client.Have(t.Context(), nodes[0], "m", []string{key})
			require.NoError(t, err)
			assert.Equal(t, copies.StateOf(want), states[0])
			assert.Equal(t, want.ETag(), states[0].ETag())
			assert.True(t, states[0].Elsewhere())
		}
	}
	check()
	cluster.AddTarget()
	cluster.Await("all is where it belongs", func() bool {
		for key, want := range all {
			var nodes []api.Node
			nodes, version = list(t, cluster, key, 1)
			states, err := client.Have(t.Context(), nodes[0], "m", []string{key})
			if err != nil || states[0].Version != want.Version {
				return false
			}
		}
		return true
	})
	check()
}

// TestADamagedCachedCopyIsNoLoss: it is put aside, and the description of it remains.
func TestADamagedCachedCopyIsNoLoss(t *testing.T) {
	cluster := mirrored(t, 2, 1)
	nodes, version := list(t, cluster, "x", 1)
	client := peer(t, "another", version)
	data := pattern(200_000)
	i := copyOf("x", placement.FirstVersion(version)+1<<30, data)
	i.Meta = map[string]string{store.OriginTag: "t"}
	require.NoError(t, client.Put(t.Context(), nodes[0], i, bytes.NewReader(data)))
	location, err := cluster.Client.Locate(t.Context(), "m", "x")
	require.NoError(t, err)
	flip(t, location.Copies[0].Files[0], 100_000)
	_, err = cluster.Client.GetObject(t.Context(), "m", "x", api.GetOptions{})
	require.Error(t, err)
	states, err := client.Have(t.Context(), nodes[0], "m", []string{"x"})
	require.NoError(t, err)
	want := copies.StateOf(i)
	want.Kind = store.Stub
	assert.Equal(t, want, states[0])
	require.NoError(t, client.Put(t.Context(), nodes[0], i, bytes.NewReader(data)))
	assert.Equal(t, data, get(t, cluster, "x"))
}
