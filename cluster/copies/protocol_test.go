package copies_test

import (
	"bytes"
	"context"
	"hash/crc32"
	"math"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/zeebo/xxh3"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/clustertest"
	"github.com/shardstream/shardstream/cluster/copies"
	"github.com/shardstream/shardstream/cluster/placement"
	"github.com/shardstream/shardstream/core/store"
)

// list are the targets that are to have an object, its primary first, by the map as it is.
func list(t testing.TB, c *clustertest.Cluster, key string, n int) (nodes []api.Node, version int64) {
	t.Helper()
	placer, err := c.Client.RefreshMap(t.Context())
	require.NoError(t, err)
	plan := placer.Plan("m", key, n)
	for _, id := range plan.Copies {
		node, ok := placer.Node(id)
		require.True(t, ok)
		nodes = append(nodes, node)
	}
	return nodes, placer.Map.Version
}

// peer speaks to targets as another target would, by a version of the map.
func peer(t testing.TB, id string, version int64) *copies.Client {
	t.Helper()
	client := copies.NewClient(id, func() int64 { return version })
	t.Cleanup(client.Close)
	return client
}

func copyOf(key string, version uint64, data []byte) store.Info {
	return store.Info{
		Bucket: "m", Name: key, Version: version, Size: int64(len(data)), XXH3: xxh3.Hash(data), CRC32: crc32.ChecksumIEEE(data),
		Created: time.Now(), Meta: map[string]string{"from": "räd \xff"},
	}
}

// A write that was broken off may be on one target alone. Once a read has shown it, it may not be gone with that one.
func TestWhatWasShownStays(t *testing.T) {
	cluster := mirrored(t, 3, 2)
	put(t, cluster, "x", []byte("acknowledged"))
	nodes, version := list(t, cluster, "x", 2)
	broken := copyOf("x", placement.FirstVersion(version)+1<<30, []byte("broken off"))
	require.NoError(t, peer(t, nodes[0].ID, version).Put(t.Context(), nodes[1], broken, bytes.NewReader([]byte("broken off"))))
	require.Equal(t, "acknowledged", string(get(t, cluster, "x")), "it is not on all targets")

	primary, replica := cluster.Target(nodes[0].ID), cluster.Target(nodes[1].ID)
	primary.Stop()
	require.Equal(t, "broken off", string(get(t, cluster, "x")))
	replica.Stop()
	primary.Start()
	require.Equal(t, "broken off", string(get(t, cluster, "x")), "after it was shown once")
	replica.Start()
	require.Equal(t, "broken off", string(get(t, cluster, "x")))
}

// What another target brings to an object's primary is shown when all others have it, and not before.
func TestAPrimaryTakesACopyLast(t *testing.T) {
	cluster := mirrored(t, 3, 3)
	put(t, cluster, "x", []byte("old"))
	nodes, version := list(t, cluster, "x", 3)
	data := []byte("new")
	newer := copyOf("x", placement.FirstVersion(version)+1<<30, data)
	client := peer(t, nodes[1].ID, version)
	require.NoError(t, client.Put(t.Context(), nodes[1], newer, bytes.NewReader(data)))
	require.NoError(t, client.Put(t.Context(), nodes[0], newer, bytes.NewReader(data)))
	for _, n := range nodes {
		states, err := client.Have(t.Context(), n, "m", []string{"x", "nothing"})
		require.NoError(t, err)
		assert.Equal(t, []copies.State{copies.StateOf(newer), {}}, states, n.ID)
		info, body, err := client.Fetch(t.Context(), n, "m", "x", newer.Version)
		require.NoError(t, err)
		_ = body.Close()
		assert.Equal(t, newer.Meta, info.Meta)
	}
	assert.Equal(t, "new", string(get(t, cluster, "x")))
	_, _, err := client.Fetch(t.Context(), nodes[0], "m", "x", newer.Version+1)
	assert.True(t, copies.Is(err, api.CodeChanged), "%v", err)
	err = client.Bury(t.Context(), nodes[1], "m", "x", newer.Version-1)
	assert.True(t, copies.Is(err, api.CodeSuperseded), "%v", err)
}

func TestWhoGoesByAnOlderMapIsRefused(t *testing.T) {
	cluster := mirrored(t, 3, 2)
	put(t, cluster, "x", []byte("x"))
	nodes, version := list(t, cluster, "x", 2)
	info := copyOf("x", placement.FirstVersion(version)+1<<30, []byte("late"))
	old := peer(t, nodes[0].ID, version-1)
	err := old.Put(t.Context(), nodes[1], info, bytes.NewReader([]byte("late")))
	assert.True(t, copies.Is(err, api.CodeStaleMap), "%v", err)
	err = old.Bury(t.Context(), nodes[1], "m", "x", info.Version)
	assert.True(t, copies.Is(err, api.CodeStaleMap), "%v", err)
	_, err = old.Have(t.Context(), nodes[1], "m", []string{"x"})
	assert.True(t, copies.Is(err, api.CodeStaleMap), "%v", err)

	// A target that is told of a newer map decides nothing for who told it until it has it. One that was made up keeps it
	// from its work no longer than until it has asked the control plane.
	for _, made := range []int64{version + 1, math.MaxInt64} {
		ahead := peer(t, nodes[1].ID, made)
		_, err = ahead.Have(t.Context(), nodes[0], "m", []string{"x"})
		require.True(t, copies.Is(err, api.CodeUnavailable), "%v", err)
		cluster.Await("the target is back at work", func() bool {
			response, err := http.Get("http://" + nodes[0].Addr + api.ObjectPath("m", "x")) //nolint:noctx // a test's
			if err != nil {
				return false
			}
			_ = response.Body.Close()
			return response.StatusCode == http.StatusOK
		})
		_, err = ahead.Have(t.Context(), nodes[0], "m", []string{"x"})
		require.True(t, copies.Is(err, api.CodeUnavailable), "%v", err)
		_, err = peer(t, nodes[1].ID, version).Have(t.Context(), nodes[0], "m", []string{"x"})
		require.NoError(t, err)
	}
}

// A staged body is no object, and gone when it is given up.
func TestStaging(t *testing.T) {
	cluster := mirrored(t, 3, 2)
	nodes, version := list(t, cluster, "x", 2)
	client := peer(t, nodes[0].ID, version)
	data := []byte("staged")
	about := store.Info{Bucket: "m", Name: "x", Size: -1}
	for _, id := range []string{"1", "2"} {
		staged, err := client.Stage(t.Context(), nodes[1], id, about, bytes.NewReader(data))
		require.NoError(t, err)
		assert.Equal(t, copies.Staged{Size: 6, XXH3: xxh3.Hash(data), CRC32: crc32.ChecksumIEEE(data)}, staged)
	}
	states, err := client.Have(t.Context(), nodes[1], "m", []string{"x"})
	require.NoError(t, err)
	assert.Zero(t, states[0])
	require.NoError(t, client.Discard(t.Context(), nodes[1], "2"))
	commit := copies.Commit{Stage: "2", Bucket: "m", Name: "x", Version: placement.FirstVersion(version) + 1, Created: time.Now()}
	require.Error(t, client.Commit(t.Context(), nodes[1], commit))
	commit.Stage = "1"
	require.NoError(t, client.Commit(t.Context(), nodes[1], commit))
	require.NoError(t, client.Commit(t.Context(), nodes[1], commit), "said twice")
	require.NoError(t, client.Discard(t.Context(), nodes[1], "1"))
	states, err = client.Have(t.Context(), nodes[1], "m", []string{"x"})
	require.NoError(t, err)
	assert.Equal(t, copies.State{Version: commit.Version, Size: 6, XXH3: xxh3.Hash(data)}, states[0])
}

// Damage is mended from another copy before a byte is served.
func TestDamageIsMendedByARead(t *testing.T) {
	cluster := mirrored(t, 3, 2)
	for _, c := range []struct {
		name     string
		size, at int
	}{{"small", 1000, 500}, {"first piece", 6 << 20, 100}, {"late", 6 << 20, 5 << 20}} {
		t.Run(c.name, func(t *testing.T) {
			data := content(c.name, 0, c.size)
			put(t, cluster, c.name, data)
			location, err := cluster.Client.Locate(t.Context(), "m", c.name)
			require.NoError(t, err)
			nodes, _ := list(t, cluster, c.name, 2)
			for _, copy := range location.Copies {
				if copy.Node == nodes[0].ID {
					flip(t, copy.Files[0], int64(c.at))
				}
			}
			require.Equal(t, data, get(t, cluster, c.name))
			local, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+nodes[0].Addr+api.ObjectPath("m", c.name)+"?local=true", http.NoBody)
			require.NoError(t, err)
			response, err := http.DefaultTransport.RoundTrip(local)
			require.NoError(t, err)
			defer func() { _ = response.Body.Close() }()
			var body bytes.Buffer
			_, err = body.ReadFrom(response.Body)
			require.NoError(t, err)
			assert.Equal(t, data, body.Bytes(), "the primary's own copy")
		})
	}
}

func flip(t testing.TB, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	var b [1]byte
	_, err = f.ReadAt(b[:], at)
	require.NoError(t, err)
	b[0] ^= 1
	_, err = f.WriteAt(b[:], at)
	require.NoError(t, err)
}

func TestTooFewTargets(t *testing.T) {
	cluster := mirrored(t, 2, 2)
	yes, two := true, 2
	_, err := cluster.Client.CreateBucketWith(t.Context(), "degraded", api.BucketChange{Mirror: &two, Degraded: &yes})
	require.NoError(t, err)
	put(t, cluster, "x", []byte("1"))
	cluster.Targets[0].Stop()
	cluster.Await("the target is given up", func() bool {
		m, err := cluster.Client.RefreshMap(context.Background())
		return err == nil && m.Map.Nodes[1].Away
	})
	_, err = cluster.Client.PutObject(t.Context(), "m", "x", bytes.NewReader([]byte("2")), 1, api.PutOptions{})
	require.ErrorContains(t, err, api.CodeTooFew)
	require.ErrorContains(t, err, "takes 2 targets and 1 are up")
	require.Equal(t, "1", string(get(t, cluster, "x")))

	request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+cluster.Targets[1].Addr()+api.ObjectPath("degraded", "x"), bytes.NewReader([]byte("3")))
	require.NoError(t, err)
	response, err := http.DefaultTransport.RoundTrip(request)
	require.NoError(t, err)
	_ = response.Body.Close()
	assert.Equal(t, http.StatusOK, response.StatusCode)
	assert.Equal(t, "1/2", response.Header.Get(api.HeaderDegraded))
}
